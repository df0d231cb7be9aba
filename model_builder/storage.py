"""Object storage: the only importer of obstore.

A location is `file:///folder`, `s3://bucket/prefix`, or another scheme that obstore reads. Credentials and endpoints
come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, ...) or from the
workload's identity.
"""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import from_url

from model_builder.errors import SourceError, StorageError

CHUNK = 8 * 1024 * 1024
"""Bytes read or written at a time."""

RETRIES: Any = {
    "max_retries": 6,
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 2},
    "retry_timeout": timedelta(minutes=2),
}
"""For answers such as 503 and for connections that break; about 11 s of waiting before storage is said to be down."""


class Storage:
    """Objects below one location. Paths are relative, with slashes."""

    def __init__(self, uri: str) -> None:
        """Open a location.

        Raises:
            SourceError: The URI is not one that object storage understands.
        """
        scheme = urlsplit(uri).scheme
        if not scheme:
            raise SourceError(f"{uri!r} is not a URI; write file:///folder or s3://bucket/prefix")
        options: dict[str, Any] = {
            "client_options": {"allow_http": True, "user_agent": "asr-operator"},
            "retry_config": RETRIES,
        }
        if scheme == "file":
            options = {"mkdir": True}
        try:
            self._store = from_url(uri.rstrip("/"), **options)
        except (BaseError, ValueError, OSError) as error:
            raise SourceError(f"{uri!r} cannot be opened: {_reason(error)}") from error
        self.uri = uri.rstrip("/")

    def join(self, path: str) -> str:
        """URI of an object."""
        return f"{self.uri}/{path}"

    def size(self, path: str) -> int | None:
        """Bytes of an object, None if there is none.

        Raises:
            StorageError: Storage refused or failed.
        """
        try:
            return int(self._store.head(path)["size"])
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise self._failed("look for", path, error) from error

    def list_below(self, folder: str) -> dict[str, int]:
        """All objects below a folder: path relative to it, to bytes.

        Raises:
            StorageError: Storage refused or failed.
        """
        prefix = f"{folder}/"
        try:
            pages = self._store.list(prefix)
            return {str(item["path"]).removeprefix(prefix): int(item["size"]) for page in pages for item in page}
        except (BaseError, OSError) as error:
            raise self._failed("list", folder, error) from error

    def read(self, path: str) -> bytes:
        """A small object, whole.

        Raises:
            FileNotFoundError: There is none.
            StorageError: Storage refused or failed.
        """
        try:
            return bytes(self._store.get(path).bytes())
        except (NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(self.join(path)) from error
        except (BaseError, OSError) as error:
            raise self._failed("read", path, error) from error

    def stream(self, path: str) -> Iterator[bytes]:
        """An object in chunks.

        Raises:
            FileNotFoundError: There is none.
            StorageError: Storage refused or failed.
        """
        try:
            for chunk in self._store.get(path).stream(min_chunk_size=CHUNK):
                yield bytes(chunk)
        except (NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(self.join(path)) from error
        except (BaseError, OSError) as error:
            raise self._failed("read", path, error) from error

    def upload(self, path: str, source: Path) -> None:
        """Write a file to an object, in parts when it is large.

        Raises:
            StorageError: Storage refused or failed.
        """
        try:
            obstore.put(self._store, path, source, chunk_size=CHUNK)
        except (BaseError, OSError) as error:
            raise self._failed("write", path, error) from error

    def create(self, path: str, content: bytes) -> bool:
        """Write an object only if there is none: True when this call wrote it.

        Raises:
            StorageError: Storage refused or failed.
        """
        try:
            obstore.put(self._store, path, content, mode="create")
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise self._failed("create", path, error) from error
        return True

    def _failed(self, verb: str, path: str, error: Exception) -> StorageError:
        hint = ""
        if self.uri.startswith("s3://") and not os.environ.get("AWS_ACCESS_KEY_ID"):
            hint = " (no AWS_ACCESS_KEY_ID in the environment; is there a workload identity?)"
        return StorageError(f"cannot {verb} {self.join(path)}: {_reason(error)}{hint}")


def _reason(error: Exception) -> str:
    """The first line of an obstore message; the rest is a debug dump."""
    return str(error).strip().splitlines()[0][:500] if str(error).strip() else type(error).__name__
