"""CTC greedy decoding: from best tokens to text, words with their times, and a confidence."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's mark for the start of a word."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens of a CTC model; the blank follows the last one.

    Attributes:
        tokens: Pieces in the order of the model's classes.
        kind: `sentencepiece` (words start with U+2581) or `characters` (words are parted by a space token).
        step_seconds: Seconds of audio for each encoder step.
        punctuation: Marks that join the word before them when one space lies between, as NeMo joins them.
    """

    tokens: tuple[str, ...]
    kind: str
    step_seconds: float
    punctuation: str = ""

    @property
    def blank(self) -> int:
        """Class of the blank."""
        return len(self.tokens)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        content = {
            "kind": self.kind,
            "step_seconds": self.step_seconds,
            "punctuation": self.punctuation,
            "tokens": self.tokens,
        }
        path.write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what `save` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(content["tokens"]), content["kind"], content["step_seconds"], content.get("punctuation", ""))


@dataclass(frozen=True, slots=True)
class Transcript:
    """What one utterance says.

    Attributes:
        text: The words.
        confidence: Mean probability of the best token over the steps that carry a token, or over all steps of silence.
        words: The words one by one.
        offsets: [words, 2] float32, start and end of each in seconds.
    """

    text: str
    confidence: float
    words: tuple[str, ...]
    offsets: npt.NDArray[np.float32]


def collapse(
    tokens: npt.NDArray[np.int32], blank: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Merge repeats, then drop blanks (Graves et al. 2006, "Connectionist temporal classification", the map B).

    Args:
        tokens: [T] best token of each step, blank included.
        blank: Class of the blank.

    Returns:
        Tokens [U] that remain, the first step of each run, and the step after its last.
    """
    if tokens.size == 0:
        empty = np.zeros(0, dtype=np.intp)
        return tokens, empty, empty
    starts = np.flatnonzero(np.concatenate(([True], tokens[1:] != tokens[:-1])))
    ends = np.concatenate((starts[1:], [tokens.size]))
    kept = tokens[starts] != blank
    return tokens[starts][kept], starts[kept], ends[kept]


def transcribe(
    tokens: npt.NDArray[np.int32], token_logprobs: npt.NDArray[np.float32], encoded_length: int, vocabulary: Vocabulary
) -> Transcript:
    """Decode one utterance.

    Args:
        tokens: [T] int32 best token of each step; what lies beyond `encoded_length` is not read.
        token_logprobs: [T] float32 natural log-probability of that token.
        encoded_length: Valid steps.
        vocabulary: The model's tokens.
    """
    valid = tokens[:encoded_length]
    kept, starts, ends = collapse(valid, vocabulary.blank)
    words: list[str] = []
    offsets: list[tuple[int, int]] = []
    spaces = 0  # before the part that comes
    mark = SPACE if vocabulary.kind == "sentencepiece" else " "
    for token, start, end in zip(kept.tolist(), starts.tolist(), ends.tolist(), strict=True):
        for position, part in enumerate(vocabulary.tokens[token].split(mark)):
            spaces += position > 0
            if not part:
                continue
            if words and (spaces == 0 or (spaces == 1 and part[0] in vocabulary.punctuation)):
                words[-1] += part
                offsets[-1] = (offsets[-1][0], end)
            else:
                words.append(part)
                offsets.append((start, end))
            spaces = 0

    spoken = valid != vocabulary.blank
    probabilities = np.exp(token_logprobs[:encoded_length])
    chosen = probabilities[spoken] if spoken.any() else probabilities
    return Transcript(
        text=" ".join(words),
        confidence=float(chosen.mean()) if chosen.size else 1.0,
        words=tuple(words),
        offsets=np.array(offsets, dtype=np.float32).reshape(-1, 2) * np.float32(vocabulary.step_seconds),
    )
