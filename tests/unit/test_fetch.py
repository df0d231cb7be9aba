"""Stage `fetch` with real files and folders; the same against a real S3 server is in `tests/builder`."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asr_contract.errors import CheckpointError, SourceError, SourceUnreachableError, WorkFolderError
from model_builder.progress import NullReporter, NullTask, Task
from model_builder.stages import download, fetch

QUIET = NullReporter()


class Watching(NullReporter):
    """Counts the bytes that are brought, and presses Ctrl-C when so many are."""

    def __init__(self, stop_after: float = float("inf")) -> None:
        self.brought: float = 0
        self.stop_after = stop_after

    def arrived(self) -> None:
        """A range is here."""

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[Task]:
        del total
        reporter = self

        class Counting(NullTask):
            def advance(self, amount: float = 1) -> None:
                if name == "download":
                    reporter.brought += amount
                    reporter.arrived()
                    if reporter.brought >= reporter.stop_after:
                        raise KeyboardInterrupt

        yield Counting()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(download, "CHUNK", 1_000)
    (tmp_path / "bucket").mkdir()
    path = tmp_path / "bucket" / "model.nemo"
    path.write_bytes(secrets.token_bytes(20_500))
    return path


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_object_arrives_whole_and_nothing_else_is_left(source: Path, work: Path) -> None:
    fetched = fetch.run(source.as_uri(), work, QUIET)
    assert fetched.path.read_bytes() == source.read_bytes()
    assert fetched.sha256 == digest(source)
    assert sorted(path.name for path in work.iterdir()) == ["source.json", "source.nemo"]


def test_an_object_that_is_here_is_not_brought_again(source: Path, work: Path) -> None:
    first = fetch.run(source.as_uri(), work, QUIET)
    again = Watching()
    assert fetch.run(source.as_uri(), work, again) == first
    assert again.brought == 0


def test_an_object_that_changed_is_brought_again(source: Path, work: Path) -> None:
    fetch.run(source.as_uri(), work, QUIET)
    source.write_bytes(secrets.token_bytes(20_500))
    assert fetch.run(source.as_uri(), work, QUIET).sha256 == digest(source)


def test_another_object_is_not_taken_for_the_one_that_is_here(source: Path, work: Path) -> None:
    fetch.run(source.as_uri(), work, QUIET)
    other = source.with_name("other.nemo")
    other.write_bytes(secrets.token_bytes(20_500))
    os.utime(other, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    assert fetch.run(other.as_uri(), work, QUIET).sha256 == digest(other)


def test_a_copy_that_was_altered_is_brought_again(source: Path, work: Path) -> None:
    path = fetch.run(source.as_uri(), work, QUIET).path
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert fetch.run(source.as_uri(), work, QUIET).sha256 == digest(source)


def test_a_download_that_was_interrupted_is_continued(source: Path, work: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch.run(source.as_uri(), work, Watching(stop_after=5_000))
    assert not (work / "source.nemo").exists()
    ranges = len((work / "source.ranges").read_text().splitlines()) - 1
    assert ranges >= 5
    # Whatever is noted as here must not be asked for again: alter it, and see that it stays.
    noted = int((work / "source.ranges").read_text().splitlines()[1])
    with (work / "source.partial").open("r+b") as file:
        file.seek(noted)
        file.write(b"kept")
    fetched = fetch.run(source.as_uri(), work, QUIET)
    assert fetched.path.read_bytes()[noted : noted + 4] == b"kept"


def test_an_object_that_changes_while_it_is_brought_is_refused(
    source: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Replacing(Watching):
        """Replaces the object when the first range is here."""

        def arrived(self) -> None:
            other = source.with_name("other")
            other.write_bytes(secrets.token_bytes(20_500))
            other.replace(source)

    monkeypatch.setattr(download, "PARALLEL", 1)
    with pytest.raises(SourceUnreachableError, match="was changed while it was downloaded"):
        fetch.run(source.as_uri(), work, Replacing())
    assert not (work / "source.nemo").exists()
    assert fetch.run(source.as_uri(), work, QUIET).sha256 == digest(source)


def test_a_download_of_an_object_that_changed_meanwhile_is_begun_anew(source: Path, work: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch.run(source.as_uri(), work, Watching(stop_after=5_000))
    source.write_bytes(secrets.token_bytes(20_500))
    assert fetch.run(source.as_uri(), work, QUIET).sha256 == digest(source)


@pytest.mark.parametrize("torn", ["", "{", "[]", "null", '{"uri": "x"}'])
def test_notes_that_a_crash_has_torn_are_not_believed(source: Path, work: Path, torn: str) -> None:
    fetch.run(source.as_uri(), work, QUIET)
    (work / "source.json").write_text(torn)
    (work / "source.partial").write_bytes(b"half")
    (work / "source.ranges").write_text(torn + "\n0\n1000\n20")
    assert fetch.run(source.as_uri(), work, QUIET).sha256 == digest(source)


def test_an_object_that_is_not_there_is_named(source: Path, work: Path) -> None:
    with pytest.raises(SourceError, match=r"absent\.nemo does not exist"):
        fetch.run(source.with_name("absent.nemo").as_uri(), work, QUIET)


def test_an_empty_object_is_an_empty_file(source: Path, work: Path) -> None:
    source.write_bytes(b"")
    assert fetch.run(source.as_uri(), work, QUIET).path.stat().st_size == 0


def test_a_folder_that_cannot_be_written_is_told(source: Path, work: Path) -> None:
    (work / "source.partial").mkdir()
    with pytest.raises(WorkFolderError, match=r"cannot write .*source\.nemo"):
        fetch.run(source.as_uri(), work, QUIET)


@pytest.mark.parametrize("remote", [False, True])
def test_another_file_than_the_pinned_one_is_refused_with_both_digests(
    source: Path, work: Path, *, remote: bool
) -> None:
    with pytest.raises(CheckpointError, match=f"has SHA-256 {digest(source)}, but {'0' * 64} is asked for"):
        fetch.run(source.as_uri() if remote else str(source), work, QUIET, sha256="0" * 64)


def test_the_pinned_file_is_taken(source: Path, work: Path) -> None:
    assert fetch.run(str(source), work, QUIET, sha256=digest(source)).path == source
