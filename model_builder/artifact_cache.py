"""A folder of artifacts that pods share: each is brought once, verified whenever it is used, and removed in the end.

Whoever uses an artifact holds a shared lock on the file `<name>.lock` beside it: this module while it fetches, and the
server's process for as long as it lives. Locks end with the process that holds them, however it ends. Changes to the
folder are made under one more lock, one at a time; each is a rename, so that a fetch that is killed leaves only a
hidden folder, which the next one removes.

An artifact is removed when nobody has held its lock for a quarter of an hour, and all together are larger than they
may be, or there is no room for the next. The quarter covers the time between a pod's fetch and its server's start, and
the time that Kubernetes leaves between two starts of a server that fails.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asr_contract.artifact import MANIFEST, Manifest, parse_manifest, refuse_other_things
from asr_contract.errors import ArtifactError, WorkFolderError
from model_builder import artifact_store
from model_builder.progress import NullReporter, Reporter
from model_builder.storage import Storage

UNUSED_SECONDS = 900.0
CHANGES = ".lock"
LOCK_SUFFIX, UNUSED_SUFFIX = ".lock", ".unused"
NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


@contextmanager
def fetch(
    uri: str,
    destination: Path,
    *,
    sha256: str,
    limit: int | None = None,
    unused_seconds: float = UNUSED_SECONDS,
    reporter: Reporter,
) -> Iterator[Manifest]:
    """Have the artifact in `destination`, whole and verified, and keep others from removing it while the block runs.

    What is there and is as it was published is used without asking storage.

    Args:
        uri: Of the artifact.
        destination: Its folder, in the folder that pods share.
        sha256: Of its manifest.
        limit: Bytes that all artifacts may take; None for what the volume holds.
        unused_seconds: How long an artifact must have been unused before it is removed.
        reporter: Is told what is done.

    Raises:
        ArtifactError: Storage has it not, or not as it was published; nothing is left then.
        WorkFolderError: The folder cannot be written, has no file locks, or has no room, or what is in the
            artifact's place was never one.
        StorageError: Storage refused or failed.
    """
    folder = destination.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkFolderError(f"cannot write {folder}: {error}") from error
    lock = folder / f"{destination.name}{LOCK_SUFFIX}"
    if not lock.exists():  # else it was made here, however damaged it is
        refuse_other_things(destination)
    with _locked(lock, fcntl.LOCK_SH):
        (folder / f"{destination.name}{UNUSED_SUFFIX}").unlink(missing_ok=True)
        found = verified(destination, sha256, reporter)
        if found is None:
            with changing(folder, reporter):
                # Another pod may have brought it while this one waited.
                found = verified(destination, sha256, reporter)
                if found is None:
                    _discard(destination)
                    wanted, _ = artifact_store.read_manifest(Storage(uri), sha256=sha256)
                    make_room(folder, wanted.size, limit, unused_seconds=unused_seconds, reporter=reporter)
                    found = artifact_store.fetch(uri, destination, sha256=sha256, reporter=reporter)
        else:
            _note_unused(folder)
        yield found


@contextmanager
def changing(folder: Path, reporter: Reporter | None = None) -> Iterator[None]:
    """Change the folder, which nobody else does while the block runs. What a killed fetch left is removed first."""
    with _locked(folder / CHANGES, fcntl.LOCK_EX, reporter or NullReporter()):
        for name in _names(folder):
            for left in folder.glob(f".{name}-*"):
                shutil.rmtree(left)
        yield


def manifest(uri: str, destination: Path, *, sha256: str) -> Manifest:
    """Of the artifact, from the copy that is there, else from storage.

    Raises:
        ArtifactError: Storage has it not.
        StorageError: Storage refused or failed.
    """
    try:
        content = (destination / MANIFEST).read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() == sha256:
        return parse_manifest(content, where=str(destination))
    return artifact_store.read_manifest(Storage(uri), sha256=sha256)[0]


def verified(destination: Path, sha256: str, reporter: Reporter) -> Manifest | None:
    """The manifest of the artifact that is there if it is the wanted one and every byte is as published, else None."""
    path = destination / MANIFEST
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            return None
        return artifact_store.verify_folder(destination, reporter=reporter)
    except FileNotFoundError:  # never fetched, or just being replaced
        return None
    except (ArtifactError, OSError) as error:
        reporter.info(f"the copy in {destination} is downloaded again", reason=str(error))
        return None


def make_room(
    folder: Path, needed: int, limit: int | None, *, unused_seconds: float = UNUSED_SECONDS, reporter: Reporter
) -> None:
    """Remove what is unused, that of the longest time first, until `needed` bytes more fit. Call it while `changing`.

    Nothing that is used is removed, nor what became unused of late: the limit is exceeded then.
    """
    sizes = {name: _size(folder, name) for name in _names(folder)}
    idle = sorted((since, name) for name in sizes if (since := _unused_since(folder, name)) is not None)
    for since, name in idle:
        fits = limit is None or sum(sizes.values()) + needed <= limit
        if fits and shutil.disk_usage(folder).free >= needed:
            return
        if time.time() - since < unused_seconds:
            continue
        try:
            with _locked(folder / f"{name}{LOCK_SUFFIX}", fcntl.LOCK_EX | fcntl.LOCK_NB):
                for part in _folders(folder, name):
                    _discard(part)
        except BlockingIOError:  # a pod has just come for it
            continue
        reporter.info(f"{name} was removed: no pod uses it", bytes=sizes.pop(name))


def _names(folder: Path) -> list[str]:
    return [path.name.removesuffix(LOCK_SUFFIX) for path in folder.glob(f"[!.]*{LOCK_SUFFIX}")]


def _folders(folder: Path, name: str) -> list[Path]:
    """The artifact as published, and what lies beside it with other batching."""
    others = set(_names(folder)) - {name}
    found = [folder / name, *folder.glob(f"{name}-*")]
    return [path for path in found if path.is_dir() and path.name not in others]


def _size(folder: Path, name: str) -> int:
    """Bytes; files that several folders share count once."""
    files = (path.stat() for part in _folders(folder, name) for path in part.rglob("*") if path.is_file())
    return sum({status.st_ino: status.st_size for status in files}.values())


def _note_unused(folder: Path) -> None:
    """Note what is unused from now on, unless another pod is at it."""
    try:
        with _locked(folder / CHANGES, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for name in _names(folder):
                _unused_since(folder, name)
    except BlockingIOError:
        return


def _unused_since(folder: Path, name: str) -> float | None:
    """When this was first seen unused, in Unix time; None while it is used, or not there. Call it while `changing`."""
    marker = folder / f"{name}{UNUSED_SUFFIX}"
    try:
        with _locked(folder / f"{name}{LOCK_SUFFIX}", fcntl.LOCK_EX | fcntl.LOCK_NB):
            if not _folders(folder, name):
                return None
            with marker.open("a"):
                return marker.stat().st_mtime
    except BlockingIOError:
        marker.unlink(missing_ok=True)
        return None


def _discard(path: Path) -> None:
    """Remove a folder in one step for whoever looks."""
    try:
        if path.exists():
            hidden = path.with_name(f".{path.name}-removed")
            path.rename(hidden)
            shutil.rmtree(hidden)
    except OSError as error:
        raise WorkFolderError(f"cannot remove {path}: {error}") from error


@contextmanager
def _locked(path: Path, kind: int, reporter: Reporter | None = None) -> Iterator[None]:
    """Hold a lock. One that does not wait raises `BlockingIOError`."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
    except OSError as error:
        raise WorkFolderError(f"cannot write {path}: {error}") from error
    try:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if kind & fcntl.LOCK_NB:
                raise
            if reporter is not None:
                reporter.info("waiting for another pod that fetches")
            fcntl.flock(file, kind)
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise WorkFolderError(
                f"{path.parent} has no file locks ({error.strerror}), which pods that share it need; take another kind "
                "of volume"
            ) from error
        raise
    else:
        yield
    finally:
        os.close(file)
