"""The command line of the model builder, before anything is built."""

import socket
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import asr_client.cli
from model_builder.cli import app

PLACES = ("--source", "english.nemo", "--name", "english_stt", "--storage", "file:///store")


@pytest.mark.parametrize("written", ["bf16", "BF16"])
def test_a_precision_may_be_written_as_in_the_resource(written: str) -> None:
    result = CliRunner().invoke(app, ["build", *PLACES, "--precision", written])

    assert result.exit_code == 2
    assert "bf16 is for TensorRT plans" in result.output


def test_the_case_of_an_engine_does_not_matter() -> None:
    result = CliRunner().invoke(app, ["plan", "file:///store/english_stt/key", "--storage", "x", "--engine", "ONNX"])

    assert result.exit_code == 2
    assert "a plan is for tensorrt, or for both" in result.output


@pytest.mark.parametrize(
    ("program", "command"),
    [
        *((app, name) for name in ("build", "plan", "fetch", "verify", "inspect", "serve")),
        *((asr_client.cli.app, name) for name in ("transcribe", "bench", "doctor", "plans")),
    ],
)
def test_help_cuts_no_name_on_a_terminal_of_80_columns(program: typer.Typer, command: str) -> None:
    result = CliRunner().invoke(program, [command, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})

    assert result.exit_code == 0
    assert "…" not in result.output


def test_a_port_that_is_taken_is_told_with_the_option_that_chooses_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["serve", str(tmp_path), "--grpc-port", str(port)])

    assert result.exit_code == 40
    assert result.stderr == f"ServerUnavailable: port {port} is in use; choose another with --grpc-port\n"


def test_one_port_for_two_services_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = str(found.getsockname()[1])
    result = CliRunner().invoke(app, ["serve", str(tmp_path), "--grpc-port", port, "--http-port", port])

    assert result.exit_code == 40
    assert "choose another with --http-port" in result.stderr
