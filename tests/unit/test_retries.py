"""Which requests are sent again, and how often."""

import asyncio
import re
import socket
from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

from asr_client import transcription
from asr_client.transcription import Client, ServerUnavailableError, TranscriptionError, channel, repeated

LOST = TranscriptionError("connection reset", "StatusCode.UNAVAILABLE")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcription, "FIRST_PAUSE_SECONDS", 0.0)


def asked(
    failures: list[Exception], *, retries: int = 6, again: Callable[[TranscriptionError], None] = lambda _error: None
) -> int:
    """How often a server is asked that fails so and then answers."""
    numbers = count()

    async def once() -> int:
        if (number := next(numbers)) < len(failures):
            raise failures[number]
        return number + 1

    return asyncio.run(repeated(once, retries=retries, again=again))


def test_a_request_is_sent_again_while_its_server_is_lost() -> None:
    assert asked([LOST] * 3) == 4


def test_each_time_is_told_with_the_reason() -> None:
    told: list[TranscriptionError] = []
    asked([LOST] * 3, again=told.append)
    assert told == [LOST] * 3


def test_the_last_failure_is_the_answer_when_the_retries_are_used_up() -> None:
    told: list[TranscriptionError] = []
    with pytest.raises(TranscriptionError, match="connection reset"):
        asked([LOST] * 3, retries=2, again=told.append)
    assert len(told) == 2


def test_without_retries_the_first_failure_is_the_answer() -> None:
    with pytest.raises(TranscriptionError, match="connection reset"):
        asked([LOST], retries=0)


@pytest.mark.parametrize("status", ["INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "INTERNAL", "NOT_FOUND"])
def test_what_the_server_refuses_or_is_too_slow_for_is_not_sent_again(status: str) -> None:
    told: list[TranscriptionError] = []
    with pytest.raises(TranscriptionError, match="no"):
        asked([TranscriptionError("no", f"StatusCode.{status}")], again=told.append)
    assert told == []


def test_a_server_that_ends_and_has_no_models_any_more_is_lost() -> None:
    ending = "Request for unknown model: 'english_stt' has no available versions"
    assert asked([TranscriptionError(ending, "StatusCode.NOT_FOUND")]) == 2


def test_a_request_that_its_server_cancels_is_sent_again() -> None:
    assert asked([TranscriptionError("CANCELLED", "StatusCode.CANCELLED")]) == 2


def test_a_server_that_has_lost_the_process_of_a_model_is_lost() -> None:
    told = "Failed to process the request(s) for model instance 'n_0_0', message: Stub process 'n_0_0' is not healthy."
    assert asked([TranscriptionError(told, "StatusCode.INTERNAL")]) == 2


def test_what_a_server_gives_to_holders_of_a_key_alone_is_not_asked_for_again() -> None:
    told = "This protocol is restricted, expecting header 'triton-grpc-protocol-asr-restricted'"
    with pytest.raises(TranscriptionError, match="is restricted"):
        asked([TranscriptionError(told, "StatusCode.UNAVAILABLE")])


def test_an_answer_that_is_no_transcript_is_not_asked_for_again() -> None:
    with pytest.raises(TranscriptionError, match="lacks"):
        asked([TranscriptionError("the answer lacks words")])


def test_a_server_that_does_not_answer_at_all_is_lost() -> None:
    assert asked([ServerUnavailableError("no Triton answers", "StatusCode.UNAVAILABLE")]) == 2


def test_no_request_is_sent_again_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcription, "FIRST_PAUSE_SECONDS", 1000.0)
    monkeypatch.setattr(transcription, "LONGEST_PAUSE_SECONDS", 1000.0)

    async def once() -> None:
        raise LOST

    with pytest.raises(TranscriptionError, match="connection reset"):
        asyncio.run(repeated(once, retries=6, seconds=0.001))


def test_a_request_without_an_answer_tells_the_time_that_it_had() -> None:
    async def ask(url: str) -> None:
        async with channel(url) as grpc:
            await Client(grpc, "n", "INT16", timeout=0.25).transcribe(np.zeros(1, dtype=np.int16))

    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(TranscriptionError, match=re.escape("no answer within 0.25 s") + "$"),
    ):
        asyncio.run(ask(f"127.0.0.1:{silent.getsockname()[1]}"))
