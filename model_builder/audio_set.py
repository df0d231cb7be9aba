"""The check audio: recordings that a build must transcribe like the checkpoint does."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asr_client import references
from asr_client.audio import EXTENSIONS, AudioFileError, read
from asr_client.formats import conversion
from asr_contract.errors import CheckAudioError
from asr_serving.audio import MIN_SAMPLES, Batch, Samples, floats
from asr_serving.tensors import SAMPLE_RATE

SHIPPED = Path(__file__).parent / "check_audio"
TRANSCRIPTS = "transcripts.json"
MAX_FILES = 2_000
MAX_SHOWN = 10
"""Files that are refused in one message."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording.

    Attributes:
        name: File name.
        signal: [L] int16 at 16 kHz.
        text: What is said, where known.
    """

    name: str
    signal: npt.NDArray[np.int16]
    text: str | None

    @property
    def seconds(self) -> float:
        """Length."""
        return self.signal.size / SAMPLE_RATE

    @property
    def samples(self) -> npt.NDArray[np.float32]:
        """[L] float32 in [-1, 1]."""
        return floats(self.signal)

    def encoded(self, wire: str) -> Samples:
        """[L] as it reaches the mel graph when clients use this encoding."""
        return self.signal if wire == "PCM16" else self.samples


@dataclass(frozen=True, slots=True)
class AudioSet:
    """All recordings of a folder, in the order of their names."""

    utterances: tuple[Utterance, ...]
    sha256: str

    @property
    def seconds(self) -> float:
        """Length of all."""
        return sum(utterance.seconds for utterance in self.utterances)

    @property
    def texts(self) -> list[str] | None:
        """What is said in each, None unless all are known."""
        texts = [utterance.text for utterance in self.utterances if utterance.text is not None]
        return texts if len(texts) == len(self.utterances) else None


def load(folder: Path, *, max_seconds: int) -> AudioSet:
    """Read WAV and FLAC files, and `transcripts.json` ({"file.wav": {"text": "..."}}) beside them if there is one.

    Of the set that ships, what is longer than `max_seconds` is left out: users cannot change it.

    Raises:
        CheckAudioError: No folder, no audio, or a file that is not audio, too short or longer than `max_seconds`.
    """
    if not folder.is_dir():
        raise CheckAudioError(f"check audio folder {folder} does not exist")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)
    if not files or len(files) > MAX_FILES:
        other = next((path for path in sorted(folder.iterdir()) if not files and path.is_file()), None)
        hint = "" if other is None else f"; for audio in other files: {conversion(str(other))}"
        raise CheckAudioError(
            f"{folder} holds {len(files)} WAV or FLAC files; between 1 and {MAX_FILES} are needed{hint}"
        )
    texts = _transcripts(folder / TRANSCRIPTS, files)
    digest = hashlib.sha256()
    utterances, refused = [], []
    for path in files:
        if not path.name.isprintable():
            raise CheckAudioError(f"{folder} holds {path.name!r}; names of check audio must be printable")
        try:
            signal = _signal(path, None if folder == SHIPPED else max_seconds)
        except AudioFileError as error:
            refused.append(str(error))
            continue
        if folder == SHIPPED and signal.size > max_seconds * SAMPLE_RATE:
            continue
        if not MIN_SAMPLES <= signal.size <= max_seconds * SAMPLE_RATE:
            refused.append(
                f"{path} is {signal.size / SAMPLE_RATE:.2f} s long; check audio must have between 0.025 s and "
                f"{max_seconds} s, the longest audio that the build serves"
            )
            continue
        text = texts.get(path.name)
        digest.update(f"{path.name}\0{text or ''}\0{signal.size}\0".encode() + signal.tobytes())
        utterances.append(Utterance(path.name, signal, text))
    if refused:
        more = f"\nand {len(refused) - MAX_SHOWN} more files" if len(refused) > MAX_SHOWN else ""
        raise CheckAudioError("\n".join(refused[:MAX_SHOWN]) + more)
    if not utterances:
        raise CheckAudioError(
            f"none of the check audio that ships is at most {max_seconds} s long; give your own, no longer than that"
        )
    return AudioSet(tuple(utterances), digest.hexdigest())


def _signal(path: Path, max_seconds: float | None) -> npt.NDArray[np.int16]:
    """The recording in a file; no pipe, which a build could wait for without end."""
    if path.exists() and not path.is_file():
        raise AudioFileError(f"{path}: is no file")
    return read(path, max_seconds=max_seconds)


def in_noise(
    signals: Sequence[Samples], *, batch: int, samples: int, wire: str, seed: int = 0
) -> tuple[Batch, npt.NDArray[np.int32]]:
    """A batch whose padding is noise, since a graph that masks it gives the same text whatever lies there.

    Args:
        signals: As `Utterance.encoded` gives them; rows behind them are noise from end to end.
        batch: Rows.
        samples: Padded length.
        wire: Their encoding.
        seed: Of the noise.

    Returns:
        [batch, samples] int16 or float32, and valid samples [batch, 1] int32.
    """
    noise = np.random.default_rng(seed).normal(0, 0.1, (batch, samples))
    padded: Batch = (noise * 2**15).astype(np.int16) if wire == "PCM16" else noise.astype(np.float32)
    lengths = np.full((batch, 1), samples, dtype=np.int32)
    for row, signal in enumerate(signals):
        padded[row, : signal.size] = signal
        lengths[row] = signal.size
    return padded, lengths


def _transcripts(path: Path, files: Sequence[Path]) -> dict[str, str]:
    """Texts by the names of these files."""
    if not path.exists():
        return {}
    try:
        return references.matched(references.load(path), [file.name for file in files])
    except references.ReferencesError as error:
        raise CheckAudioError(str(error)) from error
