"""A real Triton that is killed and started again, or stopped, while clients ask it."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from model_builder import audio_set, triton
from model_builder.tether import SHARED_MEMORY
from tests.support.load import Load, steady, utterances
from tests.support.programs import program
from tools.testcluster.machine import until

MODEL = "english_stt"
FILES = [str(path) for path in sorted(audio_set.SHIPPED.glob("*.wav"))]


def kill(server: triton.Server) -> None:
    """SIGKILL to Triton and its Python models."""
    assert server.process.stdin is not None
    server.process.stdin.close()  # see tether.py
    server.process.wait()


def stop(server: triton.Server) -> None:
    """SIGTERM, as Kubernetes sends it when the time before is over."""
    server.process.terminate()
    server.process.wait()


def interrupted(
    repository: Path, end: Callable[[triton.Server], None], *, retries: int, in_flight: int = 4
) -> tuple[Load, list[str]]:
    """What becomes of requests while the server ends in the middle and another one takes its place."""
    ports = triton.Ports.free()
    signals = utterances(8, seed=3, shortest=2, longest=8)
    with ExitStack() as servers:
        server = servers.enter_context(triton.serve(repository, ports=ports))
        with steady(ports.grpc_url, MODEL, in_flight=1, signals=signals) as alone:
            until(lambda: len(alone.sent) >= len(signals), "each utterance alone")
        right = {item.utterance: item.text or "" for item in alone.sent}
        with steady(ports.grpc_url, MODEL, in_flight=in_flight, retries=retries, signals=signals) as load:
            until(lambda: load.good > 20, "answers")
            end(server)
            servers.enter_context(triton.serve(repository, ports=ports))  # it outlives the last request
            seen = load.good
            until(lambda: load.good > seen + 20, "answers of the new server")
    return load, [right[index] for index in range(len(signals))]


def test_with_retries_a_killed_server_costs_no_request_and_no_transcript(repository: Path) -> None:
    load, right = interrupted(repository, kill, retries=30)
    assert load.errors == []
    assert load.wrong(right) == []
    assert load.retried > 0


def test_with_retries_a_stopped_server_costs_no_request_and_no_transcript(repository: Path) -> None:
    load, right = interrupted(repository, stop, retries=30, in_flight=32)
    assert load.errors == []
    assert load.wrong(right) == []
    assert load.retried > 0


def test_without_retries_the_failures_of_a_killed_server_are_told(repository: Path) -> None:
    load, right = interrupted(repository, kill, retries=0)
    assert load.errors
    assert load.wrong(right) == []


def regions(server: triton.Server) -> set[Path]:
    """Shared memory that Triton and its Python models have made."""
    assert isinstance(server.process.args, list)
    (prefix,) = (item.partition("prefix-name=")[2] for item in server.process.args if "shm-region-prefix" in item)
    return set(SHARED_MEMORY.glob(f"{prefix}*"))


def test_a_killed_server_leaves_no_shared_memory(repository: Path) -> None:
    with triton.serve(repository) as server, triton.serve(repository) as other:
        assert len(regions(server)) >= 4, "each of our three models has one, and the acoustic one"
        kill(server)
        assert not regions(server)
        assert len(regions(other)) >= 4, "another server's"


def test_serve_tells_what_killed_its_triton(repository: Path) -> None:
    ports = triton.Ports.free()
    numbers = ("--grpc-port", str(ports.grpc), "--http-port", str(ports.http), "--metrics-port", str(ports.metrics))
    with subprocess.Popen(
        [program("model-builder"), "serve", str(repository), *numbers], stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stderr is not None
        assert any(line.startswith("ready") for line in command.stderr)
        tether = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()[0]
        server = Path(f"/proc/{tether}/task/{tether}/children").read_text().split()[0]
        os.kill(int(server), signal.SIGFPE)
        told = command.stderr.read()
        assert command.wait(60) == 40, told
    assert "Triton ended with exit code 136 (SIGFPE)" in told
    assert "CUDA" not in told


def asr_across_a_kill(repository: Path, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, results and standard error of `asr transcribe` whose server is killed and started again meanwhile."""
    ports = triton.Ports.free()
    command = [program("asr"), "transcribe", "--json", "--url", ports.grpc_url, "--model", MODEL, "--concurrency", "2"]
    with (
        TemporaryFile("w+") as errors,
        triton.serve(repository, ports=ports) as server,
        subprocess.Popen(
            [*command, *arguments, *FILES * 20], stdout=subprocess.PIPE, stderr=errors, text=True
        ) as client,
    ):
        assert client.stdout is not None
        lines = [client.stdout.readline()]
        kill(server)
        with triton.serve(repository, ports=ports):
            # Not by `communicate`, which does not know what `readline` has read already.
            lines += client.stdout.readlines()
            code = client.wait(timeout=300)
        errors.seek(0)
        return code, [json.loads(line) for line in lines], errors.read()


def test_asr_transcribe_hides_a_killed_server_and_says_so(repository: Path) -> None:
    code, results, errors = asr_across_a_kill(repository, "--retries", "30")
    assert code == 0, errors
    assert [result["file"] for result in results] == FILES * 20
    texts = [result["text"] for result in results]
    assert texts == texts[: len(FILES)] * 20
    again = [result for result in results if result["retries"]]
    assert again
    assert f"{len(again)} of {len(results)} files were sent again" in " ".join(errors.split())


def test_asr_transcribe_without_retries_tells_what_failed(repository: Path) -> None:
    code, results, _ = asr_across_a_kill(repository, "--retries", "0")
    assert code == 1
    assert any("error" in result for result in results)


def test_asr_transcribe_asks_a_server_that_is_gone_for_none_of_the_files_that_are_left(repository: Path) -> None:
    files = FILES * 20
    with triton.serve(repository) as server:
        where = ["--url", server.ports.grpc_url, "--model", MODEL, "--concurrency", "2", "--retries", "2"]
        with subprocess.Popen(
            [program("asr"), "transcribe", "--json", *where, *files],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as client:
            assert client.stdout is not None
            assert client.stderr is not None
            lines = [client.stdout.readline()]
            kill(server)
            lines += client.stdout.readlines()
            told = " ".join(client.stderr.read().split())
    results = [json.loads(line) for line in lines]
    assert client.returncode == 3, told
    assert [result["file"] for result in results] == files
    failed = [result["error"] for result in results if "error" in result]
    unsent = failed.count("not sent: the server is gone")
    assert len(failed) - unsent < 10  # those in flight, and not all the others
    assert f"{unsent} of {len(files)} files were not sent" in told
