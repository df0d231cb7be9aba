"""Word error rate and token agreement: adapter of jiwer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Substitutions, deletions and insertions over all words of the references; 0 to above 1."""
    import jiwer  # noqa: PLC0415

    return float(jiwer.wer(list(references), list(hypotheses)))


def token_agreement(references: Sequence[npt.NDArray[np.int32]], hypotheses: Sequence[npt.NDArray[Any]]) -> float:
    """Share of encoder steps with the same best token; steps that only one side has count against it."""
    same = total = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        common = min(reference.size, hypothesis.size)
        same += int((reference[:common] == hypothesis[:common]).sum())
        total += max(reference.size, hypothesis.size)
    return same / total if total else 1.0
