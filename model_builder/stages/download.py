"""An object of storage into a local file: in parallel ranges, continued after a cut, not brought twice.

Beside the file lie `<name>.json`, what it is a copy of, and while it comes `<name>.partial` and `<name>.ranges`, the
ranges that are on disk.
"""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_contract.errors import SourceError, SourceUnreachableError, WorkFolderError
from model_builder.progress import Reporter, Task
from model_builder.storage import CHUNK, Stat, Storage

PARALLEL = 8
WIDTH = 20
"""Digits of a note."""


def run(
    storage: Storage, name: str, target: Path, *, digest: Callable[[Path], str], reporter: Reporter
) -> tuple[str, bool]:
    """Bring the object to `target`, unless it is there and is still what storage holds.

    Args:
        storage: Where it is.
        name: The object.
        target: The file.
        digest: Computes a file's SHA-256, and reports that.
        reporter: Told of the progress.

    Returns:
        The file's SHA-256, and whether it is of an earlier run.

    Raises:
        SourceError: There is no such object.
        SourceUnreachableError: It was changed meanwhile.
        StorageError: Storage refused or failed; the next run continues.
        WorkFolderError: The file cannot be written.
    """
    there = storage.stat(name)
    if there is None:
        raise SourceError(f"{storage.join(name)} does not exist")
    copy = _Copy(storage, name, there, target)
    marker = target.with_suffix(".json")
    known = _read(marker)
    if known is not None and target.is_file() and {key: known.get(key) for key in copy.identity} == copy.identity:
        sha256 = digest(target)
        if sha256 == known.get("sha256"):
            return sha256, True
    try:
        with reporter.task("download", there.size) as task:
            copy.download(task)
        marker.unlink(missing_ok=True)
        copy.partial.replace(target)
        sha256 = digest(target)
        marker.write_text(json.dumps(copy.identity | {"sha256": sha256}), encoding="utf-8")
        copy.ranges.unlink()
    except FileNotFoundError as error:
        raise SourceError(f"{storage.join(name)} was removed while it was downloaded") from error
    except OSError as error:
        raise WorkFolderError(f"cannot write {target}: {error}") from error
    return sha256, False


def _read(marker: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # none yet, or torn by a crash: the object is brought again
        return None
    return found if isinstance(found, dict) else None


@dataclass(frozen=True, slots=True)
class _Copy:
    """A copy under way."""

    storage: Storage
    name: str
    there: Stat
    target: Path

    @property
    def identity(self) -> dict[str, Any]:
        return {"uri": self.storage.join(self.name), "size": self.there.size, "version": self.there.version}

    @property
    def partial(self) -> Path:
        return self.target.with_suffix(".partial")

    @property
    def ranges(self) -> Path:
        return self.target.with_suffix(".ranges")

    def length(self, start: int) -> int:
        return min(CHUNK, self.there.size - start)

    def have(self) -> set[int]:
        """Where the ranges start that an earlier run brought of this very object."""
        if not (self.ranges.is_file() and self.partial.is_file()):
            return set()
        first, *lines = self.ranges.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
        if first != json.dumps(self.identity):
            return set()
        # Of fixed width, so that a last line that a crash has cut is known by it.
        noted = {int(line) for line in lines if line.isdecimal() and len(line) == WIDTH}
        return noted & set(range(0, self.there.size, CHUNK))

    def bring(self, start: int) -> int:
        content = self.storage.read_range(self.name, start, self.length(start))
        with self.partial.open("r+b") as file:
            file.seek(start)
            file.write(content)
            file.flush()
            os.fdatasync(file.fileno())  # the note that it is here must not reach the disk before it
        return self.length(start)

    def download(self, task: Task) -> None:
        have = self.have()
        here = sum(map(self.length, have))
        if shutil.disk_usage(self.target.parent).free < self.there.size - here:
            raise WorkFolderError(f"{self.target.parent} has no room for {self.there.size} bytes of {self.name}")
        if have:
            task.note(f"continued: {here / 1e6:.1f} MB were here")
            task.advance(here)
        else:
            self.partial.unlink(missing_ok=True)
            self.partial.touch()
            os.truncate(self.partial, self.there.size)
            self.ranges.write_text(json.dumps(self.identity) + "\n", encoding="utf-8")
        missing = [start for start in range(0, self.there.size, CHUNK) if start not in have]
        with ThreadPoolExecutor(PARALLEL) as pool, self.ranges.open("a", encoding="utf-8") as notes:
            under_way = {pool.submit(self.bring, start): start for start in missing}
            try:
                for done in as_completed(under_way):
                    size = done.result()
                    notes.write(f"{under_way[done]:0{WIDTH}}\n")
                    notes.flush()
                    task.advance(size)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if self.storage.stat(self.name) != self.there:
            self.ranges.unlink()
            raise SourceUnreachableError(
                f"{self.storage.join(self.name)} was changed while it was downloaded; run the build again"
            )
