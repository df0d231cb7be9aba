"""What the libraries behind a build find in the environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model_builder import environment

LOAD = "import model_builder, onnxruntime"
COMPILE = """
from model_builder import environment
environment.use_writable_folders()
from librosa.core import notation
"""
"""Imports functions that numba compiles and caches, as NeMo does."""


def test_onnx_runtime_reports_nothing_once_the_package_is_imported(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    run = subprocess.run([sys.executable, "-c", LOAD], env=clean | {"HOME": str(tmp_path)}, check=False)

    assert run.returncode == 0
    assert [path for path in tmp_path.rglob("*") if "microsoft" in str(path).lower()] == []


def replaced(variables: dict[str, str], unwritable: str, tmp_path: Path) -> dict[str, str]:
    return environment.replacements(
        variables, is_writable=lambda path: not str(path).startswith(unwritable), fallback=lambda: tmp_path / "own"
    )


def test_a_home_that_can_be_written_stays_as_it_is(tmp_path: Path) -> None:
    assert replaced({"HOME": str(tmp_path)}, "/nowhere", tmp_path) == {}


def test_a_home_that_cannot_be_written_stays_for_what_is_read_from_it(tmp_path: Path) -> None:
    changed = replaced({"HOME": str(tmp_path)}, str(tmp_path), tmp_path)

    assert "HOME" not in changed
    assert changed["NUMBA_CACHE_DIR"] == str(tmp_path / "own" / ".cache" / "numba")
    assert changed["XDG_CACHE_HOME"] == str(tmp_path / "own" / ".cache")


@pytest.mark.parametrize("home", ["", "/nonexistent", "/dev/null"])
def test_a_home_that_is_no_folder_is_replaced(home: str, tmp_path: Path) -> None:
    assert replaced({"HOME": home}, "/root", tmp_path)["HOME" if home else "XDG_CACHE_HOME"].startswith(str(tmp_path))


def test_a_cache_of_one_library_that_cannot_be_written_is_replaced_alone(tmp_path: Path) -> None:
    changed = replaced({"HOME": str(tmp_path), "NUMBA_CACHE_DIR": "/full/numba"}, "/full", tmp_path)

    assert changed == {"NUMBA_CACHE_DIR": str(tmp_path / "own" / ".cache" / "numba")}


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="becomes another user")
def test_a_user_without_a_home_can_compile_what_is_cached(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    # It reads what root owns, and writes nothing of it.
    user = "--reuid=65532 --regid=65532 --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
    variables = {"HOME": "/", "PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    run = subprocess.run(
        ["setpriv", *user.split(), sys.executable, "-c", COMPILE],
        env=variables,
        check=False,
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0, run.stderr
    assert list(tmp_path.glob("asr-operator-65532/.cache/numba/*"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cannot cache function '__o_fold': no locator available for file 'notation.py'"),
        PermissionError(13, "Permission denied", "/.cache"),
        OSError(28, "No space left on device"),
    ],
)
def test_a_cache_that_cannot_be_written_is_no_fault_of_the_checkpoint(error: Exception) -> None:
    wrapped = ValueError("NeMo failed")
    wrapped.__cause__ = error

    assert "set HOME, NUMBA_CACHE_DIR and TMPDIR" in (environment.unwritable_cache(wrapped) or "")


def test_another_failure_is_not_blamed_on_caches() -> None:
    assert environment.unwritable_cache(ValueError("the tokenizer is damaged")) is None
