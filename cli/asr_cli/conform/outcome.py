"""Result of one conformance check. Nothing in it names addresses, secrets, or the texts of a user's audio."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

ADDRESS = re.compile(r"https?://\S+|\bipv[46]:\S+|\[[0-9a-f:]+\]:\d+|(?<![\w.-])[\w.-]+:\d{2,5}\b")
"""What gRPC and Python name in their errors."""


class Outcome(StrEnum):
    """Whether a check passed."""

    PASS = "pass"  # noqa: S105 (not a password)
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found.

    Attributes:
        check: Name of the check.
        outcome: Whether it passed.
        message: What was found, or why the check was skipped.
        hint: What to do; empty when there is nothing to do.
        figures: Numbers behind the judgement, as JSON.
        details: What the terminal shows and the record leaves out, such as texts.
    """

    check: str
    outcome: Outcome
    message: str
    hint: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    details: str = ""

    def to_json(self) -> dict[str, Any]:
        """One entry of the record."""
        return {
            "check": self.check,
            "outcome": self.outcome.value,
            "message": ADDRESS.sub("ADDRESS", self.message),
            "hint": self.hint or None,
            "figures": dict(self.figures),
        }


def passed(check: str, message: str, **figures: Any) -> Result:  # noqa: ANN401 (any JSON)
    """A check that passed."""
    return Result(check, Outcome.PASS, message, figures=figures)


def failed(check: str, message: str, hint: str, *, details: str = "", **figures: Any) -> Result:  # noqa: ANN401
    """A check that failed, with what to do."""
    return Result(check, Outcome.FAIL, message, hint, figures, details)


def skipped(check: str, reason: str, hint: str = "", **figures: Any) -> Result:  # noqa: ANN401
    """A check that could not be made, or that does not apply."""
    return Result(check, Outcome.SKIPPED, reason, hint, figures)
