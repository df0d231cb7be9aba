"""The command `model-builder plan`."""

import re
from contextlib import ExitStack
from typing import Annotated

import typer

from asr_contract.recipe import Precision
from model_builder import environment
from model_builder.commands.exit import CONTINUES, errors_reported, new_reporter, write_termination_log
from model_builder.commands.options import (
    ENGINES,
    ComputeCapability,
    EngineChoice,
    GpuProduct,
    Json,
    PrecisionChoice,
    TerminationLog,
    Verify,
    Work,
    default_work,
    refuse_capability_alone,
)

MAX_SHAPE_SECONDS, MAX_SHAPE_BATCH = 640, 512
"""Limits of `--shape`: what a recipe allows, and the padding of its longest audio."""

ManifestSha256Option = Annotated[
    str | None, typer.Option(help="Refuse any manifest of the artifact but this one.", metavar="HEX")
]
EngineOption = Annotated[
    EngineChoice,
    typer.Option(metavar="NAME", help="tensorrt, or both engines in one repository.", case_sensitive=False),
]
PrecisionOption = Annotated[
    PrecisionChoice,
    typer.Option(
        metavar="TYPE", help="fp32, fp16 or bf16. Features, softmax and lengths stay fp32.", case_sensitive=False
    ),
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SxB",
        help="Seconds and batch that the plan is built for, such as 15x64; once for each length.",
        show_default="lengths up to the longest audio, batches for the memory of this GPU",
    ),
]
CheckAudioOption = Annotated[
    str | None,
    typer.Option(help="The folder that the artifact was checked with.", show_default="a set that ships"),
]
MaxBatchMillisecondsOption = Annotated[
    float, typer.Option(help="Shapes that take the GPU longer than this are not used.")
]
WorkspaceGbOption = Annotated[
    float | None,
    typer.Option(help="GPU memory for one layer's scratch space.", show_default="all that is free"),
]
OptimizationLevelOption = Annotated[
    int,
    typer.Option(
        help="TensorRT's: how many ways of computing each layer it tries. 3 takes three times as long, and gains "
        "nothing on an H100.",
        min=0,
        max=5,
        metavar="N",
    ),
]
ServingTensorrtOption = Annotated[
    str | None,
    typer.Option(
        envvar="SERVING_TENSORRT",
        help="TensorRT of the serving image; refuse to build when it is not this builder's.",
        show_default="that of the Triton beside this builder",
    ),
]


def plan(
    artifact_uri: Annotated[str, typer.Argument(help="An OnnxRuntime artifact: what `build` printed.")],
    *,
    storage: Annotated[str, typer.Option(help="Where to publish, as for build.")],
    manifest_sha256: ManifestSha256Option = None,
    work: Work = None,
    engine: EngineOption = EngineChoice.tensorrt,
    precision: PrecisionOption = PrecisionChoice.fp16,
    shape: ShapeOption = None,
    check_audio: CheckAudioOption = None,
    max_batch_milliseconds: MaxBatchMillisecondsOption = 100.0,
    quick: Annotated[bool, typer.Option("--quick", help="Measure less: for trying things out.")] = False,
    time_limit_seconds: Annotated[float, typer.Option(help="Give up the plan's build after this time.")] = 3600.0,
    workspace_gb: WorkspaceGbOption = None,
    optimization_level: OptimizationLevelOption = 1,
    serving_tensorrt: ServingTensorrtOption = None,
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
    refuse_capability_alone(gpu_product, compute_capability)
    with errors_reported(termination_log, json_log=json_log, interrupted=CONTINUES), ExitStack() as held:
        environment.use_writable_folders()
        reporter = new_reporter(json_log=json_log)
        folder = work or default_work() / f"plan-{artifact_uri.rstrip('/').rpartition('/')[2]}"
        audio = held.enter_context(check_audio_stage.brought(check_audio, folder, reporter))
        options = plan_pipeline.Options(
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
        )
        published = plan_pipeline.build(options, reporter)
        write_termination_log(termination_log, published.summary())
        print(published.uri)  # noqa: T201 (the result)


def _shape(text: str) -> tuple[float, int]:
    found = re.fullmatch(r"(\d{1,4}(?:\.\d{1,4})?)x(\d{1,4})", text)
    if found is None or not 0 < float(found[1]) <= MAX_SHAPE_SECONDS or not 1 <= int(found[2]) <= MAX_SHAPE_BATCH:
        raise typer.BadParameter(
            f"{text[:50]!r} is not seconds (up to {MAX_SHAPE_SECONDS}) and batch (up to {MAX_SHAPE_BATCH}), "
            "such as 15x64",
            param_hint="--shape",
        )
    return float(found[1]), int(found[2])
