"""The lock of a work folder; stages that are not run again are in `tests/builder`."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from asr_contract.errors import WorkFolderError
from model_builder.resume import locked


def test_a_work_folder_without_file_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_file: object, _kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)  # no file system here is without them
    with pytest.raises(WorkFolderError, match=r"has no file locks \(No locks available\)"), locked(tmp_path):
        pass
