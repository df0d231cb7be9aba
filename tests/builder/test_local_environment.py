"""`model-builder serve` where users run it: odd folder names, a small /dev/shm, a full temporary folder."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from model_builder import triton
from tests.support.programs import program

ODD = 'it\'s "my" models; (1) $(touch RUN) `touch RUN`\nü'
mounts = pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="mounts a small file system")


def mounted(where: str, size: str, *command: str) -> list[str]:
    """The command in a mount namespace with a file system of `size` at `where`."""
    script = 'mount -t tmpfs -o size="$0" tmpfs "$1" && shift && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, size, where, *command]


def served(repository: Path) -> list[str]:
    """The command line that serves `repository` on free ports."""
    ports = triton.Ports.free()
    numbers = ("--grpc-port", str(ports.grpc), "--http-port", str(ports.http), "--metrics-port", str(ports.metrics))
    return [program("model-builder"), "serve", str(repository), *numbers]


def until_ready(command: list[str], folder: Path, **variables: str) -> tuple[list[str], int]:
    """What a server says until it is ready and is stopped, and its exit code."""
    with subprocess.Popen(
        command, cwd=folder, env=os.environ | variables, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        told = []
        for line in process.stderr:
            told.append(line)
            if line.startswith("ready"):
                process.send_signal(signal.SIGINT)
        return told, process.wait()


def test_a_repository_and_a_temporary_folder_with_odd_names_are_served(repository: Path, tmp_path: Path) -> None:
    temporary = tmp_path / f"tmp {ODD}"
    temporary.mkdir()
    copy = shutil.copytree(repository, tmp_path / ODD)

    told, code = until_ready(served(copy), tmp_path, TMPDIR=str(temporary))

    assert code == 130, told
    assert not list(tmp_path.rglob("RUN"))


@mounts
def test_a_small_shared_memory_is_told_with_the_option_that_enlarges_it(repository: Path, tmp_path: Path) -> None:
    told, code = until_ready(mounted("/dev/shm", "64m", *served(repository)), tmp_path)  # noqa: S108

    assert told[0].startswith("warning: /dev/shm has 64 MiB free, 256 MiB are needed under load")
    assert "--shm-size=256m" in told[0]
    assert code == 130, told


@mounts
def test_a_full_temporary_folder_is_told_in_one_line(repository: Path, tmp_path: Path) -> None:
    told, code = until_ready(mounted(str(tmp_path), "1m", *served(repository)), tmp_path, TMPDIR=str(tmp_path))

    assert code == 32
    assert told[-1] == (
        f"WorkFolderUnusable: cannot write below {tmp_path}: [Errno 28] No space left on device; set TMPDIR to a "
        "folder that can be written and has room\n"
    )
