"""The shell scripts that the Dockerfiles run, by a real shell and a real Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools.testcluster.cluster import PROJECT

IMAGE = PROJECT / "model_builder" / "image"
DOCKERFILE = PROJECT / "model_builder" / "Dockerfile"
PYTHON = PROJECT / ".cache" / "bootstrap" / "bin" / "python"
"""A Python that has pip."""

RELEASES = ("10.6.0", "10.6.0.post1", "10.13.2.6", "10.13.3.9", "10.16.1.11", "11.1.0.106", "11.2.1.2")
"""Some of those on PyPI."""


def requirement(version: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if key != "TRT_VERSION"} | environment
    command = ["sh", str(IMAGE / "tensorrt-requirement"), version]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("version", "releases"),
    [
        ("10.13.2", {"10.13.2.6"}),
        ("11.2.1", {"11.2.1.2"}),
        ("10.6.0", {"10.6.0", "10.6.0.post1"}),
        ("10.13.2.6", {"10.13.2.6"}),
        ("10.13.2.6-1+cuda13.0", {"10.13.2.6"}),
        ("10.16.1.11+cuda13.2", {"10.16.1.11"}),
        ("10.6.0.post1", {"10.6.0.post1"}),
        ("10.13.2.5", set()),
    ],
)
def test_three_numbers_stand_for_the_release_that_has_them_and_four_for_themselves(
    version: str, releases: set[str]
) -> None:
    found = Requirement(requirement(version).stdout.strip())
    assert found.name == "tensorrt"
    assert set(found.specifier.filter(RELEASES)) == releases


@pytest.mark.parametrize("version", ["10", "10.13", "10.13.2.6.1", "10.13.x", "latest", "", "10.13.2; rm -rf x", "-1"])
def test_what_is_no_version_of_tensorrt_is_refused_with_one_that_is(version: str) -> None:
    done = requirement(version)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "write three or four numbers, such as 10.13.2" in done.stderr


def test_a_tensorrt_that_the_base_image_does_not_have_is_refused() -> None:
    done = requirement("10.13.2", TRT_VERSION="11.2.1.2-1+cuda13.4")
    assert done.returncode == 1
    assert "BASE_IMAGE has TensorRT 11.2.1.2" in done.stderr


def test_the_tensorrt_of_the_base_image_is_taken() -> None:
    assert requirement("11.2.1", TRT_VERSION="11.2.1.2-1+cuda13.4").stdout == "tensorrt==11.2.1.*\n"


def test_a_refused_version_ends_the_build_of_the_image() -> None:
    # As the Dockerfile has it: the words of a command substitution in an argument would be lost.
    steps = " ".join(DOCKERFILE.read_text().replace("\\\n", " ").split())
    assert 'requirement=$(/build/image/tensorrt-requirement "$TENSORRT_VERSION") && /opt/asr/bin/pip install' in steps


def wheels() -> Path:
    """Folder with pip's wheel that comes with Python: the tests need no network for it."""
    ask = "import ensurepip; print(ensurepip._WHEEL_PKG_DIR or ensurepip.__path__[0] + '/_bundled')"
    return Path(subprocess.run([PYTHON, "-c", ask], check=True, capture_output=True, text=True).stdout.strip())


def base(folder: Path, *, without: tuple[str, ...]) -> dict[str, str]:
    """An environment whose python3 lacks these modules, and where apt-get only says what it is asked for."""
    programs, modules = folder / "bin", folder / "modules"
    programs.mkdir(parents=True)
    for module in without:
        (modules / module).mkdir(parents=True)
        (modules / module / "__init__.py").write_text("raise ImportError('not in this image')\n")
    (programs / "python3").write_text(f'#!/bin/sh\nPYTHONPATH={modules} exec {PYTHON} "$@"\n')
    (programs / "apt-get").write_text(f'#!/bin/sh\necho "$@" >>{folder}/apt\nrm -rf {modules}/*\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    return {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": str(folder),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels()),
    }


def made(environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The environment that the script makes, with pip: what pip says of itself."""
    command = ["sh", str(IMAGE / "make-environment"), str(folder)]
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return subprocess.run([folder / "bin" / "pip", "--version"], capture_output=True, text=True, check=True)


@pytest.mark.parametrize(
    ("without", "installed"),
    [
        pytest.param((), False, id="a Python image"),
        pytest.param(("ensurepip",), False, id="NVIDIA's recipe"),
        pytest.param(("ensurepip", "pip"), True, id="plain Debian"),
    ],
)
def test_an_environment_with_pip_is_made_upon(without: tuple[str, ...], installed: bool, tmp_path: Path) -> None:
    environment = base(tmp_path / "image", without=without)
    assert str(tmp_path / "asr") in made(environment, tmp_path / "asr").stdout
    asked = tmp_path / "image" / "apt"
    assert asked.exists() == installed
    if installed:
        assert asked.read_text().splitlines()[1].endswith("--no-install-recommends python3-venv")


def test_a_base_image_with_another_python_is_refused_with_the_versions_that_will_do(tmp_path: Path) -> None:
    environment = base(tmp_path / "image", without=())
    (tmp_path / "image" / "bin" / "python3").write_text('#!/bin/sh\necho "Python 3.10.12"\nexit 1\n')
    command = ["sh", str(IMAGE / "make-environment"), str(tmp_path / "asr")]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the base image has Python 3.10.12; take one with Python 3.11 or 3.12" in done.stderr
    assert not (tmp_path / "asr").exists()


@pytest.mark.parametrize("there", [True, False], ids=["there", "missing"])
def test_the_interpreters_library_is_installed_where_it_is_missing(there: bool, tmp_path: Path) -> None:
    environment = base(tmp_path, without=())
    if not there:
        (tmp_path / "modules").mkdir(exist_ok=True)
        (tmp_path / "modules" / "ctypes.py").write_text("def CDLL(name):\n    raise OSError(name)\n")
    subprocess.run(["sh", str(IMAGE / "install-libpython")], env=environment, check=True, capture_output=True)
    assert (tmp_path / "apt").exists() != there
    if not there:
        minor = f"{sys.version_info.major}.{sys.version_info.minor}"
        assert (tmp_path / "apt").read_text().splitlines()[1].endswith(f"libpython{minor}")
