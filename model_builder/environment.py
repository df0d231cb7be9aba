"""Folders that the libraries behind a build write to: caches below HOME, which a container's user may not have."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

CACHES = {
    "NUMBA_CACHE_DIR": "numba",
    "MPLCONFIGDIR": "matplotlib",
    "TORCH_HOME": "torch",
    "HF_XET_CACHE": "huggingface/xet",
    "HF_ASSETS_CACHE": "huggingface/assets",
}
"""Variables that name the cache of one library, and its folder below the common cache."""
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
NO_CACHE_OF_NUMBA = "no locator available"


def use_writable_folders() -> None:
    """Point libraries to a folder below the temporary one wherever HOME or a cache of it cannot be written."""
    os.environ.update(replacements(os.environ, is_writable=is_writable, fallback=_private_folder))


def replacements(
    environment: Mapping[str, str], *, is_writable: Callable[[Path], bool], fallback: Callable[[], Path]
) -> dict[str, str]:
    """Variables to set so that every cache can be written; none where that is so already.

    HOME stays where it exists, since credentials may be read from it, unless it is `/`: containers give that to a user
    of whom they know nothing.

    Args:
        environment: As it is.
        is_writable: Whether a folder can be written, or made.
        fallback: Makes the folder that takes HOME's place.
    """
    changed: dict[str, str] = {}
    home = Path(environment.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111 (Path.home raises without one)
    # No folder, or one that this user may not enter.
    nothing_to_read = not os.access(f"{home}/.", os.X_OK)
    if nothing_to_read or (home == Path("/") and not is_writable(home)):
        home = fallback()
        changed["HOME"] = str(home)
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    unwritable = not is_writable(cache)
    if unwritable:
        cache = fallback() / ".cache"
        changed["XDG_CACHE_HOME"] = str(cache)
    for variable, name in CACHES.items():
        chosen = environment.get(variable)
        if (unwritable and not chosen) or (chosen and not is_writable(Path(chosen))):
            changed[variable] = str(fallback() / ".cache" / name)
    # Its configuration lies outside the cache.
    if "MPLCONFIGDIR" not in {*environment, *changed} and not is_writable(home / ".config"):
        changed["MPLCONFIGDIR"] = str(fallback() / ".cache" / CACHES["MPLCONFIGDIR"])
    return changed


def is_writable(folder: Path) -> bool:
    """Whether a file can be made in `folder`, or in that above it where it has yet to be made."""
    # What this user may not even look at counts as missing, and the folder above it decides.
    existing = next((path for path in (folder, *folder.absolute().parents) if os.access(path, os.F_OK)), Path("/"))
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError:
        return False
    return True


def _private_folder() -> Path:
    """A folder of this user's below the temporary one, the same each time, so that what is cached is found again."""
    folder = Path(tempfile.gettempdir()) / f"asr-operator-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
        return folder
    return Path(tempfile.mkdtemp(prefix="asr-operator-"))  # the name is taken by somebody else


def unwritable_cache(error: BaseException) -> str | None:
    """What to do where a library failed since it cannot write on this machine; None for any other failure."""
    for cause in _causes(error):
        if NO_CACHE_OF_NUMBA in str(cause) or (isinstance(cause, OSError) and cause.errno in UNWRITABLE):
            said = " ".join(str(cause).split())[:300]
            return (
                "a library that the build uses cannot write its files; set HOME, NUMBA_CACHE_DIR and TMPDIR to folders "
                f"that can be written and have room ({said})"
            )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
