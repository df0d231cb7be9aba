"""What each command does with the packages of one extra alone: it works, or says what to install."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools.testcluster.cluster import PROJECT

SOURCES = (
    "cli/asr_cli",
    "client/asr_client",
    "contract/asr_contract",
    "model_builder",
    "operator/asr_operator",
    "serving/asr_serving",
)
MODULES = {"asr": "asr_cli.main", "asr-operator": "asr_operator.__main__", "model-builder": "model_builder.cli"}

Run = Callable[..., subprocess.CompletedProcess[str]]


def wanted(package: str, extras: frozenset[str], seen: set[tuple[str, str]]) -> None:
    """Add a package and all that it requires, each with the extra for which it does, to `seen`."""
    for extra in {"", *extras} - {known for name, known in seen if name == package}:
        seen.add((package, extra))
        for text in importlib.metadata.requires(package) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                wanted(requirement.name.lower(), frozenset(requirement.extras), seen)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a command with what `pip install '.[EXTRA]'` installs, and nothing else of this environment."""
    folder = tmp_path_factory.mktemp("installs")

    def install(extra: str) -> Path:
        place = folder / (extra or "none")
        if place.exists():
            return place
        place.mkdir()
        seen: set[tuple[str, str]] = set()
        wanted("asr-operator", frozenset({extra} - {""}), seen)
        for package in {name for name, _ in seen}:
            for file in importlib.metadata.files(package) or ():
                link = place / file.parts[0]
                if ".." not in file.parts and not link.exists():
                    link.symlink_to(str(importlib.metadata.distribution(package).locate_file(file.parts[0])))
        for source in SOURCES:
            (place / Path(source).name).symlink_to(PROJECT / source)
        return place

    def command(extra: str, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(install(extra)), "COLUMNS": "300", "NO_COLOR": "1"}
        return subprocess.run(
            # -S: without this environment's packages.
            [sys.executable, "-S", "-m", MODULES[name], *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=environment | {"KUBECONFIG": "/nowhere"},
            cwd=folder,
            timeout=60,
        )

    return command


def test_plans_need_no_more_than_the_extra_kubernetes(run: Run) -> None:
    done = run("kubernetes", "asr", "plans")
    assert done.returncode == 1
    assert "set KUBECONFIG" in done.stderr


def test_the_operators_extra_can_run_a_conformance_check(run: Run) -> None:
    done = run("operator", "asr", "conform", "--url", "127.0.0.1:9")
    assert done.returncode == 3
    assert "127.0.0.1:9" in done.stderr


@pytest.mark.parametrize("command", sorted(MODULES))
def test_help_needs_no_extra(run: Run, command: str) -> None:
    done = run("", command, "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_artifact_is_inspected_without_any_extra(run: Run) -> None:
    done = run("", "model-builder", "inspect", ".")
    assert done.returncode == 31
    assert done.stderr.startswith("ArtifactInvalid: ")


CHECKPOINT = str(PROJECT / "demo" / "english_stt.nemo")
MANIFEST = str(PROJECT / "examples" / "kubectl" / "gpu.yaml")
BUILD = ("model-builder", "build", "--name", "x", "--source", CHECKPOINT, "--work", "work", "--storage", "STORAGE")


@pytest.mark.parametrize(
    ("installed", "command", "needed"),
    [
        ("", ("model-builder", "inspect", CHECKPOINT), "builder"),
        ("client", BUILD, "builder"),
        ("kubernetes", BUILD, "builder"),
        ("client", ("model-builder", "serve", "."), "builder"),
        ("", ("asr-operator", "check", MANIFEST), "operator"),
        ("kubernetes", ("asr-operator", "check", MANIFEST), "operator"),
        ("", ("asr", "transcribe", "x.wav"), "client"),
        ("", ("asr", "plans"), "kubernetes"),
        ("client", ("asr", "doctor", "asr/english"), "kubernetes"),
        ("client", ("asr", "conform", "asr/english"), "kubernetes"),
        ("", ("asr", "conform", "--url", "localhost:8001"), "client"),
    ],
)
def test_a_missing_package_is_told_in_one_line_with_the_extra_that_has_it(
    run: Run, tmp_path: Path, installed: str, command: tuple[str, ...], needed: str
) -> None:
    done = run(installed, *(part.replace("STORAGE", tmp_path.as_uri()) for part in command))
    assert done.returncode == (2 if command[0] == "asr" else 41)
    assert "Traceback" not in done.stderr
    assert f"pip install '.[{needed}]' in the project's folder" in done.stderr.splitlines()[-1]
