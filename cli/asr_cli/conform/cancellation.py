"""Clients that give up: nothing is computed for them, and all others are answered."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from asr_cli.conform.load import Counts
from asr_cli.conform.outcome import Result, failed, passed, skipped
from asr_client.transcription import Client, TranscriptionError
from asr_serving.tensors import SAMPLE_RATE

CHECK = "cancellation"
REQUESTS = 192
PATIENT_EACH = 16
"""Every how manieth client waits for its answer."""
BACKLOG_SECONDS = 20.0
"""How long the server would take for all of them: a client is asked after once its request has waited a second."""
NOTICED_SECONDS = 4.0
"""By then the server must have found clients gone that wait: batches under way when they left are computed."""
ACCEPT_SECONDS, SETTLE_SECONDS = 120.0, 180.0
POLL_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Given:
    """What came of it.

    Attributes:
        sent: Requests.
        patient: Those whose clients waited.
        answered: Those of them that were answered.
        seconds: From giving up until nothing was pending.
        computed: Utterances that the server counted as transcribed.
        cancelled: Utterances that it counted as not computed.
        failed: Utterances that failed in the server.
        pending: Utterances that it still counts as waiting.
    """

    sent: int
    patient: int
    answered: int
    seconds: float
    computed: int
    cancelled: int
    failed: int
    pending: int


def judge(found: Given) -> Result:
    """Whether what clients no longer wait for was left out, and nothing else."""
    figures = asdict(found) | {"seconds": round(found.seconds, 2)}
    shown = f"{found.sent - found.patient} of {found.sent} clients gave up: {found.cancelled} were not computed"
    hint = (
        "Look at Triton's log: after an overload this server would compute requests without clients. If others send "
        "requests now, repeat this without them."
    )
    if found.answered != found.patient:
        message = f"{found.patient - found.answered} of {found.patient} clients that waited got no answer"
        return failed(CHECK, message, hint, **figures)
    if found.pending or found.failed:
        return failed(CHECK, f"{shown}; {found.pending} stay pending, {found.failed} failed", hint, **figures)
    if found.computed + found.cancelled < found.sent:
        message = (
            f"{shown}, {found.computed} were computed: {found.sent - found.computed - found.cancelled} are missing"
        )
        return failed(CHECK, message, hint, **figures)
    if found.cancelled > 0:
        return passed(CHECK, f"{shown}, {found.patient} of {found.patient} that waited were answered", **figures)
    if found.seconds > NOTICED_SECONDS:
        return failed(CHECK, f"{shown}, though the server worked on for {found.seconds:.1f} s", hint, **figures)
    reason = f"the server was done {found.seconds:.1f} s after clients gave up: none had waited long enough"
    return skipped(CHECK, reason, "This server is too fast for the check.", **figures)


async def give_up(
    client: Client, speech: npt.NDArray[np.int16], seconds: float, read: Callable[[], Awaitable[Counts]]
) -> Given:
    """Send many requests, and take most of them back once all are accepted.

    Args:
        client: Connected to the scheduler model.
        speech: [L], repeated as needed.
        seconds: Length of each utterance.
        read: Reads what the server has counted.
    """
    signal = np.resize(speech, round(seconds * SAMPLE_RATE))
    before = await read()

    async def one() -> bool:
        try:
            await client.transcribe(signal)
        except TranscriptionError:
            return False
        return True

    requests = [asyncio.create_task(one()) for _ in range(REQUESTS)]
    patient = requests[::PATIENT_EACH]
    deadline = time.monotonic() + ACCEPT_SECONDS
    while time.monotonic() < deadline:
        now = await read()
        if now.pending + now.since(before).utterances >= REQUESTS:
            break
        await asyncio.sleep(POLL_SECONDS)
    left = time.monotonic()
    for request in requests:
        if request not in patient:
            request.cancel()
    answers: Sequence[bool | BaseException] = await asyncio.gather(*requests, return_exceptions=True)
    found, spent = await _until_idle(read, before, left)
    return Given(
        sent=REQUESTS,
        patient=len(patient),
        answered=sum(answer is True for answer in answers[::PATIENT_EACH]),
        seconds=spent,
        computed=round(found.utterances),
        cancelled=round(found.cancelled),
        failed=round(found.failed),
        pending=round(found.pending),
    )


async def _until_idle(read: Callable[[], Awaitable[Counts]], before: Counts, left: float) -> tuple[Counts, float]:
    """What was counted until nothing was pending, and when that was; metrics lag behind by a tenth of a second."""
    deadline = time.monotonic() + SETTLE_SECONDS
    last = (await read()).since(before)
    while time.monotonic() < deadline:
        seen = time.monotonic()
        await asyncio.sleep(POLL_SECONDS)
        now = (await read()).since(before)
        if now == last and now.pending == 0:
            return now, seen - left
        last = now
    return last, time.monotonic() - left
