"""Check audio from where the user keeps it: a folder, or a folder in object storage that is brought here first."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from asr_contract.errors import CheckAudioError, CheckAudioUnreachableError, StorageError, WorkFolderError
from model_builder import audio_set
from model_builder.progress import Reporter
from model_builder.resume import locked
from model_builder.storage import Storage

MAX_BYTES = 1024**3
"""Of all files. A minute of audio is 2 MB; more than hours would take longer to check than to build."""


@contextmanager
def brought(source: str | None, work: Path, reporter: Reporter) -> Iterator[Path]:
    """The folder with the check audio; that which ships if `source` is None.

    What is brought here is this build's alone within the block: another one would empty the folder first.

    Raises:
        CheckAudioError: The location holds nothing, or too much.
        CheckAudioUnreachableError: Storage refused or failed.
        WorkFolderError: Another build uses the folder, or the files cannot be written.
    """
    if source is None:
        yield audio_set.SHIPPED
    elif "://" not in source:
        yield Path(source)
    else:
        with locked(work / "check-audio"):
            try:
                files = _bring(source, work / "check-audio" / "files", reporter)
            except StorageError as error:
                # Where it is to be published may be well.
                kind = CheckAudioUnreachableError if error.transient else CheckAudioError
                raise kind(f"check audio: {error}") from error
            yield files


def _bring(source: str, folder: Path, reporter: Reporter) -> Path:
    parent, _, name = source.rstrip("/").rpartition("/")
    storage = Storage(parent)
    found = {path: size for path, size in storage.list_below(name).items() if "/" not in path}
    if not found:
        raise CheckAudioError(f"{source} holds no files; give a folder with WAV or FLAC files")
    if sum(found.values()) > MAX_BYTES:
        raise CheckAudioError(f"{source} holds {sum(found.values()) / 1e9:.1f} GB; at most 1 GB of audio is checked")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.iterdir():
            stale.unlink()
        with reporter.task("check audio", sum(found.values())) as task:
            for path, size in sorted(found.items()):
                (folder / PurePosixPath(path).name).write_bytes(storage.read(f"{name}/{path}"))
                task.advance(size)
    except FileNotFoundError as error:
        raise CheckAudioError(f"{error} was removed while it was downloaded") from error
    except OSError as error:
        raise WorkFolderError(f"cannot write {folder}: {error}") from error
    return folder
