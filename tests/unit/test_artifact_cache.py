"""A folder of artifacts that pods share, with real files, locks and processes."""

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asr_contract.errors import ArtifactError, WorkFolderError
from asr_operator.render.start import HOLD_LOCK
from model_builder import artifact_cache, artifact_store
from model_builder.artifact_store import Published
from model_builder.progress import NullReporter
from model_builder.storage import Storage
from tests.support.programs import program
from tests.unit.test_artifact import FACTS
from tests.unit.test_artifact_store import PROVENANCE, QUIET
from tests.unit.test_recipe import example

SIZE = 100_000


class Told(NullReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def info(self, message: str, **fields: object) -> None:
        self.messages.append(f"{message} {fields}")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage((tmp_path / "storage").as_uri(), create=True)


def publish(storage: Storage, folder: Path, letter: str, size: int = SIZE) -> Published:
    """An artifact whose one large file is of this letter."""
    repository = folder / f"repository-{letter}"
    for name, content in (("english_stt/config.pbtxt", b"name"), ("onnx_english_stt/1/model.onnx", letter.encode())):
        (repository / name).parent.mkdir(parents=True)
        (repository / name).write_bytes(content * size)
    recipe = example().model_copy(update={"checkpoint_sha256": hashlib.sha256(letter.encode()).hexdigest()})
    return artifact_store.publish(
        repository, storage, recipe=recipe, provenance=PROVENANCE, facts=FACTS, check={}, gate={}, reporter=QUIET
    )


@pytest.fixture
def first(storage: Storage, tmp_path: Path) -> Published:
    return publish(storage, tmp_path, "a")


@pytest.fixture
def second(storage: Storage, tmp_path: Path) -> Published:
    return publish(storage, tmp_path, "b")


def place(cache: Path, artifact: Published) -> Path:
    return cache / artifact.manifest_sha256[:16]


def fetch(
    cache: Path, artifact: Published, *, limit: int | None = None, unused_seconds: float = 0.0, told: Told | None = None
) -> Path:
    """As a pod does that ends at once."""
    destination = place(cache, artifact)
    with artifact_cache.fetch(
        artifact.uri,
        destination,
        sha256=artifact.manifest_sha256,
        limit=limit,
        unused_seconds=unused_seconds,
        reporter=told or QUIET,
    ):
        return destination


def command(cache: Path, artifact: Published, *more: str) -> list[str]:
    """What a pod runs."""
    pinned = f"--manifest-sha256={artifact.manifest_sha256}"
    return [program("model-builder"), "fetch", artifact.uri, str(place(cache, artifact)), pinned, "--shared", *more]


@contextmanager
def serving(cache: Path, artifact: Published) -> Iterator[None]:
    """A process that holds an artifact as a server in a pod does."""
    lock = cache / f"{artifact.manifest_sha256[:16]}.lock"
    with subprocess.Popen(
        ["/bin/sh", "-c", HOLD_LOCK, str(lock), "sh", "-c", "echo serving; exec sleep 600"], stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"serving\n"
        try:
            yield
        finally:
            server.kill()


def visible(cache: Path) -> set[str]:
    """Names of the artifacts that are there."""
    return {path.name for path in cache.iterdir() if path.is_dir()}


def test_what_is_there_is_used_without_storage(cache: Path, storage: Storage, first: Published) -> None:
    fetch(cache, first)
    Path(storage.uri.removeprefix("file://")).rename(cache.parent / "gone")
    assert (fetch(cache, first) / "onnx_english_stt/1/model.onnx").read_bytes() == b"a" * SIZE


@pytest.mark.parametrize("damage", ["flipped", "shortened", "removed", "added", "no manifest"])
def test_a_copy_that_is_not_as_published_is_brought_anew(cache: Path, first: Published, damage: str) -> None:
    folder = fetch(cache, first)
    path = folder / "onnx_english_stt/1/model.onnx"
    if damage == "flipped":
        path.write_bytes(b"b" + b"a" * (SIZE - 1))
    elif damage == "shortened":
        path.write_bytes(b"a")
    elif damage == "removed":
        path.unlink()
    elif damage == "added":
        (folder / "extra").touch()
    else:
        (folder / "manifest.json").unlink()
    fetch(cache, first)
    artifact_store.verify(str(folder), reporter=QUIET)
    assert visible(cache) == {folder.name}


def test_an_artifact_that_storage_has_not_as_published_leaves_nothing(
    cache: Path, storage: Storage, first: Published
) -> None:
    (path,) = Path(storage.uri.removeprefix("file://")).rglob("model.onnx")
    path.write_bytes(b"b" * SIZE)
    with pytest.raises(ArtifactError, match="was altered"):
        fetch(cache, first)
    assert visible(cache) == set()


def test_pods_that_start_together_bring_it_once(cache: Path, tmp_path: Path, storage: Storage) -> None:
    artifact = publish(storage, tmp_path, "c", 20_000_000)
    pods = [subprocess.Popen(command(cache, artifact, "--json"), stderr=subprocess.PIPE, text=True) for _ in range(4)]
    logs = [pod.communicate(timeout=120)[1] for pod in pods]
    assert [pod.returncode for pod in pods] == [0] * 4, logs
    assert sum('"finished", "task": "fetch"' in log for log in logs) == 1
    artifact_store.verify(str(place(cache, artifact)), reporter=QUIET)


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from model_builder import artifact_cache
from model_builder.progress import NullReporter, NullTask

class Deadly(NullTask):
    def advance(self, amount=1):
        os.kill(os.getpid(), signal.SIGKILL)

class Reporter(NullReporter):
    @contextmanager
    def task(self, name, total=None):
        yield Deadly()

uri, destination, sha256 = sys.argv[1:]
with artifact_cache.fetch(uri, Path(destination), sha256=sha256, reporter=Reporter()):
    pass
"""


def test_a_fetch_that_is_killed_leaves_nothing_half_made_and_the_next_one_cleans_up(
    cache: Path, first: Published
) -> None:
    arguments = [first.uri, str(place(cache, first)), first.manifest_sha256]
    assert subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False).returncode == -signal.SIGKILL
    assert [name for name in visible(cache) if not name.startswith(".")] == []
    assert len(visible(cache)) == 1
    fetch(cache, first)
    assert visible(cache) == {place(cache, first).name}


def test_what_a_pod_serves_is_never_removed(cache: Path, first: Published, second: Published) -> None:
    fetch(cache, first)
    with serving(cache, first):
        fetch(cache, second, limit=1)
    assert visible(cache) == {place(cache, first).name, place(cache, second).name}


def test_over_the_limit_the_artifact_goes_that_nobody_uses(cache: Path, first: Published, second: Published) -> None:
    fetch(cache, first)
    told = Told()
    fetch(cache, second, limit=second.manifest.size + 1, told=told)
    assert visible(cache) == {place(cache, second).name}
    assert any(place(cache, first).name in message for message in told.messages)


def test_within_the_limit_all_stay(cache: Path, first: Published, second: Published) -> None:
    fetch(cache, first)
    # The manifests take some room, too.
    fetch(cache, second, limit=first.manifest.size + second.manifest.size + 20_000)
    assert visible(cache) == {place(cache, first).name, place(cache, second).name}


def test_what_was_used_of_late_stays_since_its_server_may_be_starting(
    cache: Path, first: Published, second: Published
) -> None:
    fetch(cache, first)
    fetch(cache, second, limit=1, unused_seconds=900)
    assert place(cache, first).name in visible(cache)


def test_the_time_without_use_begins_when_the_server_is_gone(
    cache: Path, tmp_path: Path, storage: Storage, first: Published, second: Published
) -> None:
    fetch(cache, first)
    fetch(cache, second)  # sees the first one unused
    marker = cache / f"{place(cache, first).name}.unused"
    os.utime(marker, (time.time() - 1000,) * 2)
    with serving(cache, first):
        fetch(cache, second)  # sees it used
        assert not marker.exists()
    fetch(cache, publish(storage, tmp_path, "c"), limit=1, unused_seconds=900)
    assert place(cache, first).name in visible(cache)


def test_the_longest_unused_goes_first(
    cache: Path, tmp_path: Path, storage: Storage, first: Published, second: Published
) -> None:
    for artifact in (first, second):
        fetch(cache, artifact)
    third = publish(storage, tmp_path, "c")
    for artifact, age in ((first, 1000), (second, 2000)):
        marker = cache / f"{place(cache, artifact).name}.unused"
        marker.touch()
        os.utime(marker, (time.time() - age,) * 2)
    fetch(cache, third, limit=first.manifest.size + third.manifest.size + 20_000, unused_seconds=900)
    assert visible(cache) == {place(cache, first).name, place(cache, third).name}


def test_a_copy_with_other_batching_goes_with_its_artifact(cache: Path, first: Published, second: Published) -> None:
    laid = fetch(cache, first).with_name(f"{place(cache, first).name}-1234567890")
    laid.mkdir()
    fetch(cache, second, limit=1)
    assert visible(cache) == {place(cache, second).name}


def test_what_is_no_artifact_of_ours_stays(cache: Path, first: Published, second: Published) -> None:
    (cache / "lost+found").mkdir(parents=True)
    fetch(cache, first)
    fetch(cache, second, limit=1)
    assert "lost+found" in visible(cache)


def test_a_folder_that_was_never_an_artifact_is_left_as_it_is(cache: Path, first: Published) -> None:
    place(cache, first).mkdir(parents=True)
    (place(cache, first) / "thesis.txt").write_text("years of work")
    with pytest.raises(WorkFolderError, match="is no artifact, and not empty"):
        fetch(cache, first)
    assert (place(cache, first) / "thesis.txt").read_text() == "years of work"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, first: Published) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkFolderError, match="cannot write"):
        fetch(tmp_path / "file", first)


def test_a_lock_is_held_until_the_block_ends(cache: Path, first: Published) -> None:
    with (
        artifact_cache.fetch(first.uri, place(cache, first), sha256=first.manifest_sha256, reporter=QUIET),
        (cache / f"{place(cache, first).name}.lock").open("r+") as file,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (cache / f"{place(cache, first).name}.lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_pinned_manifest_is_needed(cache: Path, first: Published) -> None:
    done = subprocess.run(
        [program("model-builder"), "fetch", first.uri, str(place(cache, first)), "--shared"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "--manifest-sha256" in done.stderr
