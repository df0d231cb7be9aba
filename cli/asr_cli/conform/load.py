"""256 requests in flight: none fails, each gets its own text, and the server counts what was sent."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_cli.conform.outcome import Result, failed, passed, skipped
from asr_cli.conform.prometheus import Metrics
from asr_client.transcription import Transcript, TranscriptionError
from asr_contract import telemetry
from asr_serving.tensors import SAMPLE_RATE

IN_FLIGHT = 256
LOAD, SUMS = "256 in flight", "metric sums"
BUDGET_SECONDS = 30.0
"""About how long the load may take on a slow server: then its shorter utterances are sent."""
FEWEST = 4
"""Different utterances at least."""
ROUNDING = 1e-3
"""Relative: Triton prints six digits of large numbers."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the scheduler model counts, summed over its processes; also differences of two readings."""

    utterances: float
    batches: float
    audio_seconds: float
    padded_audio_seconds: float
    waiting_seconds: float
    refused: float
    failed: float
    cancelled: float
    pending: float
    request_count: float
    request_seconds: float
    request_bucket: float
    batch_count: float
    batch_sum: float
    batch_bucket: float

    def since(self, before: "Counts") -> "Counts":
        """What was counted after `before`; `pending` is as it is now."""
        values = {name: getattr(self, name) - getattr(before, name) for name in self.__slots__}
        return Counts(**(values | {"pending": self.pending}))

    def to_json(self) -> dict[str, float]:
        """For a record."""
        return {name: round(float(getattr(self, name)), 3) for name in self.__slots__}


def counts(metrics: Metrics, model: str) -> Counts:
    """Read the counts of a model."""

    def total(name: str, **labels: str) -> float:
        return metrics.total(name, model=model, **labels) or 0.0

    request_bucket, request_sum, request_count = telemetry.histogram_series(telemetry.REQUEST_SECONDS)
    batch_bucket, batch_sum, batch_count = telemetry.histogram_series(telemetry.BATCH_UTTERANCES)
    return Counts(
        utterances=total(telemetry.UTTERANCES),
        batches=total(telemetry.BATCHES),
        audio_seconds=total(telemetry.AUDIO_SECONDS),
        padded_audio_seconds=total(telemetry.PADDED_AUDIO_SECONDS),
        waiting_seconds=total(telemetry.WAITING_SECONDS),
        refused=total(telemetry.REFUSED),
        failed=total(telemetry.FAILED),
        cancelled=total(telemetry.CANCELLED),
        pending=total(telemetry.PENDING_UTTERANCES),
        request_count=total(request_count),
        request_seconds=total(request_sum),
        request_bucket=total(request_bucket, le="+Inf"),
        batch_count=total(batch_count),
        batch_sum=total(batch_sum),
        batch_bucket=total(batch_bucket, le="+Inf"),
    )


def choose(signals: Sequence[npt.NDArray[np.int16]], rtfx: float) -> list[int]:
    """Utterances for the load: all of them, or on a slow server the shorter ones.

    Args:
        signals: What there is to send.
        rtfx: Audio seconds a second that the server has shown.

    Returns:
        Indices into `signals`, of which each is sent about equally often.
    """
    by_length = sorted(range(len(signals)), key=lambda index: signals[index].size)
    chosen: list[int] = []
    for index in by_length:
        seconds = sum(signals[each].size for each in (*chosen, index)) / SAMPLE_RATE / (len(chosen) + 1)
        if len(chosen) >= FEWEST and seconds * IN_FLIGHT > BUDGET_SECONDS * rtfx:
            break
        chosen.append(index)
    return chosen


def judge_load(
    sent: Sequence[int],
    answers: Sequence[Transcript | TranscriptionError],
    expected: Sequence[str],
    tied: Collection[int],
    *,
    exact: bool,
) -> Result:
    """Whether each request was answered with its own utterance's text.

    Args:
        sent: Index of the utterance of each request.
        answers: As many.
        expected: Text of each utterance when it was sent before, with few others.
        tied: Utterances whose text may differ, since two tokens were equally probable.
        exact: Whether rounding is independent of the batch (FP32); otherwise one text in twenty may differ.
    """
    errors = [str(answer) for answer in answers if isinstance(answer, TranscriptionError)]
    different = [
        (index, answer.text)
        for index, answer in zip(sent, answers, strict=True)
        if isinstance(answer, Transcript) and answer.text != expected[index] and index not in tied
    ]
    swapped = [index for index, text in different if text in set(expected) - {expected[index]}]
    figures: dict[str, Any] = {
        "requests": len(sent),
        "failed": len(errors),
        "different": len(different),
        "swapped": len(swapped),
    }
    if errors:
        hint = "See Triton's log. Where it names shared memory, /dev/shm is too small; where it names queues, load is."
        return failed(LOAD, f"{len(errors)} of {len(sent)} requests failed: {errors[0]}", hint, **figures)
    if swapped:
        message = f"{len(swapped)} of {len(sent)} requests were answered with another utterance's text"
        return failed(LOAD, message, "Stop using this server, and report this with the record.", **figures)
    if len(different) > (0 if exact else len(sent) // 20):
        message = f"{len(different)} of {len(sent)} texts differ from those of the same audio under little load"
        return failed(LOAD, message, "Batches change the results here: report this with the record.", **figures)
    return passed(LOAD, f"{len(sent)} of {len(sent)} answered, each with its own text", **figures)


def judge_sums(found: Counts, sent: int, seconds: float, rows: int | None, *, stable: bool = True) -> Result:
    """Whether the server's metrics agree with each other and with what was sent.

    Args:
        found: Counted while the load ran.
        sent: Requests that were answered.
        seconds: Their audio.
        rows: Rows that the acoustic model computed in that time, as Triton counts them; None where it is not known.
        stable: Whether the counts stood still when they were read.
    """
    if not stable:
        reason = "the counts do not stand still: other clients send requests"
        return skipped(SUMS, reason, "Repeat this while no other client uses the server.")
    figures: dict[str, Any] = {
        **found.to_json(),
        "sent": sent,
        "sent_audio_seconds": round(seconds, 3),
        "acoustic_rows": rows,
    }
    problems = [*_inner_problems(found), *_outer_problems(found, sent, seconds, rows)]
    if problems:
        hint = "Dashboards and autoscaling go by these metrics. If others send requests now, repeat this without them."
        return failed(SUMS, "; ".join(problems), hint, **figures)
    others = found.utterances - sent
    note = f", {others:g} of them by other clients" if others else ""
    batch = found.utterances / found.batches if found.batches else 0.0
    share = found.audio_seconds / found.padded_audio_seconds if found.padded_audio_seconds else 0.0
    message = (
        f"{found.utterances:g} utterances{note}, mean batch {batch:.1f}, {share:.0%} of the computed audio is valid"
    )
    return passed(SUMS, message, **figures)


def _inner_problems(found: Counts) -> list[str]:
    """Where the metrics contradict each other."""
    equal = {
        "request_count": found.utterances,
        "request_bucket": found.utterances,
        "batch_sum": found.utterances,
        "batch_count": found.batches,
        "batch_bucket": found.batches,
    }
    problems = [
        f"{name} is {getattr(found, name):g} instead of {value:g}"
        for name, value in equal.items()
        if getattr(found, name) != value
    ]
    if found.audio_seconds > found.padded_audio_seconds * (1 + ROUNDING):
        problems.append("more audio was transcribed than computed")
    if found.waiting_seconds > found.request_seconds * (1 + ROUNDING) + ROUNDING:
        problems.append("utterances waited longer than their requests took")
    return problems


def _outer_problems(found: Counts, sent: int, seconds: float, rows: int | None) -> list[str]:
    """Where the metrics contradict what was sent and what Triton counted."""
    problems = []
    if found.pending != 0:
        problems.append(f"{found.pending:g} utterances are pending with nothing in flight")
    if found.failed or found.cancelled:
        problems.append(f"{found.failed:g} failed and {found.cancelled:g} cancelled, but all were answered")
    if found.utterances < sent:
        problems.append(f"{found.utterances:g} utterances were counted, {sent} were answered")
    if found.utterances == sent and abs(found.audio_seconds - seconds) > ROUNDING * seconds + ROUNDING:
        problems.append(f"{found.audio_seconds:g} audio seconds were counted, {seconds:g} sent")
    if rows is not None and (rows < found.utterances or (found.utterances == sent and rows != sent)):
        problems.append(f"the acoustic model computed {rows} rows for {found.utterances:g} utterances")
    return problems
