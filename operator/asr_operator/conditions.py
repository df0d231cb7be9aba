"""The algebra of conditions. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from asr_operator.api.v1alpha1 import Condition, ConditionStatus

READY, BUILT, SERVING = "Ready", "Built", "Serving"
RECONCILING, STALLED, DEGRADED = "Reconciling", "Stalled", "Degraded"
"""True or absent: what is as it should be has none of these."""
ABNORMAL = {STALLED, DEGRADED}
"""Bad when True."""
ORDER = (READY, BUILT, SERVING, RECONCILING, STALLED, DEGRADED)

MESSAGE_LENGTH = 2_000


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition before it is known since when.

    Attributes:
        type: Of the condition.
        status: Whether it is so.
        reason: One word, of `events.Reason`.
        message: For people.
    """

    type: str
    status: ConditionStatus
    reason: str
    message: str

    @classmethod
    def of(cls, kind: str, holds: bool, reason: str, message: str) -> "Finding":
        """True or False."""
        return cls(kind, ConditionStatus.TRUE if holds else ConditionStatus.FALSE, reason, message)


def merge(
    before: Iterable[Condition], findings: Iterable[Finding], *, generation: int, now: datetime
) -> list[Condition]:
    """Conditions of now: what is not found any more goes, and times change only where a status does."""
    known = {condition.type: condition for condition in before}
    merged = []
    for found in sorted(findings, key=lambda finding: ORDER.index(finding.type)):
        former = known.get(found.type)
        same = former is not None and former.status == found.status
        merged.append(
            Condition(
                type=found.type,
                status=found.status,
                observed_generation=generation,
                last_transition_time=former.last_transition_time if former and same else now.replace(microsecond=0),
                reason=found.reason,
                message=found.message[:MESSAGE_LENGTH],
            )
        )
    return merged


@dataclass(frozen=True, slots=True)
class Transition:
    """A condition that is another now.

    Attributes:
        condition: As it is now; as it was if it is gone.
        gone: Whether it is no longer there.
    """

    condition: Condition
    gone: bool = False


def news(before: Sequence[Condition], after: Sequence[Condition]) -> list[Transition]:
    """What changed in status or reason and is worth an event: that something does not hold yet is not."""
    was = {condition.type: condition for condition in before}
    now = {condition.type: condition for condition in after}
    changed = [
        Transition(condition)
        for condition in after
        if condition.status is ConditionStatus.TRUE or condition.type in was
        if (former := was.get(condition.type)) is None
        or (former.status, former.reason) != (condition.status, condition.reason)
    ]
    # That work has ended, Ready tells.
    gone = [item for item in before if item.type not in now and item.type != RECONCILING]
    return changed + [Transition(condition, gone=True) for condition in gone]


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of this type."""
    return next((condition for condition in conditions if condition.type == kind), None)
