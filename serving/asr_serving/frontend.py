"""What the acoustic model is fed with: audio itself, or NeMo's features of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_serving import tensors

Feed = dict[str, npt.NDArray[Any]]
Frontend = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int32]], Feed]
"""Audio [B, L] and samples [B, 1] to the acoustic model's inputs by name."""


def plain(audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int32]) -> Feed:
    """The mel graph is part of the acoustic model: audio goes in as it is."""
    return {tensors.AUDIO.name: audio, tensors.AUDIO_LENGTH.name: lengths}


def load(kind: str, folder: Path) -> Frontend:
    """The front end named in the settings, with its files in `folder`."""
    if kind == "NeMo":
        from asr_serving.nemo_frontend import NemoFrontend  # noqa: PLC0415 (needs torch and NeMo)

        return NemoFrontend(folder)
    return plain
