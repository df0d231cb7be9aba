"""The command `model-builder`."""

import hashlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from asr_contract.errors import BuilderError, MissingExtraError, WorkFolderError
from asr_contract.recipe import Engine, Frontend, Precision, Wire
from asr_contract.server import GRPC_PORT, HTTP_PORT, METRICS_PORT
from model_builder import __doc__ as description
from model_builder import environment, stop
from model_builder.progress import JsonReporter, Reporter, RichReporter

app = typer.Typer(
    name="model-builder",
    help=f"{description}\n\nExit codes: 0 success, 2 wrong usage, 10 source not available, 11 checkpoint not readable, "
    "12 checkpoint not supported, 13 check audio not usable, 20 rejected (does not transcribe like the checkpoint), "
    "21 TensorRT cannot build the plan, 30 storage failed, 31 artifact missing or altered, 32 folder not usable, "
    "33 plan of another GPU product or TensorRT, 34 overrides that do not fit, "
    "40 Triton failed, 41 packages missing, 42 no usable GPU, "
    "130 interrupted by Ctrl-C, 143 by SIGTERM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class EngineChoice(StrEnum):
    """Runtime of the acoustic model."""

    onnx = "onnx"
    tensorrt = "tensorrt"
    both = "both"


class PrecisionChoice(StrEnum):
    """Type of weights and activations."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class FrontendChoice(StrEnum):
    """What computes the features."""

    numpy = "numpy"
    nemo = "nemo"


class WireChoice(StrEnum):
    """Encoding of the audio on the wire."""

    pcm16 = "pcm16"
    float32 = "float32"
    float64 = "float64"


ENGINES = {
    EngineChoice.onnx: Engine.ONNX_RUNTIME,
    EngineChoice.tensorrt: Engine.TENSORRT,
    EngineChoice.both: Engine.BOTH,
}
TERMINATION_BYTES = 4096
CONTINUES = "interrupted; the next run continues"
MAX_SHAPE_SECONDS, MAX_SHAPE_BATCH = 640, 512
"""Of `--shape`: what a recipe allows, and the padding of its longest audio."""
FRONTENDS = {FrontendChoice.numpy: Frontend.NUMPY, FrontendChoice.nemo: Frontend.NEMO}

GATE = "What is published"
"""Options that have a table of their own in the help: among the others these long names would be cut."""
Json = Annotated[bool, typer.Option("--json", help="Log as JSON lines, for pods.")]


def _writable(path: Path | None) -> Path | None:
    """Refuse at the start what would fail only when all is done."""
    try:
        if path is not None:
            path.open("ab").close()
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written: {error.strerror}") from error
    return path


TerminationLog = Annotated[
    Path | None,
    typer.Option(
        help="Write the result as JSON to this file, such as a pod's /dev/termination-log.",
        dir_okay=False,
        callback=_writable,
    ),
]

Verify = Annotated[bool, typer.Option("--verify", help="Read every byte of an artifact that was published before.")]
GpuProduct = Annotated[
    str | None,
    typer.Option(help="GPU product as nodes are labelled, such as NVIDIA-L4; refuse any other.", show_default=False),
]
ComputeCapability = Annotated[
    str | None,
    typer.Option(
        help="Its compute capability, such as 8.9; refuse any other. Needs --gpu-product.", show_default=False
    ),
]


def _default_work() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "asr-operator" / "work"


@app.command()
def build(
    *,
    source: Annotated[
        str,
        typer.Option(help="Checkpoint: a path, hf:owner/name@revision, or s3://bucket/model.nemo.", show_default=False),
    ],
    storage: Annotated[
        str,
        typer.Option(
            help="Where to publish: s3://bucket/prefix, file:///folder, ... Credentials come from the environment."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the model in Triton, such as english_stt or parakeet-ctc-0.6b.",
            show_default="the source's, as hf:owner/NAME or NAME.nemo",
        ),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Refuse any checkpoint file but this one.", metavar="HEX", show_default=False)
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for intermediate files and report.json.", show_default="a cache folder")
    ] = None,
    engine: Annotated[
        EngineChoice,
        typer.Option(
            metavar="NAME",
            help="Runtime of the acoustic model: onnx, tensorrt or both. Plans need a GPU; see the command plan.",
            case_sensitive=False,
        ),
    ] = EngineChoice.onnx,
    precision: Annotated[
        PrecisionChoice | None,
        typer.Option(
            metavar="TYPE",
            help="fp32, fp16 or bf16. Features, softmax and lengths stay fp32.",
            show_default="fp32 for onnx, fp16 for TensorRT plans",
            case_sensitive=False,
        ),
    ] = None,
    frontend: Annotated[
        FrontendChoice,
        typer.Option(
            metavar="NAME",
            help="numpy: mel features inside the graph. nemo: NeMo's preprocessor, needs NeMo in the serving image.",
            case_sensitive=False,
        ),
    ] = FrontendChoice.numpy,
    wire: Annotated[
        WireChoice,
        typer.Option(
            metavar="TYPE",
            help="Encoding of the audio that clients send: pcm16, float32 or float64.",
            case_sensitive=False,
        ),
    ] = WireChoice.pcm16,
    max_batch_size: Annotated[int, typer.Option(help="Largest batch at the acoustic model.")] = 32,
    max_audio_seconds: Annotated[int, typer.Option(help="Longest utterance that is served.")] = 40,
    check_audio: Annotated[
        str | None,
        typer.Option(
            help="Folder, or s3://bucket/folder, of WAV or FLAC files to check with, and transcripts.json if known.",
            rich_help_panel=GATE,
            show_default="a set that ships with the package",
        ),
    ] = None,
    max_wer_increase_permille: Annotated[
        int,
        typer.Option(help="Reject above this word error rate over the checkpoint's.", rich_help_panel=GATE),
    ] = 5,
    min_token_agreement_permille: Annotated[
        int,
        typer.Option(help="Reject below this share of tokens like the checkpoint's.", rich_help_panel=GATE),
    ] = 990,
    verify: Verify = False,
    json_log: Json = False,
    termination_log: TerminationLog = None,
) -> None:
    """Build a checkpoint into a checked Triton model repository and publish it.

    The last line on standard output is the artifact's URI. A build that was published before is found, not repeated.

    Example: model-builder build --source english.nemo --name english_stt --storage s3://asr-models/prod
    """
    from model_builder import pipeline, plan_pipeline  # noqa: PLC0415
    from model_builder.stages import check_audio as check_audio_stage  # noqa: PLC0415

    with_plan = ENGINES[engine].has_plan
    if precision is PrecisionChoice.bf16 and not with_plan:
        raise typer.BadParameter("bf16 is for TensorRT plans", param_hint="--precision")
    with _errors_told(termination_log, json_log=json_log, interrupted=CONTINUES), ExitStack() as held:
        environment.use_writable_folders()
        name = name or pipeline.name_of(source)
        folder = work or _default_work() / name
        if with_plan:
            plan_pipeline.check_machine()  # before the checkpoint is exported in vain
        audio = held.enter_context(check_audio_stage.brought(check_audio, folder, _reporter(json_log=json_log)))
        published = pipeline.build(
            pipeline.Options(
                source=source,
                name=name,
                storage=storage,
                work=folder / "onnx" if with_plan else folder,
                sha256=sha256,
                precision=Precision.FP32 if with_plan or precision is None else Precision(precision.upper()),
                frontend=FRONTENDS[frontend],
                wire=Wire(wire.upper()),
                max_batch_size=max_batch_size,
                max_audio_seconds=max_audio_seconds,
                check_audio=audio,
                max_wer_increase_permille=max_wer_increase_permille,
                min_token_agreement_permille=min_token_agreement_permille,
                verify=verify,
            ),
            _reporter(json_log=json_log),
        )
        if with_plan:
            published = plan_pipeline.build(
                plan_pipeline.Options(
                    artifact=published.uri,
                    manifest_sha256=published.manifest_sha256,
                    storage=storage,
                    work=folder,
                    engine=ENGINES[engine],
                    precision=Precision((precision or PrecisionChoice.fp16).upper()),
                    check_audio=audio,
                    verify=verify,
                ),
                _reporter(json_log=json_log),
            )
        _terminate(termination_log, published.summary())
        print(published.uri)  # noqa: T201 (the result)


@app.command()
def plan(
    artifact_uri: Annotated[str, typer.Argument(help="An OnnxRuntime artifact: what `build` printed.")],
    *,
    storage: Annotated[str, typer.Option(help="Where to publish, as for build.")],
    manifest_sha256: Annotated[
        str | None, typer.Option(help="Refuse any manifest of the artifact but this one.", metavar="HEX")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for intermediate files and report.json.", show_default="a cache folder")
    ] = None,
    engine: Annotated[
        EngineChoice,
        typer.Option(metavar="NAME", help="tensorrt, or both engines in one repository.", case_sensitive=False),
    ] = EngineChoice.tensorrt,
    precision: Annotated[
        PrecisionChoice,
        typer.Option(
            metavar="TYPE", help="fp32, fp16 or bf16. Features, softmax and lengths stay fp32.", case_sensitive=False
        ),
    ] = PrecisionChoice.fp16,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SxB",
            help="Seconds and batch that the plan is built for, such as 15x64; once for each length.",
            show_default="lengths up to the longest audio, batches for the memory of this GPU",
        ),
    ] = None,
    check_audio: Annotated[
        str | None,
        typer.Option(help="The folder that the artifact was checked with.", show_default="a set that ships"),
    ] = None,
    max_batch_milliseconds: Annotated[
        float, typer.Option(help="Shapes that take the GPU longer than this are not used.")
    ] = 100.0,
    quick: Annotated[bool, typer.Option("--quick", help="Measure less: for trying things out.")] = False,
    time_limit_seconds: Annotated[float, typer.Option(help="Give up the plan's build after this time.")] = 3600.0,
    workspace_gb: Annotated[
        float | None,
        typer.Option(help="GPU memory for one layer's scratch space.", show_default="all that is free"),
    ] = None,
    optimization_level: Annotated[
        int,
        typer.Option(
            help="TensorRT's: how many ways of computing each layer it tries. 3 takes three times as long, and gains "
            "nothing on an H100.",
            min=0,
            max=5,
            metavar="N",
        ),
    ] = 1,
    serving_tensorrt: Annotated[
        str | None,
        typer.Option(
            envvar="SERVING_TENSORRT",
            help="TensorRT of the serving image; refuse to build when it is not this builder's.",
            show_default="that of the Triton beside this builder",
        ),
    ] = None,
    gpu_product: GpuProduct = None,
    compute_capability: ComputeCapability = None,
    verify: Verify = False,
    json_log: Json = False,
    termination_log: TerminationLog = None,
) -> None:
    """Build TensorRT plans from a checked artifact on this GPU, check and measure them, and publish the repository.

    A plan runs on the GPU product and the TensorRT that built it, and nowhere else. NeMo is not needed.

    Example: model-builder plan s3://asr-models/prod/english_stt/<key> --storage s3://asr-models/prod
    """
    from model_builder import plan_pipeline, tensorrt  # noqa: PLC0415
    from model_builder.stages import check_audio as check_audio_stage  # noqa: PLC0415

    if not ENGINES[engine].has_plan:
        raise typer.BadParameter("a plan is for tensorrt, or for both", param_hint="--engine")
    _refuse_capability_alone(gpu_product, compute_capability)
    with _errors_told(termination_log, json_log=json_log, interrupted=CONTINUES), ExitStack() as held:
        environment.use_writable_folders()
        folder = work or _default_work() / f"plan-{artifact_uri.rstrip('/').rpartition('/')[2]}"
        audio = held.enter_context(check_audio_stage.brought(check_audio, folder, _reporter(json_log=json_log)))
        published = plan_pipeline.build(
            plan_pipeline.Options(
                artifact=artifact_uri,
                manifest_sha256=manifest_sha256,
                storage=storage,
                work=folder,
                engine=ENGINES[engine],
                precision=Precision(precision.upper()),
                shapes=tuple(_shape(text) for text in shape or ()),
                check_audio=audio,
                limits=tensorrt.Limits(
                    seconds=time_limit_seconds,
                    workspace=None if workspace_gb is None else int(workspace_gb * 1024**3),
                    optimization_level=optimization_level,
                ),
                max_batch_milliseconds=max_batch_milliseconds,
                quick=quick,
                serving_tensorrt=serving_tensorrt,
                gpu=None if gpu_product is None else (gpu_product, compute_capability),
                verify=verify,
            ),
            _reporter(json_log=json_log),
        )
        _terminate(termination_log, published.summary())
        print(published.uri)  # noqa: T201 (the result)


def _refuse_capability_alone(gpu_product: str | None, compute_capability: str | None) -> None:
    if compute_capability is not None and gpu_product is None:
        raise typer.BadParameter("write which GPU, too: --gpu-product", param_hint="--compute-capability")


def _shape(text: str) -> tuple[float, int]:
    found = re.fullmatch(r"(\d{1,4}(?:\.\d{1,4})?)x(\d{1,4})", text)
    if found is None or not 0 < float(found[1]) <= MAX_SHAPE_SECONDS or not 1 <= int(found[2]) <= MAX_SHAPE_BATCH:
        raise typer.BadParameter(
            f"{text[:50]!r} is not seconds (up to {MAX_SHAPE_SECONDS}) and batch (up to {MAX_SHAPE_BATCH}), "
            "such as 15x64",
            param_hint="--shape",
        )
    return float(found[1]), int(found[2])


@app.command()
def fetch(
    artifact_uri: Annotated[str, typer.Argument(help="What `build` printed.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to create.")],
    *,
    manifest_sha256: Annotated[
        str | None, typer.Option(help="Refuse any manifest but this one.", metavar="HEX")
    ] = None,
    gpu_product: GpuProduct = None,
    compute_capability: ComputeCapability = None,
    tensorrt: Annotated[
        str | None, typer.Option(help="TensorRT of the server; refuse a plan of another.", show_default=False)
    ] = None,
    overrides: Annotated[
        str | None,
        typer.Option(
            help="What differs from the build, as JSON: maxBatchSize, queueDelayMicroseconds, instances, and device "
            "(CPU or GPU) of the ONNX model. Needs --repository.",
            show_default=False,
        ),
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(help="Folder to create with the overrides; DEST stays as published.", show_default=False),
    ] = None,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="DEST lies in a folder that others fetch into, too: wait for them, use what is there and as "
            "published, remove what is unused where its room is needed. Needs --manifest-sha256.",
        ),
    ] = False,
    size_limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="BYTES",
            help="With --shared: bytes that all artifacts there may take.",
            show_default="its disk's",
        ),
    ] = None,
    json_log: Json = False,
    termination_log: TerminationLog = None,
) -> None:
    """Download an artifact, verify every byte, and put it in place in one step: all of it or nothing.

    With --gpu-product and --tensorrt nothing is downloaded where its plan could not run.
    """
    from model_builder import artifact_cache, artifact_store, driver  # noqa: PLC0415
    from model_builder.storage import Storage  # noqa: PLC0415

    if (overrides is None) != (repository is None):
        raise typer.BadParameter("--overrides and --repository go together", param_hint="--overrides")
    if shared and manifest_sha256 is None:
        raise typer.BadParameter("write which manifest: --manifest-sha256", param_hint="--shared")
    if size_limit is not None and not shared:
        raise typer.BadParameter("is for --shared", param_hint="--size-limit")
    _refuse_capability_alone(gpu_product, compute_capability)
    reporter = _reporter(json_log=json_log)
    with _errors_told(termination_log, json_log=json_log):
        if gpu_product is not None or tensorrt is not None:
            if shared and manifest_sha256 is not None:
                wanted = artifact_cache.manifest(artifact_uri, destination, sha256=manifest_sha256)
            else:
                wanted, _ = artifact_store.read_manifest(Storage(artifact_uri), sha256=manifest_sha256)
            artifact_store.check_plan(wanted, gpu_product, compute_capability, tensorrt)
        if gpu_product is not None:
            driver.check(gpu_product, compute_capability, driver.first_gpu())

        with ExitStack() as held:
            if shared and manifest_sha256 is not None:
                cached = artifact_cache.fetch(
                    artifact_uri, destination, sha256=manifest_sha256, limit=size_limit, reporter=reporter
                )
                manifest = held.enter_context(cached)
            else:
                manifest = artifact_store.fetch(artifact_uri, destination, sha256=manifest_sha256, reporter=reporter)
            if overrides is not None and repository is not None:
                from model_builder.repository import overrides as laying  # noqa: PLC0415 (Triton's protobuf)

                if shared:
                    held.enter_context(artifact_cache.changing(destination.parent, reporter))
                laying.lay(destination, repository, laying.parse(overrides), manifest.recipe)
        print(repository or destination)  # noqa: T201 (the result)


@app.command()
def verify(
    target: Annotated[str, typer.Argument(metavar="PATH_OR_URI", help="A fetched folder, or an artifact's URI.")],
    *,
    json_log: Json = False,
) -> None:
    """Check every byte of an artifact against its manifest."""
    from model_builder import artifact_store  # noqa: PLC0415

    with _errors_told(None, json_log=json_log):
        manifest = artifact_store.verify(target, reporter=_reporter(json_log=json_log))
        print(f"{target}: {len(manifest.files)} files, {manifest.size} bytes, all as published")  # noqa: T201 (the result)


@app.command()
def inspect(
    target: Annotated[
        str, typer.Argument(metavar="PATH_OR_URI", help="A fetched folder, an artifact's URI, or a .nemo file.")
    ],
    *,
    json_log: Json = False,
) -> None:
    """Show what an artifact or a checkpoint is; of a checkpoint also whether it is supported, and why not."""
    from model_builder import artifact_store  # noqa: PLC0415
    from model_builder.storage import Storage  # noqa: PLC0415

    with _errors_told(None, json_log=json_log):
        path = Path(target)
        if "://" not in target and (path.is_file() or target.endswith(".nemo")):
            from model_builder.stages import inspect as inspect_stage  # noqa: PLC0415 (checkpoints need more packages)

            with tempfile.TemporaryDirectory() as folder:
                found, refusal = inspect_stage.look(path, Path(folder))
            _show(found, as_json=json_log)
            if refusal is not None:
                raise refusal
            return
        storage = Storage(target if "://" in target else Path(target).resolve().as_uri())
        manifest, content = artifact_store.read_manifest(storage)
        if json_log:
            print(manifest.to_json().decode(), end="")  # noqa: T201 (the result)
            return
        _show(_artifact_rows(manifest) | {"manifest": hashlib.sha256(content).hexdigest()}, as_json=False)


def _artifact_rows(manifest: Any) -> dict[str, Any]:  # noqa: ANN401
    recipe, provenance, gate, check = manifest.recipe, manifest.provenance, manifest.gate, manifest.check
    wer = gate.get("wer")
    baseline = gate.get("checkpoint_wer")
    return {
        "model": recipe.model_name,
        "build key": manifest.build_key,
        "engine": f"{recipe.engine}  {recipe.precision}  {recipe.frontend} front end  {recipe.wire}",
        "accepted": f"WER up to {recipe.max_wer_increase_permille / 10:g} % above NeMo's  at least "
        f"{recipe.min_token_agreement_permille / 10:g} % of tokens",
        **_plan_rows(manifest),
        "limits": f"{recipe.max_audio_seconds} s audio  batch {recipe.max_batch_size}",
        "checkpoint": f"{provenance.source}  sha256 {recipe.checkpoint_sha256[:12]}",
        "class": f"{provenance.checkpoint_class}  {provenance.parameters / 1e6:.2f} M parameters",
        "head": provenance.head
        + "".join(f"  (the checkpoint's {name} head is left out)" for name in provenance.unused_heads),
        "WER": f"{wer:.2%} served" + (f", {baseline:.2%} by NeMo" if baseline is not None else " against NeMo"),
        "agreement": f"{gate['text_agreement']:.2%} of texts  {gate['token_agreement']:.2%} of tokens like NeMo's",
        "differences": f"features ≤ {check['max_feature_difference']:.1e}  "
        f"log-probabilities ≤ {check['max_logprob_difference']:.1e}"
        + (f"  served ≤ {gate['max_token_logprob_difference']:.1e}" if "max_token_logprob_difference" in gate else ""),
        "built": f"{provenance.built_at:%Y-%m-%d %H:%M} UTC",
        "versions": "  ".join(f"{name} {version}" for name, version in provenance.versions.items()),
        "files": f"{len(manifest.files)}  {manifest.size / 1e6:.1f} MB",
    }


def _plan_rows(manifest: Any) -> dict[str, Any]:  # noqa: ANN401
    target = manifest.recipe.plan
    if target is None:
        return {}
    used = [item for item in manifest.measurements["shapes"] if item["used"]]
    best = max(used, key=lambda item: float(item["rtfx"]))
    return {
        "plan for": f"{target.gpu_product}  compute capability {target.compute_capability}  TensorRT {target.tensorrt}",
        "GPU alone": f"{best['rtfx']:,} audio seconds a second in batches of {best['batch']} x "
        f"{best['samples'] / 16_000:g} s  {len(used)} shapes",
    }


def _show(rows: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))  # noqa: T201 (the result)
        return
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, str(value))
    Console(markup=False).print(table)


@app.command()
def serve(
    repository_dir: Annotated[
        Path, typer.Argument(help="A fetched artifact, or any Triton model repository.", exists=True, file_okay=False)
    ],
    *,
    grpc_port: Annotated[int, typer.Option(help=f"gRPC; {GRPC_PORT} is Triton's own default.")] = GRPC_PORT,
    http_port: Annotated[int, typer.Option(help="HTTP: /v2/health/ready and the REST API.")] = HTTP_PORT,
    metrics_port: Annotated[int, typer.Option(help="Prometheus: /metrics.")] = METRICS_PORT,
    json_log: Json = False,
) -> None:
    """Serve a repository with a real Triton on this machine until Ctrl-C.

    In NVIDIA's image that is its tritonserver; elsewhere a CPU build from a Python package.
    """
    reporter = _reporter(json_log=json_log)
    with stop.noted() as request, _failures_reported(None, json_log=json_log):
        from model_builder import shared_memory, triton, triton_paths  # noqa: PLC0415

        ports = triton.Ports(grpc=grpc_port, http=http_port, metrics=metrics_port)
        version = triton.version()
        ports.check()
        triton_paths.check_repository(repository_dir)
        needs, free = triton.shared_memory_needs(repository_dir), shared_memory.free()
        if free < needs.total:
            reporter.info(f"warning: {needs.shortage(free)}, so requests may fail; {needs.advice}")
        log = triton_paths.new_log("triton-")
        reporter.info("Triton starts", version=version, log=log)
        try:
            with triton.serve(repository_dir, ports=ports, log=log, stop=request) as server:
                reporter.info(
                    "ready; stop with Ctrl-C",
                    grpc=ports.grpc_url,
                    http=f"http://{ports.host}:{ports.http}",
                    metrics=f"http://{ports.host}:{ports.metrics}/metrics",
                )
                while request.first is None:
                    server.check_alive()
                    time.sleep(triton.POLL_SECONDS)
                reporter.info("Triton stops")
        except stop.StopRequestedError:
            reporter.info("stopped before Triton was ready")
        if request.first is not None:
            raise typer.Exit(128 + request.first)


def _reporter(*, json_log: bool) -> Reporter:
    return JsonReporter() if json_log else RichReporter()


def _terminate(path: Path | None, result: dict[str, Any]) -> None:
    """Write what Kubernetes is to show of this pod. It keeps the first 4096 bytes: a message is cut, JSON is not."""
    if path is None:
        return
    while len(text := json.dumps(result, ensure_ascii=False).encode()) > TERMINATION_BYTES and result.get("message"):
        result = result | {"message": result["message"][: len(result["message"]) * 9 // 10]}
    try:
        path.write_bytes(text)
    except OSError as error:  # the result itself matters more, and comes on the other ways
        Console(stderr=True, highlight=False).print(f"cannot write {path}: {error.strerror}", markup=False)


@contextmanager
def _errors_told(
    termination_log: Path | None, *, json_log: bool, interrupted: str = "interrupted; run it again"
) -> Iterator[None]:
    """Report a failure or an interruption in one line, and exit with its code.

    SIGTERM becomes an exit that runs the clean-up, as Ctrl-C is by itself.

    Args:
        termination_log: Where the result goes as JSON, too.
        json_log: Write JSON instead of text.
        interrupted: What an interruption means for this command.
    """

    def leave(_signal: int, _frame: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    former = signal.signal(signal.SIGTERM, leave)
    try:
        with _failures_reported(termination_log, json_log=json_log):
            yield
    except (KeyboardInterrupt, SystemExit) as error:
        code = 130 if isinstance(error, KeyboardInterrupt) else error.code
        _terminate(termination_log, {"reason": "Interrupted", "message": interrupted, "transient": True})
        if json_log:
            JsonReporter().error(interrupted, reason="Interrupted", exit_code=code)
        else:
            Console(stderr=True, highlight=False).print(f"[red]Interrupted:[/] {interrupted}", soft_wrap=True)
        raise SystemExit(code) from error
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def _failures_reported(termination_log: Path | None, *, json_log: bool) -> Iterator[None]:
    """Report a failure in one line, to people, to logs and to the termination log, and exit with its code."""
    try:
        with _folders_reported():
            yield
    except BuilderError as error:
        result = {"reason": error.reason, "message": str(error), "transient": error.transient}
        _terminate(termination_log, result)
        if json_log:
            JsonReporter().error(str(error), reason=error.reason, exit_code=error.exit_code)
        else:
            Console(stderr=True, highlight=False).print(
                f"[red]{error.reason}:[/] ", error, soft_wrap=True, markup=True, sep=""
            )
        raise typer.Exit(error.exit_code) from error


@contextmanager
def _folders_reported() -> Iterator[None]:
    """Turn what the system says of files and folders into an error of this program, whichever command met it."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        where = error.filename or "a folder"
        raise WorkFolderError(f"cannot use {where}: {error.strerror or error}") from error


def this_machine_directly(environment: Mapping[str, str]) -> dict[str, str]:
    """What to set so that no proxy of `environment` is asked for Triton on loopback, which it could not reach."""
    named = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    value = ",".join([*filter(None, map(str.strip, named.split(","))), "127.0.0.1", "localhost"])
    return {"no_proxy": value, "NO_PROXY": value}  # both: some programs read one, some the other


def main() -> None:
    """Entry point."""
    os.environ.update(this_machine_directly(os.environ))
    try:
        app()
    except ModuleNotFoundError as error:
        missing = MissingExtraError(f"{error.name} is not installed", "builder")
        Console(stderr=True, highlight=False).print(f"[red]{missing.reason}:[/] ", missing, soft_wrap=True, sep="")
        sys.exit(missing.exit_code)


if __name__ == "__main__":
    main()
