"""Options that several commands of `model-builder` share, and the checks of their values."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from asr_contract.recipe import Engine


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


ENGINES = {
    EngineChoice.onnx: Engine.ONNX_RUNTIME,
    EngineChoice.tensorrt: Engine.TENSORRT,
    EngineChoice.both: Engine.BOTH,
}

Json = Annotated[bool, typer.Option("--json", help="Log as JSON lines, for pods.")]


def _writable(path: Path | None) -> Path | None:
    """Refuse a file at the start that could not be written at the end."""
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
Work = Annotated[
    Path | None, typer.Option(help="Folder for intermediate files and report.json.", show_default="a cache folder")
]


def default_work() -> Path:
    """Folder for intermediate files where the user names none."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "asr-operator" / "work"


def refuse_capability_alone(gpu_product: str | None, compute_capability: str | None) -> None:
    """Refuse a compute capability without the GPU product that it belongs to."""
    if compute_capability is not None and gpu_product is None:
        raise typer.BadParameter("write which GPU, too: --gpu-product", param_hint="--compute-capability")
