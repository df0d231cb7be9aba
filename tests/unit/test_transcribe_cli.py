"""The command `asr` as far as it goes without a server."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tritonclient.grpc.model_config_pb2 import ModelConfig
from typer.testing import CliRunner, Result

from asr_cli.commands.transcribe import result_line
from asr_cli.main import app
from asr_client import files, word_errors
from asr_client.audio import AudioFileError
from asr_client.doctor import Served, judge_index, judge_interface, judge_set, parse_address, stt_models
from asr_client.files import FileResult
from asr_client.transcription import Transcript, Word, max_seconds_of, transcript_of
from asr_contract.findings import Outcome
from asr_serving import tensors
from tests.support.programs import program

COMPLETE = {"n", "preprocessing_n", "onnx_n", "postprocessing_n", "ensemble_n"}


def asr(*arguments: str) -> Result:
    """Run the command; wide, so that its messages are not wrapped."""
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "300", "TERMINAL_WIDTH": "300", "NO_COLOR": "1"})


def plain(text: str) -> str:
    """Without colours, frames and line breaks, so that what is told can be looked for."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text).split())


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address where nothing listens: the port is taken, but no connection is accepted."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def wav(tmp_path: Path) -> str:
    """One second of silence."""
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(16_000, dtype=np.int16), 16_000)
    return str(path)


# Help


@pytest.mark.parametrize("command", ["transcribe", "bench", "doctor", "plans"])
def test_help_names_each_command(command: str) -> None:
    assert command in plain(asr("--help").output)


@pytest.mark.parametrize("command", ["transcribe", "bench", "doctor"])
def test_help_of_a_command_has_an_example_and_the_default_address(command: str) -> None:
    told = plain(asr(command, "--help").output)
    assert f"Example: asr {command} " in told
    assert "[default: localhost:8001]" in told


# No server


@pytest.mark.parametrize("command", ["transcribe", "bench"])
def test_no_server_gives_exit_code_3(command: str, closed_port: str, wav: str) -> None:
    assert asr(command, "--url", closed_port, wav).exit_code == 3


@pytest.mark.parametrize("command", ["transcribe", "bench"])
def test_no_server_is_told_in_one_line_with_its_address(command: str, closed_port: str, wav: str) -> None:
    told = asr(command, "--url", closed_port, wav).stderr.strip()
    assert told.startswith(f"error: no Triton answers at {closed_port}")
    assert "\n" not in told


def test_doctor_says_that_nothing_listens(closed_port: str) -> None:
    found = asr("doctor", "--url", closed_port)
    assert found.exit_code == 1
    assert "Connection refused" in found.stdout
    assert "Nothing listens there" in found.stdout


def test_doctor_tells_json_lines(closed_port: str) -> None:
    findings = [json.loads(line) for line in asr("doctor", "--json", "--url", closed_port).stdout.splitlines()]
    assert [(finding["check"], finding["outcome"]) for finding in findings] == [("address", "ok"), ("TCP", "failed")]


class Refusing(BaseHTTPRequestHandler):
    """Answers as Triton does where an API is restricted."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.end_headers()
        self.wfile.write(b'{"error":"This API is restricted, expecting header \'asr-restricted\'"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    """Address of an HTTP server that refuses everything."""
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_doctor_says_that_a_server_keeps_its_health_from_the_probes(closed_port: str, refusing: str) -> None:
    found = asr("doctor", "--url", closed_port, "--http-url", refusing)
    assert "health is restricted" in found.stdout
    assert "Probes need it: leave health out of --http-restricted-api" in found.stdout


def test_doctor_tells_an_address_without_a_port() -> None:
    found = asr("doctor", "--url", "localhost")
    assert found.exit_code == 1
    assert "is not HOST:PORT" in found.stdout


# What is told as it is


def test_doctor_makes_no_emoji_of_an_address() -> None:
    assert "2001:db8:a:b::x has no address" in asr("doctor", "--url", "[2001:db8:a:b::x]:8001").stdout


def test_no_emoji_is_made_of_the_name_of_a_file(closed_port: str) -> None:
    assert "bad:a:1.wav" in asr("bench", "--url", closed_port, "bad:a:1.wav").stderr


# Wrong usage


@pytest.mark.parametrize("url", ["http://localhost:8001", "localhost", "localhost:", ":8001", "localhost:99999"])
def test_what_is_not_host_and_port_is_wrong_usage(url: str, wav: str) -> None:
    assert asr("transcribe", "--url", url, wav).exit_code == 2


def test_authorities_that_are_no_certificates_are_wrong_usage(wav: str) -> None:
    found = asr("transcribe", "--tls-ca", wav, wav)
    assert found.exit_code == 2
    assert "holds no certificate in PEM" in plain(found.stderr)


def test_no_file_is_wrong_usage() -> None:
    assert asr("transcribe").exit_code == 2


def test_a_missing_reference_is_wrong_usage(wav: str) -> None:
    assert asr("transcribe", "--reference", "/nowhere.json", wav).exit_code == 2


def test_a_reference_of_another_form_is_told(tmp_path: Path, wav: str) -> None:
    reference = tmp_path / "transcripts.json"
    reference.write_text('{"silence.wav": 5}')
    found = asr("transcribe", "--reference", str(reference), wav)
    assert found.exit_code == 2
    assert "must be" in found.stderr


def test_lengths_the_wrong_way_round_are_wrong_usage(wav: str) -> None:
    assert asr("bench", "--audio-seconds", "30", "2", wav).exit_code == 2


def test_an_output_in_a_missing_folder_is_told_before_the_load(wav: str) -> None:
    found = asr("bench", "--output", "/nowhere/results.json", wav)
    assert found.exit_code == 2
    assert "does not exist" in plain(found.stderr)


# Bad files


def test_bench_tells_a_bad_file_in_one_line(tmp_path: Path, closed_port: str) -> None:
    path = tmp_path / "text.wav"
    path.write_text("this is not audio")
    found = asr("bench", "--url", closed_port, str(path))
    assert found.exit_code == 1
    assert found.stderr.strip() == f"error: {path}: cannot be read as audio, it is text; give audio files"


def test_bench_says_of_each_bad_file_why_it_is_left_out(tmp_path: Path, closed_port: str, wav: str) -> None:
    bad = [tmp_path / name for name in ("a.wav", "b.wav")]
    for path in bad:
        path.write_text("this is not audio")
    found = asr("bench", "--url", closed_port, str(bad[0]), wav, str(bad[1]))
    assert found.exit_code == 3
    told = [line.split(": ")[1] for line in found.stderr.splitlines()]
    assert told[:2] == [str(path) for path in bad]


def test_bench_bounds_the_audio_in_memory(monkeypatch: pytest.MonkeyPatch, closed_port: str, wav: str) -> None:
    monkeypatch.setattr("asr_client.bench.MAX_AUDIO_SECONDS", 1.5)
    assert asr("bench", "--url", closed_port, wav).exit_code == 3
    found = asr("bench", "--url", closed_port, wav, wav)
    assert found.exit_code == 2
    assert "all in memory: give fewer" in found.stderr


@pytest.mark.parametrize("command", ["transcribe", "bench"])
def test_a_channel_of_another_name_is_wrong_usage(command: str, wav: str) -> None:
    found = asr(command, "--channel", "centre", wav)
    assert found.exit_code == 2
    assert "'centre' is not left, right, mix or the number of a channel" in plain(found.stderr)


def test_normalize_without_a_reference_is_wrong_usage(wav: str) -> None:
    assert asr("transcribe", "--normalize", wav).exit_code == 2


def test_a_line_break_in_a_files_name_does_not_break_the_line_of_its_error() -> None:
    assert "\n" not in result_line(FileResult("a\nb.wav", error="is empty"), as_json=False, width=None)


def test_audio_in_memory_stays_below_its_bound() -> None:
    most = in_memory = 0.0

    async def one(memory: files.AudioMemory, seconds: float) -> None:
        nonlocal most, in_memory
        taken = await memory.take(seconds)
        in_memory += taken
        most = max(most, in_memory)
        await asyncio.sleep(0)
        in_memory -= taken
        await memory.give_back(taken)

    async def all_of_them() -> None:
        memory = files.AudioMemory(100)
        await asyncio.gather(*(one(memory, seconds) for seconds in (60, 50, 40, 1_000, 1, 99, 30) * 5))

    asyncio.run(all_of_them())
    assert in_memory == 0
    assert most == 100


@pytest.mark.parametrize(
    ("value", "seconds"), [("40", 40.0), ("0", None), ("-1", None), ("inf", None), ("nan", None), ("long", None)]
)
def test_the_longest_audio_is_read_from_the_models_parameters(value: str, seconds: float | None) -> None:
    config = ModelConfig()
    assert max_seconds_of(config.parameters) is None
    config.parameters["max_audio_seconds"].string_value = value
    assert max_seconds_of(config.parameters) == seconds


def test_a_folder_is_told_with_what_to_write_instead(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match=re.escape(f"give files, such as {tmp_path}/*.wav")):
        files.read(str(tmp_path))


def test_audio_of_more_than_an_hour_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(3_601 * 2_000, dtype=np.int16), 2_000)
    with pytest.raises(AudioFileError, match=re.escape("is 3601.00 s long, at most 3600 s are taken")):
        files.read(str(path))


def test_audio_that_memory_does_not_hold_is_told(tmp_path: Path) -> None:
    path = tmp_path / "large.flac"
    soundfile.write(path, np.zeros(1_800 * 16_000, dtype=np.int16), 16_000)
    script = """
import resource, sys
import numpy, soundfile, soxr
from asr_client import audio, files
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 32_000_000,) * 2)
try:
    files.read(sys.argv[1])
except audio.AudioFileError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout == f"{path}: takes more memory than there is\n"


def test_an_empty_name_is_told() -> None:
    with pytest.raises(AudioFileError, match="name is empty"):
        files.read("")


def test_a_closed_standard_input_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(AudioFileError, match="standard input: is closed"):
        files.read("-")


def test_standard_input_is_named_once() -> None:
    assert files._reason("-", AudioFileError("standard input: holds no samples")) == "holds no samples"


# Letters that the terminal's encoding has not


def doctor_in_ascii(*arguments: str) -> str:
    """What `asr doctor` prints where standard output is ASCII."""
    done = subprocess.run(
        [program("asr"), "doctor", *arguments],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    return done.stdout


def test_a_letter_that_cannot_be_printed_is_escaped(closed_port: str) -> None:
    assert "\\u2713 address" in doctor_in_ascii("--url", closed_port)


def test_json_with_letters_that_cannot_be_printed_stays_json() -> None:
    (line,) = doctor_in_ascii("--json", "--url", "Zo\xeb\U0001f600").splitlines()
    assert "Zo\xeb\U0001f600" in json.loads(line)["message"]


# Results


def test_a_result_is_one_json_object() -> None:
    transcript = Transcript("hello there", 0.98765432, (Word("hello", 0.08, 0.4), Word("there", 0.48, 0.8)))
    assert FileResult("a.wav", 1.25, transcript).to_json() == {
        "file": "a.wav",
        "text": "hello there",
        "confidence": 0.9877,
        "seconds": 1.25,
        "words": [{"word": "hello", "start": 0.08, "end": 0.4}, {"word": "there", "start": 0.48, "end": 0.8}],
        "retries": 0,
    }


def test_no_word_ends_after_the_audio() -> None:
    outputs = {
        "decoded_texts": np.array([[b"full today"]]),
        "confidence": np.array([[0.9]], dtype=np.float32),
        "words": np.array([[b"full", b"today"]]),
        "word_offsets": np.array([[[1.2, 1.6], [2.24, 2.72]]], dtype=np.float32),
    }
    found = transcript_of(outputs, seconds=2.68)
    assert [(word.start, word.end) for word in found.words] == [(1.2, 1.6), (2.24, 2.68)]


def test_a_failed_file_is_one_json_object_with_the_error() -> None:
    expected = {"file": "a.wav", "error": "holds no samples", "retries": 0}
    assert FileResult("a.wav", error="holds no samples").to_json() == expected


# Word error rate


def test_word_errors_are_counted_over_the_words_of_the_reference() -> None:
    pytest.importorskip("jiwer")
    found = word_errors.count(["one two three four", "five"], ["one too three", "five six"])
    assert found is not None
    assert (found.errors, found.words) == (3, 5)


def test_files_without_a_known_text_do_not_count() -> None:
    pytest.importorskip("jiwer")
    found, known = word_errors.of_files({"a.wav": "one"}, [("folder/a.wav", "one"), ("b.wav", "two")])
    assert known == 1
    assert found == word_errors.WordErrors(errors=0, words=1)


def test_no_known_text_gives_no_word_error_rate() -> None:
    assert word_errors.of_files({}, [("a.wav", "one")]) == (None, 0)


def test_a_text_for_silence_alone_gives_no_word_error_rate() -> None:
    pytest.importorskip("jiwer")
    assert word_errors.count([""], ["time"]) is None


# What doctor makes of a server's answers


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:8001", ("localhost", 8001)),
        ("[::1]:8001", ("::1", 8001)),
        ("a.b:1", ("a.b", 1)),
        ("dns:///a.b:1", ("a.b", 1)),
        ("dns://10.0.0.10/a.b:1", ("a.b", 1)),
    ],
)
def test_addresses(url: str, expected: tuple[str, int]) -> None:
    assert parse_address(url) == expected


def test_the_name_of_a_set_is_found_from_its_models() -> None:
    assert stt_models(COMPLETE | {"resnet"}) == ["n"]


@pytest.mark.parametrize("model", ["n", "ensemble_n"])
def test_a_complete_set_is_good(model: str) -> None:
    assert judge_set(model, COMPLETE, COMPLETE).outcome is Outcome.OK


def test_a_set_with_tensorrt_alone_is_good() -> None:
    ready = {"n", "preprocessing_n", "tensorrt_n", "postprocessing_n", "ensemble_tensorrt_n"}
    assert judge_set("n", ready, ready).outcome is Outcome.OK


@pytest.mark.parametrize("missing", sorted(COMPLETE))
def test_a_missing_model_of_a_set_is_named(missing: str) -> None:
    finding = judge_set("n", COMPLETE - {missing}, COMPLETE)
    assert finding.outcome is Outcome.FAILED
    assert missing in finding.message


def test_an_unknown_name_is_answered_with_those_that_are_there() -> None:
    assert "This server has n." in judge_set("english_stt", COMPLETE, COMPLETE).hint


def test_a_model_that_did_not_load_is_told_with_triton_s_reason() -> None:
    finding = judge_index([Served("onnx_n", "1", "UNAVAILABLE", "out of memory")])
    assert finding.outcome is Outcome.FAILED
    assert "onnx_n is UNAVAILABLE out of memory" in finding.message


@pytest.mark.parametrize("wire", ["PCM16", "FLOAT32", "FLOAT64"])
def test_the_interface_of_the_tensor_table_is_good(wire: str) -> None:
    assert judge_interface("n", [tensors.audio_signal(wire)], tensors.TRANSCRIPT).outcome is Outcome.OK


def test_another_input_is_told_with_what_is_expected() -> None:
    finding = judge_interface("n", [tensors.TOKENS], tensors.TRANSCRIPT)
    assert finding.outcome is Outcome.FAILED
    assert "takes tokens INT32 [-1]; expected is audio_signal" in finding.message


@pytest.mark.parametrize("missing", tensors.TRANSCRIPT, ids=lambda tensor: tensor.name)
def test_a_missing_output_is_named(missing: tensors.Tensor) -> None:
    outputs = [tensor for tensor in tensors.TRANSCRIPT if tensor is not missing]
    finding = judge_interface("n", [tensors.audio_signal("PCM16")], outputs)
    assert finding.outcome is Outcome.FAILED
    assert f"gives nothing as {missing.name}" in finding.message
