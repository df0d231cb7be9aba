"""NeMo's own preprocessor as the front end: the reference, for images that hold NeMo and torch."""

import json
import locale
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

# Triton's embedded interpreter starts with the C locale whatever the environment says, and torch holds files that are
# not ASCII.
locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # NeMo loads ONNX Runtime, which reads it then

import torch  # noqa: E402
from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor  # noqa: E402

from asr_serving.audio import Batch, floats  # noqa: E402

PREPROCESSOR_FILE = "preprocessor.json"


class NemoFrontend:
    """Callable: audio [B, L] and samples [B, 1] to the acoustic model's inputs by name."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / PREPROCESSOR_FILE).read_text(encoding="utf-8"))
        self._preprocessor = AudioToMelSpectrogramPreprocessor(**config).eval()

    def __call__(self, audio: Batch, lengths: npt.NDArray[np.int32]) -> dict[str, npt.NDArray[np.generic]]:
        """Compute normalised log-mel features [B, bands, frames] and their lengths [B, 1]."""
        with torch.inference_mode():
            features, frames = self._preprocessor(
                input_signal=torch.from_numpy(floats(audio)), length=torch.from_numpy(lengths[:, 0]).to(torch.int64)
            )
        return {
            "processed_signal": features.numpy(),
            "processed_signal_length": frames.numpy().astype(np.int32)[:, None],
        }
