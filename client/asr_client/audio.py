"""Audio files to what the server takes: mono, 16 kHz, int16. Adapter of soundfile and soxr.

Files are unpacked block by block, so that memory holds what is sent and little more, whatever a header says.
"""

import io
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from asr_client import formats
from asr_client.channels import Mixer
from asr_serving.audio import MAX_AMPLITUDE
from asr_serving.tensors import SAMPLE_RATE

if TYPE_CHECKING:
    import soundfile

EXTENSIONS = (".wav", ".flac")
UNKNOWN_FRAMES = 2**63 - 1
"""What libsndfile says of a stream whose header does not tell."""
BLOCK_SAMPLES = 2**17
"""Samples of all channels that are unpacked at once."""
LOWEST_RATE, HIGHEST_RATE = 2_000, 1_000_000
"""Below, there is no speech; above, no sound card: a header that says so is damaged."""
SPOOLED_BYTES = 16 * 2**20
"""What comes from a pipe is kept in memory up to this size, and in a file of the system's temporary folder above."""
MOST_SPOOLED_BYTES = 4 * 2**30
WIDEST_SAMPLE = 8
"""Bytes of the widest sample, a 64-bit float."""
CUT = "cut it at pauses"
UNRECOGNISED = 1
"""libsndfile's error code for a format that it does not know."""


class AudioFileError(ValueError):
    """The file is not audio that can be sent."""


def read(
    source: Path | BinaryIO,
    *,
    name: str | None = None,
    max_seconds: float | None = None,
    channel: int | None = None,
) -> npt.NDArray[np.int16]:
    """Read WAV, FLAC or another format of libsndfile: any rate, any number of channels.

    Args:
        source: The file. What is no regular file, such as a pipe, is stored first.
        name: What messages call it; its path if None.
        max_seconds: Longest audio that is unpacked: a small FLAC can hold days of silence.
        channel: The one to take, from 1, or `channels.MIX`. None is their average, and an error where they cancel each
            other in it.

    Returns:
        [L] int16 at 16 kHz.

    Raises:
        AudioFileError: Not audio, empty, too long, cut short, not readable, or float samples that are not audio.
    """
    import soundfile  # noqa: PLC0415 (loads libsndfile)

    shown = name or str(source)
    path = str(source) if isinstance(source, Path) else None
    try:
        with _opened(source, shown, max_seconds) as stream, _sound(stream, shown, path) as file:
            return _decoded(file, shown, path, max_seconds, channel)
    except AudioFileError:
        raise
    except (soundfile.SoundFileError, OSError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        # What libraries raise about content that nobody has tried: one file must not end the others.
        if isinstance(error, OSError):
            raise AudioFileError(f"{shown}: cannot be read ({_reason(error)})") from error
        raise AudioFileError(_unknown(shown, error, path)) from error


@contextmanager
def _opened(source: Path | BinaryIO, shown: str, max_seconds: float | None) -> Iterator[BinaryIO]:
    """The file, seekable and at its beginning."""
    if not isinstance(source, Path):
        with _spooled(source, shown, max_seconds) as stored:
            yield stored
        return
    mode = source.stat().st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise AudioFileError(f"{shown}: is a device; give a file, or pipe audio into -")
    # Opened here, not by libsndfile: it calls every failure to open a file "System error".
    if stat.S_ISREG(mode):
        with source.open("rb", buffering=0) as file:
            yield file
    else:
        with source.open("rb") as pipe, _spooled(pipe, shown, max_seconds) as stored:
            yield stored


@contextmanager
def _spooled(stream: BinaryIO, shown: str, max_seconds: float | None) -> Iterator[BinaryIO]:
    """What comes from a pipe, stored: libsndfile goes back and forth in a file.

    Raises:
        AudioFileError: It is no audio, longer than `max_seconds` of audio can be, or cannot be stored.
    """
    head = stream.read(formats.HEAD_BYTES)
    if len(head) < formats.HEAD_BYTES:
        yield io.BytesIO(head)
        return
    most = _most_bytes(head, shown, max_seconds)
    with tempfile.SpooledTemporaryFile(SPOOLED_BYTES) as stored:
        size, part = 0, head
        while part:
            size += len(part)
            if size > most:
                raise AudioFileError(f"{shown}: is larger than {most / 1e6:,.0f} MB, too long to be sent: {CUT}")
            try:
                stored.write(part)
            except OSError as error:
                where = f"{tempfile.gettempdir()} ({_reason(error)}); the variable TMPDIR names another folder"
                raise AudioFileError(f"{shown}: cannot be stored in {where}") from error
            part = stream.read(2**20)
        stored.seek(0)
        yield stored  # type: ignore[misc] # it has all that is used of a BinaryIO


def _most_bytes(head: bytes, shown: str, max_seconds: float | None) -> int:
    """Most bytes that are taken of a stream that begins so.

    Raises:
        AudioFileError: It is no audio.
    """
    import soundfile  # noqa: PLC0415

    _refuse_known(head, shown, None)
    if max_seconds is None:
        return MOST_SPOOLED_BYTES
    try:
        with _sequential(_Stream(io.BytesIO(head))) as file:
            uncompressed = int(max_seconds * file.samplerate * file.channels * WIDEST_SAMPLE)
            return min(SPOOLED_BYTES + uncompressed, MOST_SPOOLED_BYTES)
    except soundfile.LibsndfileError as error:
        # Tags in front of an MP3 may be longer than what is here.
        if error.code == UNRECOGNISED and not head.startswith(b"ID3"):
            raise AudioFileError(_unknown(shown, error, None)) from error
        return MOST_SPOOLED_BYTES


def _refuse_known(head: bytes, shown: str, path: str | None) -> None:
    """Refuse what is known to be something else; libsndfile takes some of it for MP3."""
    found = formats.unreadable(head)
    if found is not None:
        raise AudioFileError(f"{shown}: cannot be read as audio, it is {found.kind}; {formats.advice(found, path)}")


def _unknown(shown: str, error: Exception, path: str | None) -> str:
    samples_alone = getattr(error, "code", None) == UNRECOGNISED
    advice = formats.advice(None, path) if samples_alone else f"convert it: {formats.conversion(path)}"
    return f"{shown}: cannot be read as audio ({_reason(error)}); {advice}"


@contextmanager
def _sound(stream: BinaryIO, shown: str, path: str | None) -> "Iterator[soundfile.SoundFile]":
    """The file, opened by libsndfile; refused where it is known to be something else.

    Raises:
        AudioFileError: It is empty, or no audio.
    """
    import soundfile  # noqa: PLC0415

    head = stream.read(formats.HEAD_BYTES)
    if not head:
        raise AudioFileError(f"{shown}: is empty")
    _refuse_known(head, shown, path)
    if formats.may_be_mpeg(head) and not formats.mpeg_frames_follow(stream):
        # Asked before libsndfile, which takes samples without a header for MP3, and prints what it stumbles over.
        raise AudioFileError(
            f"{shown}: cannot be read as audio, it begins as MP3 does, but no MP3 follows; {formats.advice(None, path)}"
        )
    unclosed = head.startswith(b"RIFF") and formats.unclosed_wav(stream)
    stream.seek(0)
    by_descriptor = isinstance(stream, io.FileIO) and not unclosed
    try:
        file = _sequential(stream.fileno() if by_descriptor else _Stream(stream, unclosed=unclosed))
    except soundfile.LibsndfileError as error:
        raise AudioFileError(_unknown(shown, error, path)) from error
    with file:
        yield file


def _decoded(
    file: "soundfile.SoundFile", shown: str, path: str | None, max_seconds: float | None, channel: int | None
) -> npt.NDArray[np.int16]:
    """All samples, mixed and resampled."""
    import soxr  # noqa: PLC0415

    _check_header(file, shown, max_seconds, channel)
    rate = file.samplerate
    mixer = Mixer(file.channels, channel)
    resampler = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    pcm, frames = bytearray(), 0
    for block in _blocks(file, shown):
        frames += len(block)
        if max_seconds is not None and frames / rate > max_seconds:
            raise AudioFileError(f"{shown}: is longer than the {max_seconds:g} s that are taken: {CUT}")
        mono = mixer.mono(block)
        pcm += _int16(mono if resampler is None else resampler.resample_chunk(mono))
    if resampler is not None and frames:
        pcm += _int16(resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    if not frames:
        raise AudioFileError(f"{shown}: holds no samples")
    # The length of an MP3 is an estimate.
    if frames < file.frames != UNKNOWN_FRAMES and file.format != "MP3":
        raise AudioFileError(
            f"{shown}: ends after {frames / rate:.2f} s of {file.frames / rate:.2f} s: was it copied completely?"
        )
    if not pcm:
        raise AudioFileError(f"{shown}: holds less than one sample at {SAMPLE_RATE} Hz")
    if mixer.cancels:
        raise AudioFileError(
            f"{shown}: its channels cancel each other when they are mixed (opposite phase); choose one: "
            f"--channel left, or {formats.conversion(path, channel=1)}"
        )
    return np.frombuffer(pcm, dtype=np.int16)


def _check_header(file: "soundfile.SoundFile", shown: str, max_seconds: float | None, channel: int | None) -> None:
    """Refuse what the header tells, before anything is unpacked."""
    rate, channels = file.samplerate, file.channels
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioFileError(
            f"{shown}: has {rate} samples a second, says its header; {LOWEST_RATE} to {HIGHEST_RATE} are taken"
        )
    if max_seconds is not None and file.frames != UNKNOWN_FRAMES and file.frames / rate > max_seconds:
        raise AudioFileError(f"{shown}: is {file.frames / rate:.2f} s long, at most {max_seconds:g} s are taken: {CUT}")
    if channel is not None and channel > channels:
        raise AudioFileError(f"{shown}: has {channels} channel{'s' if channels > 1 else ''}, there is no {channel}")


def _blocks(file: "soundfile.SoundFile", shown: str) -> Iterator[npt.NDArray[np.float32]]:
    """Samples [frames, channels], in their order.

    Raises:
        AudioFileError: Samples that are not audio.
    """
    size = max(min(BLOCK_SAMPLES // file.channels, file.frames), 1)
    left = file.frames
    while left > 0:
        block: npt.NDArray[np.float32] = file.read(min(size, left), dtype="float32", always_2d=True)
        if not len(block):
            return
        # Before anything is averaged: infinities of opposite sign would make a warning of it.
        peak = max(float(block.max()), -float(block.min()))
        if not np.isfinite(peak):
            raise AudioFileError(f"{shown}: holds NaN or infinite samples")
        if peak > MAX_AMPLITUDE:
            raise AudioFileError(
                f"{shown}: samples reach {peak:g}, but full scale is 1: divide 16-bit integers by 32768"
            )
        left -= len(block)
        yield block


def _int16(samples: npt.NDArray[np.float32]) -> bytes:
    """The inverse of int16 / 32768, so that 16-bit files arrive bit for bit."""
    pcm: npt.NDArray[np.int16] = np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(np.int16)
    return pcm.tobytes()


@cache
def _sequential_class() -> Any:  # noqa: ANN401 (soundfile has no types)
    import soundfile  # noqa: PLC0415

    class Sequential(soundfile.SoundFile):  # type: ignore[misc] # it has no types
        """A sound file that is read from its beginning to its end.

        Where a file can seek, soundfile seeks after each block. Decoders that keep a state lose it then (MP3), fail
        (DWVW), or cannot do it at all (GSM, G.721, G.723, NMS ADPCM, XI).
        """

        def seekable(self) -> bool:
            return False

    return Sequential


def _sequential(file: "int | _Stream") -> "soundfile.SoundFile":
    return _sequential_class()(file, closefd=False)


class _Stream:
    """A file as libsndfile's callbacks take it: an exception in one of them would be printed, and ignored.

    Args:
        file: Seekable.
        unclosed: Read the length in the header of a WAV as libsndfile takes it for one that was not closed.
    """

    UNCLOSED = (4, (8).to_bytes(4, "little"))

    def __init__(self, file: BinaryIO, *, unclosed: bool = False) -> None:
        self._file = file
        self._unclosed = unclosed

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._file.tell()}.get(whence)
        if start is None:
            start = self._file.seek(0, io.SEEK_END)
        return self._file.seek(max(start + offset, 0))

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int) -> bytes:
        start = self._file.tell()
        content: bytes = self._file.read(size)
        place, patch = self.UNCLOSED
        if self._unclosed and start < place + len(patch) and start + len(content) > place:
            whole = bytearray(content)
            for index, byte in enumerate(patch, start=place - start):
                if 0 <= index < len(whole):
                    whole[index] = byte
            return bytes(whole)
        return content


def _reason(error: Exception) -> str:
    """What libsndfile or the system says, without the file's name or a stream's memory address."""
    return str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error).strip()
