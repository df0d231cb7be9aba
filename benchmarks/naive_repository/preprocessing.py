"""`model.py` of the naive pipeline: log-mel features in numpy, one request at a time, double precision.

NeMo's recipe, written as people write it: the frames of one utterance at once, the requests in a loop.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

STD_GUARD = 1e-5


class TritonPythonModel:
    def initialize(self, args: dict[str, Any]) -> None:
        """Read window [n_fft], mel bank [bands, n_fft // 2 + 1] and constants, which come from the checkpoint."""
        parts = np.load(Path(args["model_repository"]) / args["model_version"] / "parts.npz")
        self._window, self._mel = parts["window"], parts["mel"]
        self._hop, self._preemphasis, self._log_guard = int(parts["hop"]), parts["preemphasis"], parts["log_guard"]
        self._frames = parts["frames"]

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            signal = pb_utils.get_input_tensor_by_name(request, "audio_signal").as_numpy()[0]
            length = np.full_like(self._frames, signal.size // self._hop)
            tensors = [pb_utils.Tensor("features", self._features(signal)), pb_utils.Tensor("length", length)]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses

    def _features(self, signal: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Audio [L] in [-1, 1] to features [1, bands, L // hop + 1], normalised over the valid frames L // hop."""
        emphasised = np.concatenate([signal[:1], signal[1:] - self._preemphasis * signal[:-1]])
        padded = np.pad(emphasised, self._window.size // 2)
        frames = np.lib.stride_tricks.sliding_window_view(padded, self._window.size)[:: self._hop]
        power = np.abs(np.fft.rfft(frames * self._window, axis=1)) ** 2
        features = np.log(power @ self._mel.T + self._log_guard).T
        valid = features[:, : signal.size // self._hop]
        features = (features - valid.mean(axis=1, keepdims=True)) / (
            valid.std(axis=1, ddof=1, keepdims=True) + STD_GUARD
        )
        features[:, signal.size // self._hop :] = 0.0
        return np.ascontiguousarray(features[None], dtype=np.float32)
