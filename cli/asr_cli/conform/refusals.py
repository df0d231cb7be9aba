"""Requests that must be refused, each beside a good one that must not suffer from it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_cli.conform.outcome import Result, failed, passed, skipped
from asr_cli.conform.versions import numbers
from asr_client.transcription import Client, TranscriptionError, infer
from asr_contract import telemetry
from asr_serving.tensors import SAMPLE_RATE

INVALID = "StatusCode.INVALID_ARGUMENT"
REQUEST_SECONDS = 120.0
SAFE_CLASS_COUNT = (2, 60)
"""Core of Triton 25.08: before it, `class_count` on texts ended the server."""
TEXTS = "decoded_texts"
COUNTED = "refused requests are counted"


@dataclass(frozen=True, slots=True)
class Case:
    """A request that must be refused.

    Attributes:
        name: What is wrong with it.
        signal: The array that is sent as `audio_signal`.
        output: The output that is asked for.
        class_count: Ask for the best classes of that output.
        by_model: Whether the scheduler model refuses it and counts it, and not Triton before it.
    """

    name: str
    signal: npt.NDArray[np.generic]
    output: str = TEXTS
    class_count: int = 0
    by_model: bool = True


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the server did with a case.

    Attributes:
        case: Its name.
        status: gRPC status; None when it was answered.
        words: The server's message.
        neighbour: Why the good request beside it failed; None when it was answered.
    """

    case: str
    status: str | None
    words: str
    neighbour: str | None


def cases(wire: str, longest_seconds: int) -> list[Case]:
    """All kinds of requests that every model refuses.

    Args:
        wire: Data type of `audio_signal`, such as `INT16`.
        longest_seconds: The longest audio that the model serves.
    """
    dtype = {"INT16": np.int16, "FP32": np.float32, "FP64": np.float64}[wire]
    second = np.zeros((1, SAMPLE_RATE), dtype=dtype)
    other: npt.NDArray[np.generic] = second.astype(np.float32 if dtype is np.int16 else np.int16)
    found = [
        Case("two utterances in one request", np.zeros((2, SAMPLE_RATE), dtype=dtype)),
        Case("empty", second[:, :0]),
        Case("too short", second[:, :100]),
        Case("too long", np.zeros((1, (longest_seconds + 1) * SAMPLE_RATE), dtype=dtype)),
        Case("wrong type", other, by_model=False),
        Case("unknown output", second, output="no_such_output", by_model=False),
    ]
    if dtype is not np.int16:
        found.append(Case("not a number", np.full_like(second, np.nan)))
        found.append(Case("integers sent as floats", np.full_like(second, 12_000)))
    return found


async def refuse(client: Client, model: str, case: Case) -> Refusal:
    """Send one case and a good request at the same time."""
    speech = np.zeros(SAMPLE_RATE, dtype=np.int16)
    bad, good = await asyncio.gather(_send(client, model, case), client.transcribe(speech), return_exceptions=True)
    for answer in (bad, good):
        if isinstance(answer, BaseException) and not isinstance(answer, TranscriptionError):
            raise answer
    status, words = (bad.status or "no status", str(bad)) if isinstance(bad, TranscriptionError) else (None, "")
    return Refusal(case.name, status, words, str(good) if isinstance(good, TranscriptionError) else None)


async def _send(client: Client, model: str, case: Case) -> None:
    if not case.class_count:
        await infer(client.grpc, model, {"audio_signal": case.signal}, [case.output], timeout=REQUEST_SECONDS)
        return
    from tritonclient.grpc import InferInput, InferRequestedOutput  # noqa: PLC0415
    from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # noqa: PLC0415

    sent = InferInput("audio_signal", list(case.signal.shape), np_to_triton_dtype(case.signal.dtype))
    sent.set_data_from_numpy(case.signal)
    asked = [InferRequestedOutput(case.output, class_count=case.class_count)]
    try:
        await client.grpc.infer(model, [sent], outputs=asked, client_timeout=REQUEST_SECONDS)
    except InferenceServerException as error:
        raise TranscriptionError(error.message(), error.status()) from error


def judge(check: str, refusals: Sequence[Refusal]) -> Result:
    """Whether each request was refused as the client's mistake, and each neighbour answered."""
    figures: dict[str, Any] = {item.case: (item.status or "answered").removeprefix("StatusCode.") for item in refusals}
    suffered = [item for item in refusals if item.neighbour is not None]
    if suffered:
        message = f"beside {suffered[0].case!r}, a good request failed: {suffered[0].neighbour}"
        hint = "One client's mistake must not cost others their answer: report this with Triton's log."
        return failed(check, message, hint, **figures)
    answered = [item.case for item in refusals if item.status is None]
    if answered:
        message = f"answered, and not refused: {', '.join(answered)}"
        return failed(check, message, "Build the model again with a newer model-builder.", **figures)
    other = [item for item in refusals if item.status != INVALID]
    if other:
        message = f"{other[0].case!r} failed as {str(other[0].status).removeprefix('StatusCode.')}: {other[0].words}"
        return failed(check, message, "It must be refused as INVALID_ARGUMENT: look at Triton's log.", **figures)
    count = len(refusals)
    return passed(
        check, f"{count} of {count} kinds are refused as INVALID_ARGUMENT, neighbours are answered", **figures
    )


def judge_counted(counted: float, expected: int) -> Result:
    """Whether `asr_refused_total` grew by as many requests as the scheduler model refused."""
    if counted != expected:
        message = f"{telemetry.REFUSED} grew by {counted:g}, {expected} requests were refused"
        hint = "Alerts go by this metric. If other clients send requests that are refused, repeat this without them."
        return failed(COUNTED, message, hint, counted=counted, refused=expected)
    return passed(COUNTED, f"{telemetry.REFUSED} grew by {expected}", counted=counted, refused=expected)


def class_count_is_safe(server: str | None) -> bool:
    """Whether asking for classes of a text leaves the server alive."""
    return numbers(server) >= SAFE_CLASS_COUNT


def class_count_skipped(check: str, server: str | None) -> Result:
    """The result for a server that such a request would end."""
    hint = "Update to Triton 25.08 or newer: on this one, any client can end the server."
    return skipped(check, f"Triton core {server or 'unknown'} is older than 2.60: the request would end it", hint)
