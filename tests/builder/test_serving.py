"""Through a real Triton: padding, batching, and requests that never touch each other."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from asr_client.transcription import TranscriptionError, channel, connect, gather_bounded, infer, transcribe_all
from asr_serving.frontend import plain
from model_builder import triton
from model_builder.audio_set import AudioSet
from tests.builder.conftest import Built
from tests.support.load import Pcm, prometheus, settled, utterances
from tests.support.programs import program
from tools.testcluster.machine import until

MODELS = ("english_stt", "ensemble_english_stt")


def texts(server: triton.Server, model: str, signals: Sequence[Pcm], *, concurrency: int) -> list[str]:
    results = transcribe_all(server.ports.grpc_url, model, signals, concurrency=concurrency)
    return [result.text if not isinstance(result, TranscriptionError) else f"failed: {result}" for result in results]


@pytest.mark.parametrize("model", MODELS)
def test_padding_never_changes_text(server: triton.Server, built: Built, check_audio: AudioSet, model: str) -> None:
    signals = [utterance.signal for utterance in check_audio.utterances]
    by_nemo = [item["checkpoint"] for item in built.report["stages"]["gate"]["transcripts"]]
    alone = texts(server, model, signals, concurrency=1)
    together = texts(server, model, signals, concurrency=len(signals))
    assert alone == together == by_nemo


def test_words_and_confidence_come_with_the_text(server: triton.Server, check_audio: AudioSet) -> None:
    (result,) = transcribe_all(server.ports.grpc_url, "english_stt", [check_audio.utterances[0].signal])
    assert not isinstance(result, TranscriptionError)
    assert 0.5 < result.confidence <= 1.0
    assert " ".join(word.text for word in result.words) == result.text
    assert all(0 <= word.start < word.end <= check_audio.utterances[0].seconds + 0.1 for word in result.words)


BAD: dict[str, tuple[npt.NDArray[Any], str]] = {
    "two utterances in one request": (np.zeros((2, 16_000), dtype=np.int16), "one utterance|batch-size must be <= 1"),
    "empty": (np.zeros((1, 0), dtype=np.int16), "has 0 samples"),
    "too short": (np.zeros((1, 100), dtype=np.int16), "at least 400"),
    "too long": (np.zeros((1, 41 * 16_000), dtype=np.int16), "takes at most 40 s"),
    "wrong type": (np.zeros((1, 16_000), dtype=np.float32), "INT16|data-type"),
}
BAD_FLOATS: dict[str, tuple[npt.NDArray[Any], str]] = {
    "two utterances in one request": (np.zeros((2, 16_000), dtype=np.float32), "one utterance|batch-size must be <= 1"),
    "not a number": (np.full((1, 16_000), np.nan, dtype=np.float32), "NaN or infinite"),
    "infinite": (np.full((1, 16_000), np.inf, dtype=np.float32), "NaN or infinite"),
    "integers sent as floats": (np.full((1, 16_000), 12_000, dtype=np.float32), "divide 16-bit integers by 32768"),
}


def refusal(server: triton.Server, model: str, signal: npt.NDArray[Any]) -> str:
    """What the server says to a request that it refuses."""

    async def send() -> None:
        async with connect(server.ports.grpc_url, model) as client:
            await client.infer(signal, ["decoded_texts"])

    with pytest.raises(TranscriptionError) as caught:
        asyncio.run(send())
    return str(caught.value)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_request_is_refused_with_its_reason(server: triton.Server, model: str, kind: str) -> None:
    signal, message = BAD[kind]
    assert re.search(message, refusal(server, model, signal))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", BAD_FLOATS)
def test_a_bad_float_request_is_refused_with_its_reason(float_server: triton.Server, model: str, kind: str) -> None:
    signal, message = BAD_FLOATS[kind]
    assert re.search(message, refusal(float_server, model, signal))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("wire", ["int16", "float32"])
def test_bad_requests_never_change_the_answers_of_others(
    server: triton.Server, float_server: triton.Server, check_audio: AudioSet, model: str, wire: str
) -> None:
    used, bad = (server, BAD) if wire == "int16" else (float_server, BAD_FLOATS)
    good = [utterance.signal for utterance in check_audio.utterances] * 4
    expected = texts(used, model, good[: len(check_audio.utterances)], concurrency=1) * 4
    found: dict[int, str] = {}
    refused = []

    async def run() -> None:
        async with connect(used.ports.grpc_url, model) as client:

            async def transcribe(index: int) -> None:
                found[index] = (await client.transcribe(good[index])).text

            async def disturb(index: int) -> None:
                try:
                    await client.infer(list(bad.values())[index % len(bad)][0], ["decoded_texts"])
                except TranscriptionError as error:
                    refused.append(error)

            jobs = [partial(job, index) for index in range(len(good)) for job in (transcribe, disturb)]
            await gather_bounded(jobs, concurrency=64)

    asyncio.run(run())
    assert [found[index] for index in range(len(good))] == expected
    assert len(refused) == len(good)


@pytest.mark.parametrize(
    ("ending", "code", "told"),
    [
        (signal.SIGINT, 130, ["Triton stops\n"]),
        (signal.SIGTERM, 143, ["Triton stops\n"]),
        (signal.SIGHUP, -signal.SIGHUP, []),
    ],
    ids=["Ctrl-C", "SIGTERM", "closed terminal"],
)
def test_no_server_outlives_the_command_that_started_it(
    repository: Path, ending: signal.Signals, code: int, told: list[str]
) -> None:
    ports = triton.Ports.free()
    numbers = ("--grpc-port", str(ports.grpc), "--http-port", str(ports.http), "--metrics-port", str(ports.metrics))
    with subprocess.Popen(
        # What nohup started ignores the end of a terminal, and so would all that a test starts.
        ["env", "--default-signal=HUP", program("model-builder"), "serve", str(repository), *numbers],
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as command:
        assert command.stderr is not None
        assert any(line.startswith("ready") for line in command.stderr)
        os.killpg(command.pid, ending)  # as a terminal does, to all that it started
        assert command.wait(60) == code
        assert command.stderr.readlines() == told

    def refused() -> bool:
        try:
            socket.create_connection((ports.host, ports.grpc), timeout=5).close()
        except ConnectionRefusedError:
            return True
        return False

    until(refused, "the end of Triton", seconds=30)


def test_256_mixed_utterances_in_flight_form_batches_of_little_padding(
    fresh_server: triton.Server,
) -> None:
    signals = utterances(512, seed=1, shortest=2, longest=30)
    found = texts(fresh_server, "english_stt", signals, concurrency=256)
    assert not [text for text in found if text.startswith("failed")]

    async def statistics() -> Any:  # noqa: ANN401
        async with channel(fresh_server.ports.grpc_url) as grpc:
            return (await grpc.get_inference_statistics("onnx_english_stt")).model_stats[0]

    model = asyncio.run(statistics())
    # Triton's own figures, with the two warm-up requests of the model in them.
    assert model.inference_count / model.execution_count >= 12
    counters = settled(fresh_server.ports)
    assert counters["asr_utterances_total"] == len(signals)
    assert counters["asr_audio_seconds_total"] / counters["asr_padded_audio_seconds_total"] >= 0.8


def test_what_waits_how_long_and_in_which_batches_adds_up_over_the_processes_of_the_scheduler(
    repository: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(repository, tmp_path / "two")
    config = copy / "english_stt" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    signals = utterances(96, seed=3, shortest=20, longest=30)
    with triton.serve(copy) as server, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(texts, server, "english_stt", signals, concurrency=len(signals))
        # In the processes, that is: Triton's own queue has passed them on.
        until(lambda: prometheus(server.ports)["asr_pending_utterances"] > 64, "many to wait", seconds=60)
        assert not [text for text in sent.result(120) if text.startswith("failed")]
        counted = settled(server.ports)
    assert counted["asr_pending_utterances"] == 0
    assert counted["asr_utterances_total"] == counted["asr_batch_utterances_sum"] == len(signals)
    assert counted["asr_batches_total"] == counted["asr_batch_utterances_count"] < len(signals)
    assert counted['asr_request_seconds_bucket{le="+Inf"}'] == len(signals)
    assert counted['asr_request_seconds_bucket{le="0.005"}'] == 0
    assert counted["asr_waiting_seconds_total"] < counted["asr_request_seconds_sum"]


def test_nothing_is_computed_for_clients_that_gave_up_and_all_others_are_answered(fresh_server: triton.Server) -> None:
    signals = utterances(192, seed=5, shortest=35, longest=39)
    ports = fresh_server.ports

    def accepted() -> bool:
        counted = prometheus(ports)
        return counted["asr_pending_utterances"] + counted["asr_utterances_total"] == len(signals)

    async def run() -> list[str]:
        async with connect(ports.grpc_url, "english_stt") as client:
            requests = [asyncio.create_task(client.transcribe(signal)) for signal in signals]
            await asyncio.to_thread(until, accepted, "all to be accepted", seconds=120)
            patient = requests[::8]
            for request in set(requests) - set(patient):
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
            return [(await request).text for request in patient]

    found = asyncio.run(run())
    assert found == texts(fresh_server, "english_stt", signals[::8], concurrency=8)
    counted = settled(ports)
    assert counted["asr_pending_utterances"] == counted["asr_failed_total"] == 0
    assert counted["asr_utterances_total"] + counted["asr_cancelled_total"] == len(signals) + len(found)
    # Two batches of 32 at most were being computed when they gave up, and two more were perhaps taken within a second.
    assert counted["asr_cancelled_total"] > 32


def test_log_probabilities_come_only_when_asked_for(server: triton.Server, check_audio: AudioSet) -> None:
    utterance = check_audio.utterances[0]
    fed = plain(utterance.signal[None], np.array([[utterance.signal.size]], dtype=np.int32))

    async def ask(outputs: list[str]) -> dict[str, npt.NDArray[Any]]:
        async with channel(server.ports.grpc_url) as grpc:
            return await infer(grpc, "onnx_english_stt", fed, outputs)

    given = asyncio.run(ask(["tokens", "logprobs"]))
    assert given["logprobs"].shape == (*given["tokens"].shape, 321)
    assert (given["logprobs"].argmax(axis=2) == given["tokens"]).all()
