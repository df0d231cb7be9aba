"""`asr` against a real server."""

import io
import json
import os
import pty
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr

from asr_operator.render import start
from model_builder import audio_set, triton
from tests.support.certificates import Certificate, certificate
from tests.support.programs import program
from tools.testcluster.machine import until

FILES = sorted(audio_set.SHIPPED.glob("*.wav"))
TRUTH = {
    name: entry["text"] for name, entry in json.loads((audio_set.SHIPPED / "transcripts.json").read_text()).items()
}


def asr(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program("asr"), *arguments], input=stdin, capture_output=True, check=False, timeout=120)


@pytest.fixture
def address(server: triton.Server) -> tuple[str, ...]:
    return ("--url", server.ports.grpc_url, "--model", "english_stt")


def test_files_are_transcribed_in_the_order_given(address: tuple[str, ...]) -> None:
    lines = [json.loads(line) for line in asr("transcribe", *address, "--json", *map(str, FILES)).stdout.splitlines()]
    assert [Path(line["file"]).name for line in lines] == [path.name for path in FILES]
    right = sum(line["text"] == TRUTH[Path(line["file"]).name] for line in lines)
    assert right >= 0.8 * len(lines)


def test_audio_comes_from_standard_input_too(address: tuple[str, ...]) -> None:
    path = FILES[0]
    done = asr("transcribe", *address, "--json", "-", stdin=path.read_bytes())
    assert json.loads(done.stdout)["text"] == TRUTH[path.name]


def test_a_file_that_is_no_audio_fails_alone(address: tuple[str, ...], tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"not audio")
    done = asr("transcribe", *address, "--json", str(bad), str(FILES[0]))
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert "error" in first
    assert second["text"] == TRUTH[FILES[0].name]


def test_the_word_error_rate_is_told_when_the_truth_is_known(address: tuple[str, ...]) -> None:
    done = asr("transcribe", *address, "--reference", str(audio_set.SHIPPED / "transcripts.json"), *map(str, FILES))
    assert done.returncode == 0
    assert b"word error rate" in (done.stdout + done.stderr).lower()


# Files as people have them


def speech() -> npt.NDArray[np.float32]:
    """The first check recording."""
    samples: npt.NDArray[np.float32] = soundfile.read(FILES[0], dtype="float32")[0]
    return samples


def lines(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def odd_files(tmp_path: Path) -> list[str]:
    """Two good recordings, and between them GSM from a call recorder, M4A and samples without a header."""
    folder = tmp_path / "odd"
    folder.mkdir()
    soundfile.write(folder / "a.wav", speech(), 16_000)
    soundfile.write(folder / "b_gsm.wav", soxr.resample(speech(), 16_000, 8_000), 8_000, subtype="GSM610")
    (folder / "c_m4a.wav").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(500))
    (folder / "d_raw.wav").write_bytes(np.full(8_000, -1, dtype="<i2").tobytes())
    soundfile.write(folder / "e.wav", speech(), 16_000)
    return sorted(map(str, folder.iterdir()))


def test_odd_files_do_not_stop_the_others(address: tuple[str, ...], odd_files: list[str]) -> None:
    done = asr("transcribe", *address, "--json", *odd_files)
    good, gsm, m4a, raw, last = lines(done)
    assert done.returncode == 1
    assert done.stderr == b""
    assert good["text"] == last["text"] == TRUTH[FILES[0].name]
    assert gsm["text"]
    assert "it is M4A" in m4a["error"]
    assert f"ffmpeg -i {odd_files[2]} " in m4a["error"]
    assert "samples without a header" in raw["error"]


def test_the_bench_leaves_odd_files_out(address: tuple[str, ...], odd_files: list[str]) -> None:
    done = asr("bench", *address, "--requests", "4", "--warmup-requests", "0", *odd_files)
    assert done.returncode == 1
    assert [line.split(b":")[1].strip().decode() for line in done.stderr.splitlines()] == odd_files[2:4]
    assert b"RTFx" in done.stdout


def test_audio_that_the_model_does_not_take_is_refused_by_its_header(address: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "meeting.wav"
    soundfile.write(path, np.zeros((41 * 8_000, 2), dtype=np.int16), 8_000)
    (line,) = lines(asr("transcribe", *address, "--json", str(path)))
    assert line["error"] == "is 41.00 s long, at most 40 s are taken: cut it at pauses"


@pytest.mark.parametrize("model", ["english_stt", "ensemble_english_stt"])
def test_the_bench_refuses_utterances_that_the_model_does_not_take(server: triton.Server, model: str) -> None:
    there = ("--url", server.ports.grpc_url, "--model", model)
    done = asr("bench", *there, "--audio-seconds", "2", "41", str(FILES[0]))
    assert done.returncode == 2
    assert b"takes at most 40 s: --audio-seconds 2 40 cuts" in done.stderr


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3", "AIFF"])
def test_any_format_comes_from_a_pipe(address: tuple[str, ...], kind: str) -> None:
    content = io.BytesIO()
    soundfile.write(content, speech(), 16_000, format=kind)
    (line,) = lines(asr("transcribe", *address, "--json", "-", stdin=content.getvalue()))
    assert line["text"]


def test_a_pipe_of_flac_without_a_length_is_transcribed(address: tuple[str, ...]) -> None:
    content = io.BytesIO()
    soundfile.write(content, speech(), 16_000, format="FLAC")
    streamed = bytearray(content.getvalue())
    streamed[21] &= 0xF0
    streamed[22:26] = bytes(4)
    (line,) = lines(asr("transcribe", *address, "--json", "-", stdin=bytes(streamed)))
    assert line["text"] == TRUTH[FILES[0].name]


def test_stereo_in_opposite_phase_is_refused_until_a_channel_is_chosen(
    address: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "opposite.wav"
    soundfile.write(path, np.stack([speech(), -speech()], axis=1), 16_000)
    refused = asr("transcribe", *address, str(path))
    assert refused.returncode == 1
    assert b"cancel each other" in refused.stderr
    (line,) = lines(asr("transcribe", *address, "--channel", "right", "--json", str(path)))
    assert line["text"] == TRUTH[FILES[0].name]


def test_errors_are_counted_by_a_nemo_manifest_with_a_byte_order_mark(address: tuple[str, ...], tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    entry = {"audio_filepath": f"/elsewhere/{FILES[0].name}", "duration": 3, "text": TRUTH[FILES[0].name].upper() + "!"}
    manifest.write_text(json.dumps(entry) + "\n", encoding="utf-8-sig")
    known = ("--reference", str(manifest), "--json", str(FILES[0]))
    words = len(TRUTH[FILES[0].name].split())
    assert lines(asr("transcribe", *address, *known))[-1]["errors"] == words
    assert lines(asr("transcribe", *address, "--normalize", *known))[-1]["errors"] == 0


@contextmanager
def asr_on_a_terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """The command on a terminal of its own, and what stands there."""
    terminal, inside = pty.openpty()
    shown = bytearray()

    def read() -> None:
        with suppress(OSError):  # Linux's way to tell that the command has left the terminal
            while part := os.read(terminal, 4096):
                shown.extend(part)

    environment = os.environ | {"TERM": "xterm", "COLUMNS": "200"}
    reader = threading.Thread(target=read)
    with subprocess.Popen(
        [program("asr"), *arguments], stdin=inside, stdout=inside, stderr=inside, env=environment
    ) as command:
        os.close(inside)
        reader.start()
        try:
            yield command, lambda: shown.decode(errors="replace")
        finally:
            command.kill()
            reader.join()
            os.close(terminal)


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[str]:
    """A FIFO that nothing comes from, though it is open for writing."""
    path = tmp_path / "quiet"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)
    yield str(path)
    os.close(end)


def test_on_a_terminal_a_transcript_is_shown_before_the_last_file_is_read(address: tuple[str, ...], quiet: str) -> None:
    with asr_on_a_terminal("transcribe", *address, str(FILES[0]), quiet) as (_, shown):
        until(lambda: TRUTH[FILES[0].name] in shown(), "a transcript on the terminal")


def test_ctrl_c_ends_a_wait_for_audio_and_leaves_what_is_transcribed(address: tuple[str, ...], quiet: str) -> None:
    with asr_on_a_terminal("transcribe", *address, quiet, str(FILES[0])) as (command, shown):
        until(lambda: "1/2" in shown(), "one file done")
        command.send_signal(signal.SIGINT)
        assert command.wait(60) == 130
        until(lambda: TRUTH[FILES[0].name] in shown(), "a transcript on the terminal")


# TLS


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def tls_url(repository: Path, signed: Certificate) -> Iterator[str]:
    """Address of a Triton that speaks TLS, by the flags that the operator gives it for service.tlsSecretRef."""
    command = triton.command
    flags = ["--grpc-use-ssl=true", f"--grpc-server-cert={signed.certificate}", f"--grpc-server-key={signed.key}"]
    with ExitStack() as servers:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(triton, "command", lambda *arguments, **named: [*command(*arguments, **named), *flags])
            running = servers.enter_context(triton.serve(repository))
        yield running.ports.grpc_url


def test_files_are_transcribed_over_tls(tls_url: str, signed: Certificate) -> None:
    done = asr("transcribe", "--url", tls_url, "--tls-ca", str(signed.authority), "--json", str(FILES[0]))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == TRUTH[FILES[0].name]


def test_the_bench_runs_over_tls(tls_url: str, signed: Certificate) -> None:
    done = asr("bench", "--url", tls_url, "--tls-ca", str(signed.authority), "--requests", "4", str(FILES[0]))
    assert done.returncode == 0, done.stderr


def test_the_doctor_finds_a_healthy_server_healthy_over_tls(tls_url: str, signed: Certificate) -> None:
    done = asr("doctor", "--url", tls_url, "--tls-ca", str(signed.authority))
    assert done.returncode == 0, done.stdout


def test_a_certificate_for_another_name_is_taken_when_it_is_named(tls_url: str, signed: Certificate) -> None:
    there = ("--url", tls_url.replace("127.0.0.1", "localhost"), "--tls-ca", str(signed.authority))
    assert asr("doctor", *there).returncode == 1
    assert asr("doctor", *there, "--tls-server-name", "127.0.0.1").returncode == 0


@pytest.mark.parametrize(
    ("options", "hint"), [((), b"Add --tls"), (("--tls",), b"whether the authorities of --tls-ca signed it")]
)
def test_the_doctor_says_what_tls_lacks(tls_url: str, options: tuple[str, ...], hint: bytes) -> None:
    done = asr("doctor", "--url", tls_url, *options)
    assert done.returncode == 1
    assert hint in done.stdout


def test_the_doctor_tells_a_server_without_tls(address: tuple[str, ...]) -> None:
    done = asr("doctor", *address, "--tls")
    assert done.returncode == 1
    assert b"does not speak TLS" in done.stdout


# Restricted APIs


@contextmanager
def restricted(repository: Path, *, http: Sequence[str], grpc: Sequence[str]) -> Iterator[triton.Ports]:
    """Addresses of a Triton that gives some of its APIs to holders of a key alone, as the operator starts it."""
    command, key = triton.command, "asr-restricted=0123456789"
    flags = [f"--http-restricted-api={','.join(http)}:{key}", f"--grpc-restricted-protocol={','.join(grpc)}:{key}"]
    with ExitStack() as servers:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(triton, "command", lambda *arguments, **named: [*command(*arguments, **named), *flags])
            running = servers.enter_context(triton.serve(repository))
        yield running.ports


@pytest.fixture(scope="module")
def in_a_pod(repository: Path) -> Iterator[triton.Ports]:
    """What the operator restricts unless it is asked not to."""
    with restricted(repository, http=start.RESTRICTED_HTTP, grpc=start.RESTRICTED_GRPC) as ports:
        yield ports


@pytest.fixture(scope="module")
def closed(repository: Path) -> Iterator[triton.Ports]:
    """More than is good for `asr`."""
    kept = ("health", "metadata", "statistics", "model-repository")
    with restricted(repository, http=("metadata",), grpc=kept) as ports:
        yield ports


def test_files_are_transcribed_and_measured_where_the_operator_restricts(in_a_pod: triton.Ports) -> None:
    for command in (("transcribe", "--json"), ("bench", "--requests", "4")):
        done = asr(command[0], "--url", in_a_pod.grpc_url, *command[1:], str(FILES[0]))
        assert done.returncode == 0, done.stderr


def test_the_doctor_finds_nothing_wrong_and_says_what_http_does_not_give(in_a_pod: triton.Ports) -> None:
    done = asr("doctor", "--url", in_a_pod.grpc_url, "--http-url", f"http://{in_a_pod.host}:{in_a_pod.http}")
    assert done.returncode == 0, done.stdout
    assert b"it gives its metadata to holders of a key alone" in done.stdout
    assert b"spec.service.apis: All" in done.stdout


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/health/live", 200),
        ("/v2/health/ready", 200),
        ("/v2/models/english_stt/ready", 200),
        ("/v2", 403),
        ("/v2/models/english_stt", 403),
        ("/v2/models/english_stt/config", 403),
        ("/v2/models/stats", 403),
        ("/v2/logging", 403),
        ("/v2/trace/setting", 403),
        ("/v2/systemsharedmemory/status", 403),
    ],
)
def test_probes_are_answered_and_all_else_that_is_no_inference_is_refused(
    in_a_pod: triton.Ports, path: str, status: int
) -> None:
    try:
        with urllib.request.urlopen(f"http://{in_a_pod.host}:{in_a_pod.http}{path}", timeout=20) as page:
            found = page.status
    except urllib.error.HTTPError as error:
        found = error.code
    assert found == status


def test_the_doctor_says_that_a_restriction_stops_it(closed: triton.Ports) -> None:
    done = asr("doctor", "--url", closed.grpc_url)
    assert done.returncode == 1
    assert b"Triton does not say how it is" in done.stdout
    assert b"the repository index cannot be read: This protocol is restricted" in done.stdout
    assert b"look at --grpc-restricted-protocol" in done.stdout


def test_a_client_that_a_restriction_stops_says_so_at_once(closed: triton.Ports) -> None:
    done = asr("transcribe", "--url", closed.grpc_url, str(FILES[0]))
    assert done.returncode == 3
    assert b"--grpc-restricted-protocol=metadata" in done.stderr
    assert b"no Triton answers" not in done.stderr


def test_a_model_that_is_not_served_is_told(server: triton.Server) -> None:
    done = asr("transcribe", "--url", server.ports.grpc_url, "--model", "french_stt", str(FILES[0]))
    assert done.returncode == 3
    assert b"french_stt" in done.stderr


def test_the_doctor_finds_a_healthy_server_healthy(address: tuple[str, ...]) -> None:
    done = asr("doctor", *address)
    assert done.returncode == 0, done.stdout


def test_the_bench_reports_throughput_latency_and_batches(address: tuple[str, ...], tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    done = asr(
        *("bench", *address, "--requests", "32", "--concurrency", "16", "--audio-seconds", "2", "10"),
        *("--output", str(output), *map(str, FILES)),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    record = record[0] if isinstance(record, list) else record
    assert {"case", "engine", "clients", "rtfx", "p50_ms", "p95_ms", "versions", "gpu"} <= set(record)
