"""CTC greedy decoding: from best tokens to text, words with their times, and a confidence."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's mark for the start of a word."""
NO_TOKEN = -1


@dataclass(frozen=True)
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

    @cached_property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """Each token's text between spaces."""
        mark = SPACE if self.kind == "sentencepiece" else " "
        return tuple(tuple(token.split(mark)) for token in self.tokens)

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
        confidence: Mean probability of the best token over the steps that carry one. Of an empty text, over all steps,
            which are blanks nearly everywhere: how sure the model is that nothing is said.
        words: The words one by one.
        offsets: [words, 2] float32, start and end of each in seconds.
    """

    text: str
    confidence: float
    words: tuple[str, ...]
    offsets: npt.NDArray[np.float32]


def collapse(
    tokens: npt.NDArray[np.int32], lengths: npt.NDArray[np.integer[Any]], blank: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Merge repeats, then drop blanks (Graves et al. 2006, "Connectionist temporal classification", the map B).

    Args:
        tokens: [B, T] best token of each step, blank included.
        lengths: [B] valid steps.
        blank: Class of the blank.

    Returns:
        Tokens [U] that remain of all rows, one row after the other; the row of each, the first step of its run, and the
        step after its last.
    """
    rows, steps = tokens.shape
    # No run crosses from one row into the next: each row ends with a step that is no token.
    flat = np.full((rows, steps + 1), NO_TOKEN, dtype=np.int32)
    np.copyto(flat[:, :-1], tokens, where=np.arange(steps) < lengths[:, None])
    flat = flat.reshape(-1)
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    ends = np.concatenate((starts[1:], [flat.size]))
    found = flat[starts]
    kept = (found != blank) & (found != NO_TOKEN)
    row, step = np.divmod(starts[kept], steps + 1)
    return found[kept], row, step, ends[kept] - row * (steps + 1)


def transcribe(
    tokens: npt.NDArray[np.int32],
    token_logprobs: npt.NDArray[np.float32],
    lengths: npt.NDArray[np.integer[Any]],
    vocabulary: Vocabulary,
) -> list[Transcript]:
    """Decode a batch of utterances.

    Args:
        tokens: [B, T] int32 best token of each step; what lies beyond the length is not read.
        token_logprobs: [B, T] float32 natural log-probability of that token.
        lengths: [B] valid steps.
        vocabulary: The model's tokens.
    """
    count, steps = tokens.shape
    kept, row, starts, ends = collapse(tokens, lengths, vocabulary.blank)
    valid = np.arange(steps) < lengths[:, None]
    probabilities = np.exp(token_logprobs, where=valid, out=np.zeros((count, steps), dtype=np.float32))
    spoken, silent = (_means(probabilities, counted) for counted in (valid & (tokens != vocabulary.blank), valid))
    bounds = np.searchsorted(row, np.arange(count + 1)).tolist()
    runs = list(zip(kept.tolist(), starts.tolist(), ends.tolist(), strict=True))
    transcripts = []
    for said, unsaid, first, last in zip(spoken, silent, bounds[:-1], bounds[1:], strict=True):
        words, offsets = _words(runs[first:last], vocabulary)
        confidence = said if words else unsaid
        times = np.array(offsets, dtype=np.float32).reshape(-1, 2) * np.float32(vocabulary.step_seconds)
        transcripts.append(Transcript(" ".join(words), confidence, tuple(words), times))
    return transcripts


def _means(values: npt.NDArray[np.float32], counted: npt.NDArray[np.bool_]) -> list[float]:
    """Mean of each row over what is counted; 1 where nothing is."""
    totals = counted.sum(axis=1)
    sums = values.sum(axis=1, where=counted)
    means: list[float] = np.where(totals > 0, sums / np.maximum(totals, 1), 1.0).tolist()
    return means


def _words(runs: Sequence[tuple[int, int, int]], vocabulary: Vocabulary) -> tuple[list[str], list[tuple[int, int]]]:
    """Words, and the first step of each and the one after its last, from tokens with theirs."""
    words: list[str] = []
    offsets: list[tuple[int, int]] = []
    spaces = 0  # before the part that comes
    for token, start, end in runs:
        for position, part in enumerate(vocabulary.parts[token]):
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
    return words, offsets
