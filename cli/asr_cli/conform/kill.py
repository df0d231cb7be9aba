"""Checks that end processes and pods, under load: a Python process of Triton, the server, and a pod.

They need `--kill`. What a client sees is judged apart from how the pods recover.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_cli.conform.outcome import Result, failed, passed
from asr_client.transcription import Client, TranscriptionError, is_lost

STUB, TERMINATION, DELETION = "death of a Python process", "SIGTERM", "pod deletion"
CLIENTS = 8
IN_FLIGHT_AT_END = 64
"""Requests that wait when the server gets SIGTERM."""
PAUSE_SECONDS = 0.3
RECOVERY_SECONDS = 240.0
POLL_SECONDS = 1.0
UNAVAILABLE = "StatusCode.UNAVAILABLE"


@dataclass(slots=True)
class Load:
    """What became of requests that are sent without an end.

    Attributes:
        right: Answers with the utterance's own text.
        wrong: Answers with another text.
        errors: How often each kind of failure came.
    """

    right: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)


@asynccontextmanager
async def steady(
    client: Client, signals: Sequence[npt.NDArray[np.int16]], expected: Sequence[str]
) -> AsyncIterator[Load]:
    """Send utterances while the block runs, a few at once."""
    load, ending, upcoming = Load(), asyncio.Event(), iter(range(1 << 62))

    async def send() -> None:
        while not ending.is_set():
            index = next(upcoming) % len(signals)
            try:
                answer = await client.transcribe(signals[index])
            except TranscriptionError as error:
                load.errors[f"{error.status}: {error}"] += 1
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                load.right += answer.text == expected[index]
                load.wrong += answer.text != expected[index]

    tasks = [asyncio.create_task(send()) for _ in range(CLIENTS)]
    try:
        yield load
    finally:
        ending.set()
        await asyncio.gather(*tasks)


async def until(reached: Callable[[], Awaitable[bool]], seconds: float = RECOVERY_SECONDS) -> float | None:
    """Seconds until a state is reached; None when it is not in time."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if await reached():
            return time.monotonic() - began
        await asyncio.sleep(POLL_SECONDS)
    return None


def judge_stub(load: Load, *, restarted: bool, recovered: float | None) -> Result:
    """Whether the death of the scheduler's process restarts its container, and no answer is wrong.

    Args:
        load: What clients saw; failures are allowed while the process is dead.
        restarted: Whether Kubernetes restarted the container.
        recovered: Seconds until all pods were ready again; None when they did not become ready.
    """
    figures: dict[str, Any] = {"restarted": restarted, "recovered_seconds": _rounded(recovered), **_figures(load)}
    if load.wrong:
        message = f"{load.wrong} requests were answered with a wrong text after the process was killed"
        return failed(STUB, message, "Stop using this server, and report this with the record.", **figures)
    if not restarted:
        message = (
            f"the container was not restarted within {RECOVERY_SECONDS:.0f} s: the pod fails for as long as it lives"
        )
        hint = "Delete the pod. Use Triton 26.01 or newer, which reports it, and the newest operator, which probes it."
        return failed(STUB, message, hint, **figures)
    if recovered is None:
        hint = "kubectl describe pod and the log of container triton show why."
        return failed(STUB, "the container was restarted, but did not become ready again", hint, **figures)
    return passed(STUB, f"container restarted, ready again after {recovered:.0f} s, no wrong answer", **figures)


def judge_deletion(load: Load, recovered: float | None) -> Result:
    """Whether deleting a pod under load costs no request."""
    figures: dict[str, Any] = {"recovered_seconds": _rounded(recovered), **_figures(load)}
    if load.wrong or load.errors:
        first = next(iter(load.errors), "wrong text")
        message = f"{load.errors.total()} requests failed and {load.wrong} were answered wrong: {first}"
        hint = "Raise terminationGracePeriodSeconds if requests take long; see the documentation on zero downtime."
        return failed(DELETION, message, hint, **figures)
    if recovered is None:
        hint = "kubectl describe pod shows why its successor does not become ready."
        return failed(DELETION, "no request failed, but the pod was not replaced", hint, **figures)
    return passed(DELETION, f"{load.right} requests answered, none failed; replaced after {recovered:.0f} s", **figures)


@dataclass(frozen=True, slots=True)
class Ended:
    """What a server did with the requests in flight when it got SIGTERM."""

    sent: int
    right: int
    wrong: int
    unavailable: int
    other: Counter[str]


async def end_under_load(
    client: Client,
    signals: Sequence[npt.NDArray[np.int16]],
    expected: Sequence[str],
    terminate: Callable[[], Awaitable[None]],
) -> Ended:
    """Send requests, have the server end while they wait, and see what becomes of each."""
    chosen = [index % len(signals) for index in range(IN_FLIGHT_AT_END)]

    async def one(index: int) -> str | TranscriptionError:
        try:
            return (await client.transcribe(signals[index])).text
        except TranscriptionError as error:
            return error

    requests = [asyncio.create_task(one(index)) for index in chosen]
    await asyncio.sleep(PAUSE_SECONDS)
    await terminate()
    answers = await asyncio.gather(*requests)
    lost = [answer for answer in answers if isinstance(answer, TranscriptionError)]
    texts = [
        (answer, expected[index]) for answer, index in zip(answers, chosen, strict=True) if isinstance(answer, str)
    ]
    return Ended(
        sent=len(chosen),
        right=sum(text == own for text, own in texts),
        wrong=sum(text != own for text, own in texts),
        unavailable=sum(is_lost(error) for error in lost),
        other=Counter(f"{error.status}: {error}" for error in lost if not is_lost(error)),
    )


def judge_termination(found: Ended) -> Result:
    """Whether each request in flight was answered, or failed in a way that clients repeat elsewhere."""
    figures: dict[str, Any] = {
        "sent": found.sent,
        "answered": found.right,
        "unavailable": found.unavailable,
        "wrong": found.wrong,
        "other": found.other.total(),
    }
    if found.wrong:
        hint = "Stop using this server, and report this with the record."
        return failed(TERMINATION, f"{found.wrong} of {found.sent} answers were wrong", hint, **figures)
    if found.other:
        message = f"{found.other.total()} of {found.sent} requests failed as {next(iter(found.other))}"
        hint = "Clients repeat UNAVAILABLE alone: raise the exit timeout (terminationGracePeriodSeconds)."
        return failed(TERMINATION, message, hint, **figures)
    if found.right + found.unavailable != found.sent:
        return failed(TERMINATION, "not every request came back", "Report this with the record.", **figures)
    message = f"{found.right} of {found.sent} in flight answered, {found.unavailable} UNAVAILABLE, nothing else"
    return passed(TERMINATION, message, **figures)


def _figures(load: Load) -> dict[str, Any]:
    return {"right": load.right, "wrong": load.wrong, "failed": load.errors.total()}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
