"""What checks find: one thing each, in words, with what to do."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What came of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked thing.

    Attributes:
        check: What was checked, in a word or two.
        outcome: Whether it is as it should be.
        message: What was found.
        hint: What to do; empty when there is nothing to do.
    """

    check: str
    outcome: Outcome
    message: str
    hint: str = ""

    def to_json(self) -> dict[str, str | None]:
        """One line of `asr doctor --json`."""
        return {
            "check": self.check,
            "outcome": str(self.outcome),
            "message": self.message,
            "hint": self.hint or None,
        }
