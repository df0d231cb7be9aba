"""The checkpoint's own transcripts (`references.json`), and which differences from them its near-ties explain.

Two correct implementations differ in their last digits. Where the best token of a step leads by less than that, either
may win: such a step is a near-tie. A served text is the checkpoint's if it is the same, or if the checkpoint's own
log-probabilities allow it: other tokens at near-ties, the same everywhere else, lead to it.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_contract.recipe import Precision
from asr_serving.text import NO_TOKEN, Vocabulary, transcribe

ROUNDING_MULTIPLE = 2
"""What rounding does to the checkpoint's own results, this many times over, is always accepted."""
MAX_MARGIN = 2.0
"""Of a near-tie, in log-probability: the best token is seven times as probable. Beyond that nothing is compared."""
MAX_TOKEN_LOGPROB_DIFFERENCE = {Precision.FP32: 1e-2, Precision.FP16: 0.25, Precision.BF16: 2.0}
"""Of any step. A sound FP32 build has 1e-5 and FP16 0.02; a window that is off by one sample 0.02, a weight matrix
scaled by 1.05 0.04, one that is zeroed or doubled 0.5 to 1.2."""
MEAN_TOKEN_LOGPROB_DIFFERENCE = {Precision.FP32: 1e-3, Precision.FP16: 5e-3, Precision.BF16: 4e-2}
"""Over all steps. A sound FP16 build has 3e-4; one weight matrix zeroed or doubled gives 0.014 to 0.02.
BF16 has an eighth of FP16's digits."""
NEAR_TIE_MULTIPLE = 4
"""A text may differ from the checkpoint's where the best token leads by at most this often the greatest difference of
the utterance's token log-probabilities, and not by more than twice what is accepted of those."""
RUNNERS_UP = 3
"""Kept for each step."""
MAX_PATHS = 2_000
"""Followed at once by `leads_to`; those that have fewer other tokens come first."""


@dataclass(frozen=True, slots=True)
class Heard:
    """NeMo's own transcript of an utterance: its text, and of each encoder step the best token and its log-probability.

    Attributes:
        text: What it wrote.
        tokens: [steps] int32.
        token_logprobs: [steps] float32.
        runners_up: Step, token, and how far its log-probability is below the best one's, where that is little.
        moved: By how much rounding moves its log-probabilities at most (`model_builder.rounding`).
        mean_moved: And on average over the steps.
    """

    text: str
    tokens: npt.NDArray[np.int32]
    token_logprobs: npt.NDArray[np.float32]
    runners_up: tuple[tuple[int, int, float], ...] = ()
    moved: float = 0.0
    mean_moved: float = 0.0


def from_logprobs(text: str, logprobs: npt.NDArray[np.float32], moved: npt.NDArray[np.float32]) -> Heard:
    """From all log-probabilities [steps, classes], and by how much rounding moves each step."""
    tokens = logprobs.argmax(axis=1).astype(np.int32)
    best = logprobs.max(axis=1)
    count = min(RUNNERS_UP + 1, logprobs.shape[1])
    likely = np.argpartition(-logprobs, count - 1, axis=1)[:, :count]
    margins = best[:, None] - np.take_along_axis(logprobs, likely, axis=1)
    steps, places = np.nonzero((margins <= MAX_MARGIN) & (likely != tokens[:, None]))
    found = zip(steps.tolist(), likely[steps, places].tolist(), margins[steps, places].tolist(), strict=True)
    return Heard(
        text,
        tokens,
        best,
        tuple((step, token, round(margin, 6)) for step, token, margin in found),
        moved=float(moved.max(initial=0.0)),
        mean_moved=float(moved.mean()) if moved.size else 0.0,
    )


def save(references: Iterable[Heard], path: Path) -> None:
    """Write as JSON."""
    content = [
        {
            "text": item.text,
            "tokens": item.tokens.tolist(),
            "token_logprobs": [round(value, 6) for value in item.token_logprobs.tolist()],
            "runners_up": item.runners_up,
            "moved": item.moved,
            "mean_moved": item.mean_moved,
        }
        for item in references
    ]
    path.write_text(json.dumps(content), encoding="utf-8")


def load(path: Path) -> list[Heard]:
    """Read what `save` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return [
        Heard(
            item["text"],
            np.array(item["tokens"], dtype=np.int32),
            np.array(item["token_logprobs"], dtype=np.float32),
            tuple((step, token, margin) for step, token, margin in item.get("runners_up", ())),
            moved=item.get("moved", 0.0),
            mean_moved=item.get("mean_moved", 0.0),
        )
        for item in content
    ]


def same_text(left: str, right: str) -> bool:
    """Whether two texts are equal, but for white space at the ends and the length and kind of white space elsewhere."""
    return left.split() == right.split()


def rounding_margin(reference: Heard) -> float:
    """Lead of a token below which rounding decides: the best one may lose what the other gains."""
    return 2 * ROUNDING_MULTIPLE * reference.moved


def token_logprob_limit(reference: Heard, precision: Precision) -> float:
    """What is accepted between the log-probability of a served token and the checkpoint's."""
    return max(MAX_TOKEN_LOGPROB_DIFFERENCE[precision], ROUNDING_MULTIPLE * reference.moved)


def near_tie_margin(reference: Heard, difference: float, precision: Precision) -> float:
    """Lead of a token below which another one is a near-tie.

    Args:
        reference: The checkpoint's own transcript.
        difference: Greatest difference between log-probabilities of its best tokens and of the served ones.
        precision: Of the served model.
    """
    least = max(2 * MEAN_TOKEN_LOGPROB_DIFFERENCE[precision], rounding_margin(reference))
    return max(min(NEAR_TIE_MULTIPLE * difference, 2 * token_logprob_limit(reference, precision), MAX_MARGIN), least)


def settled(reference: Heard, tokens: npt.NDArray[Any], margin: float) -> npt.NDArray[np.int32]:
    """Served tokens [steps] with the checkpoint's own wherever theirs is a near-tie: the rest are differences."""
    found = tokens.astype(np.int32)
    common = min(found.size, reference.tokens.size)
    if margin > MAX_MARGIN:
        found[:common] = reference.tokens[:common]
        return found
    for step, token, behind in reference.runners_up:
        if behind <= margin and step < common and found[step] == token:
            found[step] = reference.tokens[step]
    return found


def explained(reference: Heard, text: str, vocabulary: Vocabulary, margin: float) -> bool:
    """Whether a served text is the checkpoint's own, or its near-ties up to `margin` lead to it.

    The vocabulary must turn the checkpoint's tokens into the checkpoint's text; one that does not explains nothing.
    """
    if same_text(text, reference.text):
        return True
    known = reference.tokens.max(initial=0) <= vocabulary.blank
    if not known or not same_text(written(reference, vocabulary), reference.text):
        return False
    return margin > MAX_MARGIN or _leads_to(reference, text, vocabulary, margin)


def written(reference: Heard, vocabulary: Vocabulary) -> str:
    """What the server writes of the checkpoint's own tokens."""
    return _text(_collapsed(reference.tokens, vocabulary), vocabulary)


def _leads_to(reference: Heard, text: str, vocabulary: Vocabulary, margin: float) -> bool:
    options = [[int(token)] for token in reference.tokens]
    for step, token, behind in reference.runners_up:
        if behind <= margin:
            options[step].append(token)
    letters = "".join(text.split())
    # Paths that are the start of the text: the last token, what remains after merging repeats, and other tokens taken.
    paths: dict[tuple[int, tuple[int, ...]], int] = {(NO_TOKEN, ()): 0}
    for tokens in options:
        grown: dict[tuple[int, tuple[int, ...]], int] = {}
        for (last, kept), others in paths.items():
            for place, token in enumerate(tokens):
                longer = kept if token in {last, vocabulary.blank} else (*kept, token)
                if longer is not kept and not letters.startswith(_letters(longer, vocabulary)):
                    continue
                key = (token, longer)
                grown[key] = min(others + (place > 0), grown.get(key, len(options)))
        paths = dict(sorted(grown.items(), key=lambda item: item[1])[:MAX_PATHS])
    return any(same_text(_text(kept, vocabulary), text) for kept in {kept for _, kept in paths})


def _letters(tokens: Sequence[int], vocabulary: Vocabulary) -> str:
    return "".join("".join("".join(vocabulary.parts[token]).split()) for token in tokens)


def _collapsed(tokens: npt.NDArray[np.int32], vocabulary: Vocabulary) -> tuple[int, ...]:
    changes = np.flatnonzero(np.diff(tokens, prepend=NO_TOKEN))
    return tuple(int(token) for token in tokens[changes] if token != vocabulary.blank)


def _text(tokens: Sequence[int], vocabulary: Vocabulary) -> str:
    """What the server writes of tokens without repeats and blanks."""
    parted = np.full((1, 2 * len(tokens) + 1), vocabulary.blank, dtype=np.int32)
    parted[0, 1::2] = tokens
    (transcript,) = transcribe(parted, np.zeros(parted.shape, np.float32), np.array([parted.size]), vocabulary)
    return transcript.text
