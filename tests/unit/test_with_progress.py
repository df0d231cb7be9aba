"""The script that shows progress in the place of a long command's output."""

import os
import signal
import subprocess
import uuid
from pathlib import Path

from tests.support.processes import with_variable

SCRIPT = str(Path(__file__).parents[1] / "support" / "with-progress")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, "Building it", *command], capture_output=True, text=True, check=False)


def test_a_command_that_succeeds_is_two_lines_without_its_output() -> None:
    done = run("sh", "-c", "echo go: downloading; echo more >&2")

    assert done.returncode == 0
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["...", "✓"]
    assert "downloading" not in done.stdout + done.stderr


def test_a_command_that_fails_is_shown_with_its_output_and_its_exit_code() -> None:
    done = run("sh", "-c", "echo go: no such module; exit 7")

    assert done.returncode == 7
    assert "Building it failed with exit code 7; it printed:\ngo: no such module\n" in done.stderr


def test_an_interruption_ends_the_command_too() -> None:
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        [SCRIPT, "Building it", "sleep", "600"], env=os.environ | {"MARK": mark}, stderr=subprocess.PIPE, text=True
    ) as script:
        assert script.stderr is not None
        assert script.stderr.readline() == "... Building it\n"
        script.send_signal(signal.SIGTERM)
        assert script.wait(60) == 143
    assert with_variable("MARK", mark) == []
