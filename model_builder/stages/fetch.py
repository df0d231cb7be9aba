"""Stage `fetch`: bring the checkpoint here, and say exactly which one it is."""

import errno
import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from asr_contract.errors import (
    CheckpointError,
    MissingExtraError,
    SourceError,
    SourceUnreachableError,
    StorageError,
    WorkFolderError,
)
from model_builder import file_kind
from model_builder.checkpoint import refuse_large_source, refuse_other_files
from model_builder.progress import Reporter
from model_builder.stages import download
from model_builder.storage import Storage

CHUNK = 8 * 1024 * 1024

BUSY = {408, 429}
"""Answers of the hub, besides those of a server that is down, after which the same request may succeed later."""
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

HUB = re.compile(r"^hf:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?$")


@dataclass(frozen=True, slots=True)
class Fetched:
    """The checkpoint on disk.

    Attributes:
        path: The `.nemo` file.
        sha256: Of its bytes, hex.
        revision: Commit on the hub, when it came from there.
    """

    path: Path
    sha256: str
    revision: str | None = None


def run(source: str, folder: Path, reporter: Reporter, *, sha256: str | None = None) -> Fetched:
    """Fetch from a local path, `hf:owner/name@revision`, or object storage.

    Args:
        source: Where it is.
        folder: Where a remote one goes; what an earlier run left there is not brought again.
        reporter: Told of the progress.
        sha256: What the file must be, None for anything.

    Raises:
        SourceError: It is not there or cannot be read; the message says what was tried.
        SourceUnreachableError: It cannot be fetched now, and perhaps later.
        CheckpointError: It is another file than the pinned one, or by its first bytes no `.nemo`.
        UnsupportedCheckpointError: It is too large, as its place lists it.
        WorkFolderError: The folder cannot be written.
    """
    if hub := HUB.match(source):
        fetched = _from_hub(hub["repository"], hub["revision"], folder, reporter)
    elif "://" in source:
        fetched = _from_storage(source, folder, reporter)
    else:
        fetched = _from_disk(source, reporter)
    if sha256 is not None and fetched.sha256 != sha256:
        raise CheckpointError(f"{source} has SHA-256 {fetched.sha256}, but {sha256} is asked for")
    return fetched


def _from_disk(source: str, reporter: Reporter) -> Fetched:
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            raise SourceError(f"{source} is {file_kind.of_folder(path)}")
        if not path.is_file():
            raise SourceError(
                f"{source} is not a file; a source is a path, hf:owner/name@revision, or s3://bucket/model.nemo"
            )
        with path.open("rb") as file:
            refuse_other_files(path.name, file.read(file_kind.HEAD), path.stat().st_size)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    return Fetched(path, _digest(path, reporter))


def _digest(path: Path, reporter: Reporter) -> str:
    digest = hashlib.sha256()
    try:
        with reporter.task("fetch", path.stat().st_size) as task, path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                task.advance(len(chunk))
            task.note(f"{path.name}  {path.stat().st_size / 1e6:.1f} MB  sha256 {digest.hexdigest()[:12]}")
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _from_storage(source: str, folder: Path, reporter: Reporter) -> Fetched:
    parent, _, name = source.rpartition("/")
    target = folder / "source.nemo"
    try:
        storage = Storage(parent)
        _look_first(storage, name, begun=target.with_suffix(".ranges").exists())
        sha256, earlier = download.run(
            storage, name, target, digest=lambda path: _digest(path, reporter), reporter=reporter
        )
    except StorageError as error:
        # It is where the checkpoint comes from that fails; where it is to be published may be well.
        kind = SourceUnreachableError if error.transient else SourceError
        raise kind(f"cannot fetch {source}: {error}") from error
    if earlier:
        reporter.info(f"= {'download':<12} unchanged since an earlier run")
    return Fetched(target, sha256)


def _look_first(storage: Storage, name: str, *, begun: bool) -> None:
    """Refuse by size and first bytes what need not be downloaded; a download that continues was checked before."""
    there = storage.stat(name)
    if there is None:
        return  # said by the download
    refuse_large_source(storage.join(name), there.size)
    if there.size and not begun:
        try:
            head = storage.read_range(name, 0, min(file_kind.HEAD, there.size))
        except FileNotFoundError as error:
            raise SourceError(f"{storage.join(name)} was removed while it was looked at") from error
        refuse_other_files(storage.join(name), head, there.size)


def _from_hub(repository: str, revision: str | None, folder: Path, reporter: Reporter) -> Fetched:
    try:
        import httpx  # noqa: PLC0415 (the hub's client is built on it, and lets its errors through)
        import huggingface_hub  # noqa: PLC0415
        from huggingface_hub import errors  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("hf: sources need huggingface-hub", "builder") from error
    if shutil.disk_usage(folder).free < 1024**3:
        raise WorkFolderError(f"{folder} has less than 1 GiB free")
    try:
        info = huggingface_hub.HfApi().model_info(repository, revision=revision, files_metadata=True)
        found = [item for item in info.siblings if item.rfilename.endswith(".nemo")]
        if len(found) != 1:
            shown = ", ".join(item.rfilename for item in (found or info.siblings)[:8]) or "nothing"
            raise SourceError(
                f"{repository} holds {len(found)} .nemo files; one is needed. It holds {shown}"
                + ("" if found else "; models for other libraries than NeMo are not supported")
            )
        refuse_large_source(f"{repository}/{found[0].rfilename}", found[0].size or 0)
        # The hub's client continues what was cut off, and does not bring again what is here.
        path = Path(
            huggingface_hub.hf_hub_download(repository, found[0].rfilename, revision=info.sha, local_dir=folder)
        )
    except errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"{repository} is not on the hub, or is private: set HF_TOKEN to a token that may read it"
        ) from error
    except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise WorkFolderError(f"cannot write to {folder}: {error.strerror}") from error
        # What the client could not find out is hidden behind "please check your connection".
        cause = (isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__) or error
        first = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        kind = SourceUnreachableError if _may_pass(cause) else SourceError
        raise kind(f"cannot fetch {repository}@{revision or 'main'} from the hub: {first}") from error
    sha256 = _digest(path, reporter)
    if found[0].lfs is not None and found[0].lfs.sha256 != sha256:
        path.unlink()
        raise SourceError(f"{repository} gave a file with SHA-256 {sha256}, but lists {found[0].lfs.sha256}")
    return Fetched(path, sha256, str(info.sha))


def _may_pass(error: BaseException) -> bool:
    """Whether the hub is down or busy, or the way to it broken, rather than wrong what it was asked for."""
    import httpx  # noqa: PLC0415
    from huggingface_hub import errors  # noqa: PLC0415

    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return status in BUSY or status >= httpx.codes.INTERNAL_SERVER_ERROR
    # RuntimeError is how the client's own protocol for large files tells a network that fails.
    return isinstance(error, httpx.TransportError | RuntimeError)
