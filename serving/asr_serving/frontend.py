"""What the acoustic model is fed with: audio itself, or NeMo's features of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_serving import tensors
from asr_serving.audio import Batch

Feed = dict[str, npt.NDArray[Any]]
Frontend = Callable[[Batch, npt.NDArray[np.int32]], Feed]
"""Audio [B, L] and samples [B, 1] to the acoustic model's inputs by name."""


def plain(audio: Batch, lengths: npt.NDArray[np.int32]) -> Feed:
    """The mel graph is part of the acoustic model: audio goes in as it came, integers as their bytes."""
    fed = audio.astype("<i2", copy=False).view(np.uint8) if audio.dtype == np.int16 else audio
    return {tensors.AUDIO.name: fed, tensors.AUDIO_LENGTH.name: lengths}


def load(kind: str, folder: Path) -> Frontend:
    """The front end named in the settings, with its files in `folder`."""
    if kind == "NeMo":
        from asr_serving.nemo_frontend import NemoFrontend  # noqa: PLC0415 (needs torch and NeMo)

        return NemoFrontend(folder)
    return plain
