"""`model-builder serve` and signals: Ctrl-C and SIGTERM at each moment of its life, also twice."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from model_builder import triton
from tests.support.processes import with_variable

MARK = "TEST_OF_STOP"
AT_A_MOMENT = """
import importlib.abc, os, signal, sys

moment, number = sys.argv.pop(1), signal.Signals[sys.argv.pop(1)]

def send():
    os.kill(os.getpid(), number)  # its handler runs before the next line

class AtImport(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == moment:
            sys.meta_path.remove(self)
            send()

sys.meta_path.insert(0, AtImport())
from model_builder.__main__ import main

if moment not in {"typer", "model_builder.triton"}:
    from model_builder import progress, triton

    say, wait = progress.RichReporter.info, triton._await_ready

    def say_and_send(self, message, **fields):
        say(self, message, **fields)
        if message.startswith(moment) or (moment == "Triton stops" and message.startswith("ready")):
            send()

    def send_and_wait(*arguments):
        if moment == "models load":
            send()
        return wait(*arguments)

    progress.RichReporter.info, triton._await_ready = say_and_send, send_and_wait
main()
"""
EARLY = ["stopped before Triton was ready"]
MOMENTS = {
    "typer": ["Interrupted"],
    "model_builder.triton": EARLY,
    "Triton starts": EARLY,
    "models load": EARLY,
    "ready": ["Triton stops"],
    "Triton stops": ["Triton stops"],
}
"""When the signal comes, and the last line that is told. The last of these is a second signal after one at `ready`."""


def serve(repository: Path, *before: str, mark: str) -> subprocess.Popen[str]:
    """`model-builder serve` by the program `before`, with the environment variable MARK in all that it starts."""
    ports = triton.Ports.free()
    numbers = ("--grpc-port", str(ports.grpc), "--http-port", str(ports.http), "--metrics-port", str(ports.metrics))
    return subprocess.Popen(
        [sys.executable, *before, "serve", str(repository), *numbers],
        env=os.environ | {MARK: mark},
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment_of_serve_ends_it_and_its_server_with_one_line_and_the_signals_code(
    repository: Path, moment: str, number: signal.Signals
) -> None:
    mark = uuid.uuid4().hex
    with serve(repository, "-c", AT_A_MOMENT, moment, number.name, mark=mark) as command:
        told = command.communicate(timeout=120)[1].splitlines()
    assert told[-1:] == MOMENTS[moment]
    assert [line for line in told if "next run" in line or "Traceback" in line] == []
    assert command.returncode == 128 + number
    assert with_variable(MARK, mark) == []


def test_the_first_of_two_different_signals_decides_the_exit_code(repository: Path) -> None:
    mark = uuid.uuid4().hex
    with serve(repository, "-m", "model_builder", mark=mark) as command:
        assert command.stderr is not None
        for line in command.stderr:
            if line.startswith("ready"):
                os.killpg(command.pid, signal.SIGTERM)
            elif line.startswith("Triton stops"):
                os.killpg(command.pid, signal.SIGINT)
        assert command.wait(60) == 143
    assert with_variable(MARK, mark) == []
