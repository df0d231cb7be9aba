"""Folders as Triton can take them.

Its Python backend hands the path of a model to `bash -c` without quotes: a space ends it, `$(…)` runs. So what has such
a name is served by a link under a name of our own making.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asr_contract.errors import WorkFolderError

SAFE_PATH = re.compile(r"/[A-Za-z0-9._/+=@,-]*")
SAFE_NAME = re.compile(r"[A-Za-z0-9._+=@,-]+")
LONGEST = 512
"""Of a path that is used as it is; far below what any of its users can hold."""
CONFIG = "config.pbtxt"
PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (a folder of our own is made there)
"""Where the links go when the temporary folder itself has an unsafe name."""
ADVICE = "set TMPDIR to a folder that can be written and has room"


def is_safe(path: Path) -> bool:
    """Whether a shell takes the absolute path `path` for one word, as it is."""
    return SAFE_PATH.fullmatch(str(path)) is not None and len(str(path)) <= LONGEST


def linked(path: Path, folder: Path, name: str) -> Path:
    """`path` itself if it is safe, or a link to it: `name` in `folder`."""
    if is_safe(path):
        return path
    link = folder / name
    link.symlink_to(path, target_is_directory=True)
    return link


@contextmanager
def safe_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder whose path is safe; removed at the end.

    Raises:
        WorkFolderError: There is none that can be written, or it is full.
    """
    first = temporary_folder()
    places = [place for place in (first, *map(Path, PLACES)) if is_safe(place) and os.access(place, os.W_OK | os.X_OK)]
    if not places:
        raise WorkFolderError(
            f"{first} cannot hold Triton's files, since its path has other characters than letters and digits; set "
            "TMPDIR to another folder"
        )
    with writing(places[0] / prefix):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=places[0]))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Report a failure to write below `folder`, which lies in the temporary one.

    Raises:
        WorkFolderError: It failed.
    """
    try:
        yield
    except OSError as error:
        # That of shutil.copytree holds a list of those of the single files, as text.
        reason = error.strerror or str(error.args[0][0][2]).partition(": ")[0]
        raise WorkFolderError(f"cannot write below {folder.parent}: {reason}; {ADVICE}") from error


def temporary_folder() -> Path:
    """The temporary folder of this user.

    Raises:
        WorkFolderError: There is none that can be written.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise WorkFolderError(f"there is no temporary folder that can be written; {ADVICE}") from error


def new_log(prefix: str) -> Path:
    """An empty file in the temporary folder, which stays.

    Raises:
        WorkFolderError: It cannot be written.
    """
    folder = temporary_folder()
    with writing(folder / prefix), tempfile.NamedTemporaryFile(prefix=prefix, suffix=".log", delete=False) as file:
        return Path(file.name)


def check_repository(repository: Path) -> None:
    """Refuse a folder that Triton cannot serve, before it is started in vain.

    Raises:
        WorkFolderError: It is no model repository, or cannot be read, or a model has a name that Triton cannot take.
    """
    try:
        models = [entry for entry in sorted(repository.iterdir()) if (entry / CONFIG).is_file()]
        unreadable = next((path for path in repository.rglob("*") if not os.access(path, os.R_OK)), None)
    except OSError as error:
        raise WorkFolderError(f"{error.filename or repository} cannot be read: {error.strerror}") from error
    if not models:
        raise WorkFolderError(f"{repository} is no model repository: {_instead(repository)}")
    if unreadable is not None:
        raise WorkFolderError(f"{unreadable} cannot be read by this user, who has to serve it")
    odd = next((entry.name for entry in models if not SAFE_NAME.fullmatch(entry.name)), None)
    if odd is not None:
        raise WorkFolderError(
            f"Triton's Python backend cannot take the model name {odd!r}; rename the folder, and the name in its "
            f"{CONFIG}, with letters, digits, '_', '-' and '.' alone"
        )


def _instead(repository: Path) -> str:
    if (repository / CONFIG).is_file():
        return f"it is one model; give the folder that holds it, {repository.resolve().parent}"
    if (repository / "manifest.json").is_file():
        return "it is an artifact as it lies in storage; bring it here with `model-builder fetch`, and serve that"
    return f"it should hold a folder for each model, with {CONFIG} in it"
