"""Stages that are not run again when their inputs are the same: a killed build continues where it was.

After a stage a marker holds the digest of its inputs, its result, and the digests of the files that it wrote. It is
written last and in one step, so that a stage cut off half way has none, and a file altered since makes it void.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import asr_contract
import asr_serving
from asr_contract.errors import WorkFolderError

CHUNK = 8 * 1024 * 1024


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@cache
def code_digest() -> str:
    """SHA-256 (hex) over the source of the builder and of what runs inside Triton: other code, other results."""
    digest = hashlib.sha256()
    for package in (Path(__file__).parent, Path(asr_contract.__file__).parent, Path(asr_serving.__file__).parent):
        for path in sorted(package.rglob("*.py")):
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Markers:
    """The markers of one work folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(
        self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[Path], work: Callable[[], dict[str, Any]]
    ) -> tuple[dict[str, Any], bool]:
        """Run `work` unless it was done before with these inputs and its files are as it left them.

        Args:
            stage: Its name.
            inputs: All that decides its output, as JSON values.
            outputs: The files that it writes.
            work: Runs the stage; its result must survive JSON.

        Returns:
            The result, and whether it is one of an earlier run.
        """
        digest = hashlib.sha256(json.dumps([code_digest(), inputs], sort_keys=True).encode()).hexdigest()
        marker = self._folder / f"{stage}.json"
        if (found := _read(marker)) and found["inputs"] == digest and _as_left(found["files"], outputs):
            return found["result"], True
        marker.unlink(missing_ok=True)
        result = work()
        files = {str(path): sha256_of(path) for path in outputs}
        content = json.dumps({"inputs": digest, "result": result, "files": files})
        partial = marker.with_suffix(".partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(content, encoding="utf-8")
            partial.replace(marker)
        except OSError as error:
            raise WorkFolderError(f"cannot write {marker}: {error}") from error
        return json.loads(content)["result"], False


def _read(marker: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # none yet, or torn by a crash: the stage is run
        return None
    return found if isinstance(found, dict) and {"inputs", "result", "files"} <= set(found) else None


def _as_left(files: Mapping[str, str], outputs: Sequence[Path]) -> bool:
    return set(files) == {str(path) for path in outputs} and all(
        path.is_file() and sha256_of(path) == files[str(path)] for path in outputs
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other builds out of a work folder; the lock ends with the process, however that ends.

    Raises:
        WorkFolderError: Another build uses it, or it cannot be written or has no file locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise WorkFolderError(f"cannot write to {folder}: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkFolderError(f"another build uses {folder}; wait for it, or give another --work") from error
        except OSError as error:
            raise WorkFolderError(
                f"{folder} has no file locks ({error.strerror}); give a --work on another kind of volume"
            ) from error
        yield
