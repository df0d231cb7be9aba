"""A large model on a GPU, engines side by side: the TensorRT plan alone, and pipelines through Triton under one load.

    python -m tests.support.checkpoints large large.nemo
    model-builder build --source large.nemo --name english_stt --storage file:///tmp/store --max-audio-seconds 30
    model-builder fetch file:///tmp/store/english_stt/<key> artifact
    python benchmarks/plans.py artifact benchmarks/results

Needs neither torch nor NeMo, but TensorRT and onnxruntime-gpu. Each pipeline gets a server of its own and the same
mixed lengths from several client processes:

- `N` over the plan, at several numbers of clients; at the best of them also with audio in shared memory instead of on
  the wire, and from twice as many client processes: neither helps where the server is the limit;
- `N` over ONNX Runtime with CUDA: the artifact as it is;
- the pipeline that guides show (`naive_repository`): numpy features of one request at a time, ONNX Runtime with CUDA
  behind Triton's own dynamic batcher, all log-probabilities to a Python decoder; with one process for each Python
  model, and with several.

With `--cpu` there is no plan, and ONNX Runtime runs on the CPU: to try this program without a GPU.
Weights are random: speed is what is measured, and the share of texts like the checkpoint's is only told. Writes
`plans.json` (one record a case: `mean_ms` says where an utterance was between its sending and its answer, `cores` how
many cores each process kept busy) and `plans.png`.
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from asr_contract.artifact import MANIFEST, Manifest, ModelFacts, parse_manifest
from asr_contract.recipe import Engine, Precision, Recipe
from asr_serving.tensors import SAMPLE_RATE, model_names
from asr_serving.text import Vocabulary
from benchmarks import engines
from benchmarks.engines import Target
from benchmarks.naive_repository import layout
from model_builder import audio_set, cuda, onnx_graph, plan_pipeline, plan_shapes, tensorrt, triton
from model_builder.plan_shapes import Profile
from model_builder.progress import RichReporter
from model_builder.repository.config import to_text
from model_builder.repository.layout import REFERENCES, VERSION
from model_builder.resume import Markers, sha256_of
from model_builder.stages import check, measure, plan, repository
from model_builder.storage import Storage

PLAN_CLIENTS, ONNX_CLIENTS, NAIVE_CLIENTS = (64, 256, 512, 768, 1024), (64, 256), (128,)
NAIVE_INSTANCES = (1, 4)
NAIVE_BATCH = 32
PARTS = ("plan", "onnx", "naive")
SHORTEST_SECONDS, LONGEST_SECONDS = 2.0, 30.0
CUDA_PRECISION = "FP32 (TF32)"
"""Of ONNX Runtime, which lets CUDA multiply so unless it is told otherwise."""
COLOURS = {"plan alone": "tab:green", "plan": "tab:blue", "ONNX Runtime": "tab:orange", "naive": "tab:gray"}
"""By the first words of a case, the longest first."""
REPORTER = RichReporter()


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What all cases of this run have in common.

    Attributes:
        artifact: The fetched folder.
        manifest: Of it.
        lengths: Shortest and longest utterance in seconds.
        processes: Client processes.
        seconds: Length of each load.
        add: Writes down one case: its name and its figures.
    """

    artifact: Path
    manifest: Manifest
    lengths: tuple[float, float]
    processes: int
    seconds: float
    add: Callable[..., None]

    @property
    def name(self) -> str:
        """Of the model."""
        return self.manifest.recipe.model_name


@contextmanager
def served(run: Run, case: str, folder: Path, target: Target) -> Iterator[triton.Server]:
    """A server over `folder`, after its transcripts of the check audio were compared with the checkpoint's."""
    started = time.monotonic()
    with triton.serve(folder) as server:
        ready = round(time.monotonic() - started, 1)
        audio = audio_set.load(audio_set.SHIPPED, max_seconds=run.manifest.recipe.max_audio_seconds)
        texts = engines.texts(server.ports.grpc_url, target, [item.signal for item in audio.utterances])
        same = [text == heard.text for text, heard in zip(texts, check.load(run.artifact / REFERENCES), strict=True)]
        run.add(f"{case}: server", start_to_ready_seconds=ready, texts_like_checkpoint=sum(same) / len(same))
        yield server


def build(
    artifact: Path, work: Path, recipe: Recipe, facts: ModelFacts, shapes: list[tuple[int, int]]
) -> tuple[Path, list[Profile], dict[str, Any]]:
    """The plan, its profiles, and what the build took; one that lies in `work` is taken again."""
    names = model_names(recipe.model_name)
    source = artifact / names["onnx"] / VERSION / "model.onnx"
    lowered, planned = work / "lowered.onnx", work / "model.plan"
    profiles = plan_shapes.profiles(shapes)

    def make() -> dict[str, Any]:
        plan.lower(source, lowered, recipe=recipe, reporter=REPORTER)
        return plan.run(
            lowered,
            planned,
            profiles,
            recipe=recipe,
            facts=facts,
            storage=Storage(work.as_uri()),
            limits=tensorrt.Limits(),
            reporter=REPORTER,
        )

    decisive = {"model": sha256_of(source), "shapes": shapes, "plan": recipe.plan and recipe.plan.model_dump()}
    figures, _ = Markers(work / "stages").run("plan", decisive, [planned], make)
    return planned, profiles, figures


def plan_options(artifact: Path) -> plan_pipeline.Options:
    """What a user would ask for; nothing is fetched or published by them here."""
    return plan_pipeline.Options(artifact="file://", storage="file://", work=artifact, precision=Precision.FP16)


def measure_plan(run: Run, work: Path, gpu: cuda.Gpu, shapes: list[tuple[int, int]]) -> Path:
    """Build the plan, and time each of its shapes alone; returns the repository that serves it."""
    artifact, facts = run.artifact, run.manifest.model
    recipe = plan_pipeline.recipe_for(plan_options(artifact), run.manifest, gpu, tensorrt.version())
    recipe = recipe.model_copy(update={"min_token_agreement_permille": 0})
    planned, profiles, built = build(artifact, work, recipe, facts, shapes)
    run.add("plan build", **built)
    figures = measure.run(
        planned,
        profiles,
        audio_set.load(audio_set.SHIPPED, max_seconds=recipe.max_audio_seconds),
        check.load(artifact / REFERENCES),
        recipe=recipe,
        facts=facts,
        lengths=sorted({samples for samples, _ in shapes}),
        max_batch_milliseconds=1000.0,
        quick=False,
        reporter=REPORTER,
    )
    for item in figures["shapes"]:
        took, length = min(item["plain_ms"], item["graph_ms"]), item["samples"] / SAMPLE_RATE
        case = f"plan alone, {item['batch']} x {length:g} s"
        run.add(case, p50_ms=took, audio_seconds=round(item["batch"] * length, 1), **item)
    run.add("plan alone, all shapes", **{key: value for key, value in figures.items() if key != "shapes"})
    repository.run(
        work / "repository",
        recipe=recipe,
        models={"tensorrt": planned},
        served=measure.served(figures, profiles),
        vocabulary=Vocabulary.load(artifact / model_names(run.name)["postprocessing"] / VERSION / "vocabulary.json"),
        facts=facts,
        references=artifact / REFERENCES,
        reporter=REPORTER,
    )
    return work / "repository"


def load_scheduler(run: Run, case: str, folder: Path, role: str, clients: Sequence[int], *, wire: bool) -> None:
    """`N` over the acoustic model of a role: one client, then many.

    With `wire` the best of these is repeated without the wire, and from more processes.
    """
    target = Target(run.name, {"engine": model_names(run.name)[role]})
    with served(run, case, folder, target) as server:
        alone = dataclasses.replace(run, lengths=(15.0, 15.0), seconds=min(4.0, run.seconds))
        load(alone, case, server, target, 1)
        results = {count: load(run, case, server, target, count) for count in clients}
        best = max(results, key=lambda count: results[count]["rtfx"])
        own_work(run, case, folder, results[best])
        if wire:
            load(run, f"{case}, shared memory", server, dataclasses.replace(target, shared_memory=True), best)
            twice = dataclasses.replace(run, processes=2 * run.processes)
            load(twice, f"{case}, {twice.processes} client processes", server, target, best)


def load_naive(run: Run, folder: Path, instances: int, clients: Sequence[int]) -> None:
    """The pipeline that guides show."""
    stages = ("front end", "engine", "decoding")
    target = Target(layout.NAME, dict(zip(stages, layout.MODELS.values(), strict=True)), outputs=("decoded_texts",))
    case = f"naive, {instances} of each Python model"
    with served(run, case, folder, target) as server:
        for count in clients:
            load(run, case, server, target, count)


def own_work(run: Run, case: str, folder: Path, loaded: dict[str, Any]) -> None:
    """What the scheduler model itself does for a batch as they were under load."""
    if not loaded["batch"] or not loaded["valid_share"]:
        return  # all requests failed
    batch, utterances = max(1, round(loaded["batch"])), loaded["requests"] - loaded["failed"]
    samples = round(loaded["audio_seconds"] / loaded["valid_share"] / max(1, utterances) * SAMPLE_RATE)
    heard = check.load(run.artifact / REFERENCES)
    figures = engines.own_work(folder / run.name / VERSION, heard, batch, samples)
    run.add(f"{case}, the scheduler's own work on such a batch", **figures)


def load(run: Run, case: str, server: triton.Server, target: Target, clients: int) -> dict[str, Any]:
    """One load; returns its figures."""
    figures = engines.load(server, target, run.lengths, clients=clients, processes=run.processes, seconds=run.seconds)
    spread = "-".join(f"{length:g}" for length in dict.fromkeys(run.lengths))
    run.add(f"{case}, {figures['clients']} client{'s' if clients > 1 else ''}, {spread} s", **figures)
    return figures


def on_gpu(artifact: Path, folder: Path, name: str) -> Path:
    """A copy of the artifact whose acoustic model refuses to run anywhere else."""
    shutil.copytree(artifact, folder)
    path = folder / model_names(name)["onnx"] / "config.pbtxt"
    config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    config.instance_group[0].kind = model_config_pb2.ModelInstanceGroup.KIND_GPU
    path.write_text(to_text(config), encoding="utf-8")
    return folder


def versions(gpu: cuda.Gpu | None) -> dict[str, str]:
    """Of what runs here."""
    found = {name: importlib.metadata.version(name) for name in ("asr-operator", "numpy")}
    found |= onnx_graph.versions() | {"python": platform.python_version(), "triton": triton.version()}
    return found if gpu is None else found | {"cuda": gpu.cuda}


def plot(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Throughput of every case, and beside it where an utterance's time went."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shown = [record for record in records if record["rtfx"] is not None][::-1]
    names = [record["case"] for record in shown]
    colours = [next(COLOURS[start] for start in COLOURS if name.startswith(start)) for name in names]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(15, 0.36 * len(shown) + 1.8), sharey=True, gridspec_kw={"width_ratios": (3, 2)}
    )
    bars = left.barh(names, [record["rtfx"] for record in shown], color=colours)
    left.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=8)
    left.margins(x=0.12, y=0.01)
    left.set_xlabel(f"audio seconds a second on one {records[0]['gpu'] or records[0]['cpu']}")
    kinds = [part for part in engines.PARTS if any(part in (record.get("mean_ms") or {}) for record in shown)]
    starts = [0.0] * len(shown)
    for number, kind in enumerate(kinds):
        parts = [record.get("mean_ms") or {} for record in shown]
        widths = [100 * max(0.0, part.get(kind, 0.0)) / max(sum(part.values()), 1e-9) for part in parts]
        right.barh(names, widths, left=starts, label=kind, color=plt.get_cmap("tab10")(number))
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    right.set_xlabel("where an utterance's time went, %")
    if kinds:
        right.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def side_by_side(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best of each pipeline over the wire, and how many times the best naive one that is."""
    best: dict[str, float] = {}
    for record in records:
        pipeline = next((start for start in COLOURS if record["case"].startswith(start)), "")
        if record["clients"] is not None and not record["shared_memory"]:
            best[pipeline] = max(best.get(pipeline, 0.0), record["rtfx"])
    naive = best.get("naive")
    return {
        "best_rtfx": best,
        "times_naive": {name: round(rate / naive, 2) for name, rate in best.items()} if naive else None,
    }


def main(  # noqa: PLR0917 (a command line)
    artifact: Annotated[Path, typer.Argument(help="A fetched OnnxRuntime artifact.", exists=True, file_okay=False)],
    output: Annotated[Path, typer.Argument(help="Folder for plans.json and plans.png.")],
    shape: Annotated[list[str] | None, typer.Option(help="Such as 15x64; those of a build if none.")] = None,
    cpu: Annotated[bool, typer.Option(help="ONNX Runtime on the CPU, no plan: to try this program.")] = False,
    clients: Annotated[list[int] | None, typer.Option(help="Requests in flight, for the plan; several.")] = None,
    onnx_clients: Annotated[list[int] | None, typer.Option(help="The same, for ONNX Runtime.")] = None,
    naive_clients: Annotated[list[int] | None, typer.Option(help="The same, for the naive pipeline.")] = None,
    naive_instances: Annotated[list[int] | None, typer.Option(help="Processes of each of its Python models.")] = None,
    processes: Annotated[int, typer.Option(help="Client processes.")] = 8,
    seconds: Annotated[float, typer.Option(help="Length of each load.")] = 6.0,
    only: Annotated[list[str] | None, typer.Option(help="Part of all this: plan, onnx, naive; several.")] = None,
    work: Annotated[Path | None, typer.Option(help="Keeps the plan and the timing cache for another run.")] = None,
) -> None:
    """Measure engines and servers."""
    manifest = parse_manifest((artifact / MANIFEST).read_bytes(), where=str(artifact))
    shapes = [
        (plan_shapes.padded_length(float(length)), int(batch))
        for length, _, batch in (text.partition("x") for text in shape or ())
    ]
    gpu = None if cpu else cuda.gpu()
    if gpu is not None and not shapes:
        geometry = plan_shapes.Geometry(manifest.model.hop, manifest.model.features, manifest.model.channels)
        shapes = plan_pipeline.shapes_for(plan_options(artifact), manifest.recipe, geometry, gpu)
    parts = set(only or PARTS)
    if unknown := parts - set(PARTS):
        raise typer.BadParameter(f"--only {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if gpu is not None and parts != {"plan"} and "CUDAExecutionProvider" not in onnx_graph.providers():
        raise typer.BadParameter("this onnxruntime has no CUDA; install onnxruntime-gpu in its place, or use --cpu")
    # Folders by the names of the example above: where they lie on this machine tells nobody anything.
    shown = {str(artifact): "artifact", str(output): "benchmarks/results", str(work): "work"}
    constant = {
        "versions": versions(gpu) | ({"tensorrt": tensorrt.version()} if shapes else {}),
        "gpu": gpu and gpu.product,
        "cpu": f"{os.cpu_count()} cores, {platform.machine()}",
        "parameters": manifest.provenance.parameters,
        "command": " ".join(["python benchmarks/plans.py", *(shown.get(word, word) for word in sys.argv[1:])]),
    }
    records: list[dict[str, Any]] = []

    def add(case: str, **figures: Any) -> None:  # noqa: ANN401
        planned = case.startswith("plan")
        record = {
            "case": case,
            "engine": Engine.TENSORRT if planned else Engine.ONNX_RUNTIME,
            "precision": Precision.FP16 if planned else Precision.FP32 if cpu else CUDA_PRECISION,
            **dict.fromkeys(("batch", "audio_seconds", "clients", "rtfx", "p50_ms", "p95_ms")),
            **figures,
            **constant,
        }
        records.append(record)
        output.mkdir(parents=True, exist_ok=True)
        (output / "plans.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        typer.echo(json.dumps({key: value for key, value in record.items() if key not in {*constant, "models"}}))

    longest = min(LONGEST_SECONDS, float(manifest.recipe.max_audio_seconds))
    if shapes:
        longest = min(longest, max(samples for samples, _ in shapes) / SAMPLE_RATE)
    run = Run(artifact, manifest, (SHORTEST_SECONDS, longest), processes, seconds, add)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        kept = work or scratch / "plan"
        kept.mkdir(parents=True, exist_ok=True)
        if "plan" in parts and shapes and gpu is not None:
            folder = measure_plan(run, kept.resolve(), gpu, shapes)
            load_scheduler(run, "plan", folder, "tensorrt", clients or PLAN_CLIENTS, wire=True)
        if "onnx" in parts:
            folder = artifact if gpu is None else on_gpu(artifact, scratch / "onnx", run.name)
            load_scheduler(run, "ONNX Runtime", folder, "onnx", onnx_clients or ONNX_CLIENTS, wire=not shapes)
        if "naive" in parts:
            pieces = layout.from_artifact(artifact, scratch / "pieces")
            for instances in naive_instances or NAIVE_INSTANCES:
                folder = scratch / f"naive-{instances}"
                layout.write(folder, pieces, batch=NAIVE_BATCH, instances=instances, gpu=gpu is not None)
                load_naive(run, folder, instances, naive_clients or NAIVE_CLIENTS)
    add("side by side", **side_by_side(records))
    plot(records, output / "plans.png")


if __name__ == "__main__":
    typer.run(main)
