"""From what a client sent to audio that the acoustic model takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_serving.tensors import SAMPLE_RATE

MIN_SAMPLES = 400
"""One analysis window of 25 ms: less has no two frames, and their deviation is not defined."""

MAX_AMPLITUDE = 10.0
"""Float audio is in [-1, 1]; resampling may overshoot a little. More is integers sent as floats, or garbage."""


class AudioError(ValueError):
    """The request's audio cannot be transcribed; the message tells the client why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may hold."""

    max_samples: int

    @property
    def max_seconds(self) -> float:
        """The same limit in seconds."""
        return self.max_samples / SAMPLE_RATE


Samples = npt.NDArray[np.int16] | npt.NDArray[np.float32]
"""One utterance [L]: 16-bit integers, or floats in [-1, 1]."""
PCM_SCALE = np.float32(2**-15)


def checked(signal: npt.NDArray[np.generic], limits: Limits) -> Samples:
    """Check one request's `audio_signal`.

    Args:
        signal: [1, L], int16 or float.
        limits: The longest audio that this model serves.

    Returns:
        [L] int16 as it came, or float32; a copy that outlives the request.

    Raises:
        AudioError: Wrong shape, empty, too short, too long, NaN, infinite or out of range.
    """
    if signal.ndim != 2 or signal.shape[0] != 1:  # noqa: PLR2004
        raise AudioError(
            f"audio_signal has shape {list(signal.shape)}; send one utterance a request, as [1, samples]: "
            "the server forms batches itself"
        )
    samples = signal[0]
    if samples.size < MIN_SAMPLES:
        raise AudioError(
            f"audio_signal has {samples.size} samples; at least {MIN_SAMPLES} ({1000 * MIN_SAMPLES // SAMPLE_RATE} ms "
            f"at {SAMPLE_RATE} Hz) are needed"
        )
    if samples.size > limits.max_samples:
        raise AudioError(
            f"audio_signal is {samples.size / SAMPLE_RATE:.1f} s long; this model takes at most "
            f"{limits.max_seconds:g} s: cut the audio at a pause"
        )
    if samples.dtype == np.int16:
        whole: Samples = samples.astype(np.int16)
        return whole
    if not np.isfinite(samples).all():
        raise AudioError("audio_signal holds NaN or infinite values")
    if np.abs(samples).max() > MAX_AMPLITUDE:
        raise AudioError(
            f"audio_signal reaches {np.abs(samples).max():g}; float audio is expected in [-1, 1]: "
            "divide 16-bit integers by 32768"
        )
    converted: Samples = samples.astype(np.float32)
    return converted


Batch = npt.NDArray[np.int16] | npt.NDArray[np.float32]
"""Utterances of one encoding, padded to one length: [B, L]."""


def floats(batch: Batch) -> npt.NDArray[np.float32]:
    """Audio of either encoding in [-1, 1]."""
    return batch * PCM_SCALE if batch.dtype == np.int16 else batch.astype(np.float32, copy=False)


class Batches:
    """Padded batches, all in the same memory: fresh pages for each cost more than filling them."""

    def __init__(self) -> None:
        self._memory = np.zeros(0, dtype=np.uint8)

    def pad(self, signals: Sequence[Samples], samples: int) -> tuple[Batch, npt.NDArray[np.int32]]:
        """Stack utterances into one batch, zeros behind each.

        Args:
            signals: B arrays [L_i] of one type, none longer than `samples`.
            samples: Length of the batch.

        Returns:
            [B, samples] of the signals' type, good until the next call, and [B, 1] int32 valid samples.
        """
        size = len(signals) * samples * signals[0].itemsize
        if size > self._memory.size:
            self._memory = np.zeros(size, dtype=np.uint8)
        batch: Any = self._memory[:size].view(signals[0].dtype).reshape(len(signals), samples)
        for row, signal in zip(batch, signals, strict=True):
            row[: signal.size] = signal  # numpy lets other threads run meanwhile
            row[signal.size :] = 0
        return batch, np.array([[signal.size] for signal in signals], dtype=np.int32)
