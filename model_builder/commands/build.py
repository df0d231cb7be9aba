"""The command `model-builder build`."""

from contextlib import ExitStack
from enum import StrEnum
from typing import Annotated

import typer

from asr_contract.recipe import Frontend, Precision, Wire
from model_builder import environment
from model_builder.commands.exit import CONTINUES, errors_reported, new_reporter, write_termination_log
from model_builder.commands.options import (
    ENGINES,
    EngineChoice,
    Json,
    PrecisionChoice,
    TerminationLog,
    Verify,
    Work,
    default_work,
)


class FrontendChoice(StrEnum):
    """What computes the features."""

    numpy = "numpy"
    nemo = "nemo"


class WireChoice(StrEnum):
    """Encoding of the audio on the wire."""

    pcm16 = "pcm16"
    float32 = "float32"
    float64 = "float64"


FRONTENDS = {FrontendChoice.numpy: Frontend.NUMPY, FrontendChoice.nemo: Frontend.NEMO}

GATE = "What is published"
"""Options that have a table of their own in the help: among the others these long names would be cut."""

SourceOption = Annotated[
    str,
    typer.Option(help="Checkpoint: a path, hf:owner/name@revision, or s3://bucket/model.nemo.", show_default=False),
]
StorageOption = Annotated[
    str,
    typer.Option(
        help="Where to publish: s3://bucket/prefix, file:///folder, ... Credentials come from the environment."
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        help="Name of the model in Triton, such as english_stt or parakeet-ctc-0.6b.",
        show_default="the source's, as hf:owner/NAME or NAME.nemo",
    ),
]
Sha256Option = Annotated[
    str | None, typer.Option(help="Refuse any checkpoint file but this one.", metavar="HEX", show_default=False)
]
EngineOption = Annotated[
    EngineChoice,
    typer.Option(
        metavar="NAME",
        help="Runtime of the acoustic model: onnx, tensorrt or both. Plans need a GPU; see the command plan.",
        case_sensitive=False,
    ),
]
PrecisionOption = Annotated[
    PrecisionChoice | None,
    typer.Option(
        metavar="TYPE",
        help="fp32, fp16 or bf16. Features, softmax and lengths stay fp32.",
        show_default="fp32 for onnx, fp16 for TensorRT plans",
        case_sensitive=False,
    ),
]
FrontendOption = Annotated[
    FrontendChoice,
    typer.Option(
        metavar="NAME",
        help="numpy: mel features inside the graph. nemo: NeMo's preprocessor, needs NeMo in the serving image.",
        case_sensitive=False,
    ),
]
WireOption = Annotated[
    WireChoice,
    typer.Option(
        metavar="TYPE",
        help="Encoding of the audio that clients send: pcm16, float32 or float64.",
        case_sensitive=False,
    ),
]
CheckAudioOption = Annotated[
    str | None,
    typer.Option(
        help="Folder, or s3://bucket/folder, of WAV or FLAC files to check with, and transcripts.json if known.",
        rich_help_panel=GATE,
        show_default="a set that ships with the package",
    ),
]
MaxWerIncreasePermilleOption = Annotated[
    int,
    typer.Option(help="Reject above this word error rate over the checkpoint's.", rich_help_panel=GATE),
]
MinTokenAgreementPermilleOption = Annotated[
    int,
    typer.Option(help="Reject below this share of tokens like the checkpoint's.", rich_help_panel=GATE),
]


def build(
    *,
    source: SourceOption,
    storage: StorageOption,
    name: NameOption = None,
    sha256: Sha256Option = None,
    work: Work = None,
    engine: EngineOption = EngineChoice.onnx,
    precision: PrecisionOption = None,
    frontend: FrontendOption = FrontendChoice.numpy,
    wire: WireOption = WireChoice.pcm16,
    max_batch_size: Annotated[int, typer.Option(help="Largest batch at the acoustic model.")] = 32,
    max_audio_seconds: Annotated[int, typer.Option(help="Longest utterance that is served.")] = 40,
    check_audio: CheckAudioOption = None,
    max_wer_increase_permille: MaxWerIncreasePermilleOption = 5,
    min_token_agreement_permille: MinTokenAgreementPermilleOption = 990,
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
    with errors_reported(termination_log, json_log=json_log, interrupted=CONTINUES), ExitStack() as held:
        environment.use_writable_folders()
        name = name or pipeline.name_of(source)
        folder = work or default_work() / name
        reporter = new_reporter(json_log=json_log)
        if with_plan:
            plan_pipeline.check_machine()  # before the checkpoint is exported in vain
        audio = held.enter_context(check_audio_stage.brought(check_audio, folder, reporter))
        options = pipeline.Options(
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
        )
        published = pipeline.build(options, reporter)
        if with_plan:
            plan_options = plan_pipeline.Options(
                artifact=published.uri,
                manifest_sha256=published.manifest_sha256,
                storage=storage,
                work=folder,
                engine=ENGINES[engine],
                precision=Precision((precision or PrecisionChoice.fp16).upper()),
                check_audio=audio,
                verify=verify,
            )
            published = plan_pipeline.build(plan_options, reporter)
        write_termination_log(termination_log, published.summary())
        print(published.uri)  # noqa: T201 (the result)
