"""Stage `fetch`: bring the checkpoint here, and say exactly which one it is."""

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from model_builder.errors import MissingExtraError, SourceError, WorkFolderError
from model_builder.progress import Reporter, Task
from model_builder.storage import CHUNK, Storage

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


def run(source: str, folder: Path, reporter: Reporter) -> Fetched:
    """Fetch from a local path, `hf:owner/name@revision`, or object storage.

    Raises:
        SourceError: It is not there or cannot be read; the message says what was tried.
        WorkFolderError: The folder cannot be written.
    """
    if hub := HUB.match(source):
        path, revision = _from_hub(hub["repository"], hub["revision"], folder)
    elif "://" in source:
        path, revision = _from_storage(source, folder, reporter), None
    else:
        path, revision = Path(source).expanduser(), None
        if not path.is_file():
            raise SourceError(
                f"{source} is not a file; a source is a path, hf:owner/name@revision, or s3://bucket/model.nemo"
            )
    with reporter.task("fetch", path.stat().st_size) as task:
        sha256 = _digest(path, task)
        task.note(f"{path.name}  {path.stat().st_size / 1e6:.1f} MB  sha256 {sha256[:12]}")
    return Fetched(path, sha256, revision)


def _digest(path: Path, task: Task) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            task.advance(len(chunk))
    return digest.hexdigest()


def _from_storage(source: str, folder: Path, reporter: Reporter) -> Path:
    parent, _, name = source.rpartition("/")
    storage = Storage(parent)
    there = storage.stat(name)
    if there is None:
        raise SourceError(f"{source} does not exist")
    size = there.size
    target, partial = folder / "source.nemo", folder / "source.nemo.partial"
    try:
        with reporter.task("download", size) as task, partial.open("wb") as file:
            for start in range(0, size, CHUNK):
                chunk = storage.read_range(name, start, min(CHUNK, size - start))
                file.write(chunk)
                task.advance(len(chunk))
        if partial.stat().st_size != size:
            raise SourceError(f"{source} was cut short: {partial.stat().st_size} of {size} bytes came")
        partial.replace(target)
    except OSError as error:
        raise WorkFolderError(f"cannot write {target}: {error}") from error
    return target


def _from_hub(repository: str, revision: str | None, folder: Path) -> tuple[Path, str]:
    try:
        import httpx  # noqa: PLC0415 (the hub's client is built on it, and lets its errors through)
        import huggingface_hub  # noqa: PLC0415
        from huggingface_hub import errors  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("hf: sources need huggingface-hub; pip install 'asr-operator[builder]'") from error
    if shutil.disk_usage(folder).free < 1024**3:
        raise WorkFolderError(f"{folder} has less than 1 GiB free")
    try:
        info = huggingface_hub.HfApi().model_info(repository, revision=revision)
        names = [item.rfilename for item in info.siblings if item.rfilename.endswith(".nemo")]
        if len(names) != 1:
            raise SourceError(
                f"{repository} holds {len(names)} .nemo files ({', '.join(names) or 'none'}); one is needed"
            )
        path = huggingface_hub.hf_hub_download(repository, names[0], revision=info.sha, local_dir=folder)
    except errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"{repository} is not on the hub, or is private: set HF_TOKEN to a token that may read it"
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx.HTTPError, OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"cannot fetch {repository}@{revision or 'main'} from the hub: {first}") from error
    return Path(path), str(info.sha)
