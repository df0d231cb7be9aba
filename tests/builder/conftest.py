"""The demo checkpoint, built once a session by the command line, in a real S3 server and a real Triton."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model_builder import audio_set, triton
from model_builder.audio_set import AudioSet
from tests.support.programs import program
from tests.support.s3 import S3Server, s3_server

NAME = "english_stt"


@dataclass(frozen=True, slots=True)
class Built:
    """What one run of `model-builder build` left."""

    uri: str
    work: Path
    report: dict[str, Any]
    errors: str


@dataclass(frozen=True, slots=True)
class Builder:
    """Runs `model-builder` against the S3 server of this session."""

    s3: S3Server
    folder: Path

    @property
    def home(self) -> Path:
        """HOME of what is run."""
        return self.folder / "home"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Any command, as of a user whose home is new and who has set nothing."""
        self.home.mkdir(exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
        return subprocess.run(
            [program("model-builder"), *arguments],
            env=inherited | self.s3.environment | {"HOME": str(self.home)},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def build(self, work: str, *arguments: str, source: Path) -> Built:
        """`model-builder build` of `source`."""
        folder = self.folder / work
        done = self.run(
            *("build", "--source", str(source), "--name", NAME, "--storage", f"{self.s3.uri}/tests"),
            *("--work", str(folder), *arguments),
        )
        assert done.returncode == 0, done.stderr
        return Built(
            done.stdout.splitlines()[-1], folder, json.loads((folder / "report.json").read_text()), done.stderr
        )


@pytest.fixture(scope="session")
def demo_checkpoint() -> Path:
    return Path(__file__).parents[2] / "demo" / "english_stt.nemo"


@pytest.fixture(scope="session")
def check_audio() -> AudioSet:
    return audio_set.load(audio_set.SHIPPED, max_seconds=40)


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    folder = tmp_path_factory.mktemp("builder")
    with s3_server(folder) as server:
        yield Builder(server, folder)


@pytest.fixture(scope="session")
def built(builder: Builder, demo_checkpoint: Path) -> Built:
    """The demo checkpoint with every default."""
    return builder.build("work", source=demo_checkpoint)


@pytest.fixture(scope="session")
def float_built(builder: Builder, demo_checkpoint: Path) -> Built:
    """For clients that send floats. In FP32: in FP16 a near-tie may fall otherwise in another batch."""
    return builder.build("float", "--wire", "float32", source=demo_checkpoint)


@pytest.fixture(scope="session")
def half_built(builder: Builder, demo_checkpoint: Path) -> Built:
    """In half precision; Triton serves it from a work folder with a name that no shell takes for one word."""
    return builder.build("half; it's (FP16) $(id)", "--precision", "fp16", source=demo_checkpoint)


@pytest.fixture(scope="session")
def repository(builder: Builder, built: Built) -> Path:
    """The published repository, fetched back."""
    folder = builder.folder / "fetched"
    done = builder.run("fetch", built.uri, str(folder), "--manifest-sha256", built.report["manifest_sha256"])
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[triton.Server]:
    """A real Triton over the fetched repository."""
    with triton.serve(repository) as running:
        yield running


@pytest.fixture(scope="session")
def float_server(float_built: Built) -> Iterator[triton.Server]:
    """A real Triton whose clients send floats."""
    with triton.serve(float_built.work / "repository") as running:
        yield running


@pytest.fixture
def fresh_server(repository: Path) -> Iterator[triton.Server]:
    """A real Triton whose statistics start at zero."""
    with triton.serve(repository) as running:
        yield running
