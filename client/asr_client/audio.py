"""Audio files to what the server takes: mono, 16 kHz, int16. Adapter of soundfile and soxr."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from asr_serving.audio import MAX_AMPLITUDE
from asr_serving.tensors import SAMPLE_RATE

EXTENSIONS = (".wav", ".flac")
UNKNOWN_FRAMES = 2**63 - 1
"""What libsndfile says of a stream whose header does not tell."""
HEADER_BYTES = 1024
"""Longer than the header of a file without samples."""


class AudioFileError(ValueError):
    """The file is not audio that can be sent."""


def read(
    source: Path | BinaryIO, *, name: str | None = None, max_seconds: float | None = None
) -> npt.NDArray[np.int16]:
    """Read WAV, FLAC or another format of libsndfile: any rate, any number of channels (they are averaged).

    Args:
        source: The file.
        name: What messages call it; its path if None.
        max_seconds: Longest audio that is unpacked: a small FLAC can hold days of silence.

    Returns:
        [L] int16 at 16 kHz.

    Raises:
        AudioFileError: Not audio, empty, too long, not readable, or float samples that are not audio.
    """
    import soundfile  # noqa: PLC0415 (loads libsndfile)
    import soxr  # noqa: PLC0415

    shown = name or str(source)
    try:
        # Read here, not by libsndfile: it calls every failure to open a file "System error".
        content = source.read_bytes() if isinstance(source, Path) else source.read()
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate, seconds = file.samplerate, file.frames / file.samplerate
            if file.frames == UNKNOWN_FRAMES:
                raise AudioFileError(f"{shown}: its header does not say how long it is; was it written to a pipe?")
            if max_seconds is not None and seconds > max_seconds:
                raise AudioFileError(f"{shown}: is {seconds:.2f} s long, at most {max_seconds:g} s are taken")
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise AudioFileError(f"{shown}: cannot be read as audio ({_reason(error)})") from error
    if samples.size == 0:
        # Who writes a WAV fills in its length at the end.
        cut_off = len(content) > HEADER_BYTES
        raise AudioFileError(
            f"{shown}: holds no samples" + (", says its header: was it written to the end?" if cut_off else "")
        )
    # Before the mean: infinities of opposite sign would make a warning of it.
    if not np.isfinite(samples).all():
        raise AudioFileError(f"{shown}: holds NaN or infinite samples")
    peak = float(np.abs(samples).max())
    if peak > MAX_AMPLITUDE:
        raise AudioFileError(f"{shown}: samples reach {peak:g}, but full scale is 1: divide 16-bit integers by 32768")
    mono = samples.mean(axis=1)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    # The inverse of int16 / 32768, so that 16-bit files arrive bit for bit.
    scaled: npt.NDArray[np.int16] = np.clip(np.rint(mono * 32768.0), -32768, 32767).astype(np.int16)
    if scaled.size == 0:
        raise AudioFileError(f"{shown}: holds less than one sample at {SAMPLE_RATE} Hz")
    return scaled


def _reason(error: Exception) -> str:
    """What libsndfile or the system says, without the file's name or a stream's memory address."""
    return str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error).strip()
