"""Object storage: the only importer of obstore.

A location is `file:///folder`, `s3://bucket/prefix`, or another scheme that obstore reads. Credentials and endpoints
come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, ...), from AWS's
shared credentials file, or from the workload's identity (`AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN`, the role of
a container or an instance).
"""

import configparser
import html
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PermissionDeniedError
from obstore.store import from_url

from asr_contract.errors import StorageError, StorageLocationError, StorageRefusedError

CHUNK = 8 * 1024 * 1024
"""Bytes of one request, so that each request ends within `REQUEST_TIME` on any line worth using."""
PARTS = 4
"""Parts of one upload that are under way at once: with `REQUEST_TIME` they ask for 3 Mbit/s."""

CONNECT_TIME = timedelta(seconds=10)
REQUEST_TIME = timedelta(seconds=90)
"""Of one request with all its bytes. A time without bytes would be better, but the client counts an upload as such."""
RETRIES: Any = {
    "max_retries": 6,
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 2},
    "retry_timeout": timedelta(minutes=2),
}
"""For 503, broken connections and hanging requests: storage that is down is told after 11 s, that hangs after 180 s."""

HASTY: Any = RETRIES | {"max_retries": 4, "retry_timeout": timedelta(seconds=10)}
HASTY_TIME = timedelta(seconds=8)
"""For the check before any work, which users wait for: storage that hangs is reported after 16 s, dead one after 2."""

PROBE = ".write-check"
"""Object that the check before any work writes and removes: one name, so that at most one is ever left."""

SCHEMES = {"file", "s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl", "http", "https"}

BODY_TRIES = 5
BROKEN_BODY = "response body error"
"""What obstore says when a connection breaks within an answer; of a range it does not ask again by itself."""

CA_BUNDLE = "AWS_CA_BUNDLE"
IDENTITIES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
"""Variables that obstore itself takes an identity from; each goes before the shared credentials file."""

HINTS = {
    "s3": (IDENTITIES, "no AWS_ACCESS_KEY_ID in the environment; is there a workload identity or a credentials file?"),
    "gs": (
        ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY"),
        "no GOOGLE_APPLICATION_CREDENTIALS in the environment; is there a workload identity?",
    ),
    "az": (
        ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"),
        "no AZURE_STORAGE_ACCOUNT_KEY or AZURE_CLIENT_ID in the environment; is there a workload identity?",
    ),
}
"""By scheme: variables of which one is set where there are credentials, and what to say where none is."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of an object without reading it.

    Attributes:
        size: Bytes.
        version: Changes whenever the content does.
    """

    size: int
    version: str


class Storage:
    """Objects below one location. Paths are relative, with slashes."""

    def __init__(self, uri: str, *, create: bool = False) -> None:
        """Open a location; a local folder is made when it is to be created.

        Raises:
            StorageLocationError: The folder does not exist, or the URI is not one that object storage understands.
            StorageError: The CA bundle or the shared credentials file that the environment names is not usable.
        """
        if urlsplit(uri).scheme not in SCHEMES:
            own = "" if urlsplit(uri).scheme else f", such as {Path(uri or '.').absolute().as_uri()}"
            raise StorageLocationError(
                f"{uri!r} is not a URI of storage; write file:///folder or s3://bucket/prefix{own}"
            )
        self.uri = uri.rstrip("/")
        self._create = create
        self._store = self._open(RETRIES, REQUEST_TIME)
        self._bucket_seen = self.uri.startswith("file:")
        self._may_write = False

    def _open(self, retries: Any, request_time: timedelta) -> Any:  # noqa: ANN401 (obstore's stores have no base)
        scheme = urlsplit(self.uri).scheme
        options: dict[str, Any] = {
            "client_options": {
                "allow_http": True,
                "user_agent": "asr-operator",
                "connect_timeout": min(CONNECT_TIME, request_time),
                "timeout": request_time,
            }
            | _private_authority(),
            "retry_config": retries,
        }
        if scheme == "file":
            options = {"mkdir": self._create, "automatic_cleanup": True}
        elif scheme in {"s3", "s3a"}:
            options |= _shared_credentials()
        try:
            return from_url(self.uri, **options)
        except (BaseError, ValueError, OSError) as error:
            raise StorageLocationError(f"{self.uri!r} cannot be opened: {_reason(error)}") from error

    def check_writable(self, folder: str) -> None:
        """Find out before any work whether objects can be written below a folder, as publishing writes them.

        An object is created on condition that there is none, and removed. Keys that may not remove leave one small
        object, which the next check finds. Builds that check at the same time do not disturb one another.

        Raises:
            StorageError: Storage is not there, refused or failed.
        """
        path = f"{folder}/{PROBE}"
        store = self._open(HASTY, min(HASTY_TIME, REQUEST_TIME))
        try:
            store.get(path)
        except (NotFoundError, FileNotFoundError) as error:
            self._require_bucket("read", path, error)
        except (BaseError, OSError) as error:
            failure = self._failed("read", path, error)
            # Keys that may only write are as good; S3 refuses to say what is absent to keys that may not list.
            if not isinstance(failure, StorageRefusedError):
                raise failure from error
        try:
            # One that is there is of a build beside this one, or of one that could not remove it: storage looks at
            # permissions before it looks at conditions.
            with suppress(AlreadyExistsError):
                obstore.put(store, path, b"model-builder writes and removes this before a build\n", mode="create")
        except NotImplementedError as error:
            raise StorageError(f"{self.uri} cannot be published to: it has no conditional writes") from error
        except (BaseError, OSError) as error:
            raise self._failed("write", path, error) from error
        with suppress(BaseError, OSError):  # keys that may not remove: one object stays, which is no fault
            obstore.delete(store, path)
        self._may_write = True

    def join(self, path: str) -> str:
        """URI of an object."""
        return f"{self.uri}/{path}"

    def stat(self, path: str) -> Stat | None:
        """Size and version of an object, None if there is none.

        Raises:
            StorageError: Storage refused or failed.
        """
        try:
            found = self._store.head(path)
            return Stat(int(found["size"]), f"{found['e_tag']} {found['last_modified'].isoformat()}")
        except (NotFoundError, FileNotFoundError):
            # The answer to this request has no body that would say what is absent.
            self._look_for_bucket(path)
            return None
        except (BaseError, OSError) as error:
            raise self._failed("look for", path, error) from error

    def look_for(self, path: str) -> Stat | None:
        """Size and version of an object, None if there is none, or if keys that may write may not see it.

        Raises:
            StorageError: Storage refused or failed.
        """
        try:
            return self.stat(path)
        except StorageRefusedError:
            if self._may_write:
                return None
            raise

    def list_below(self, folder: str) -> dict[str, int]:
        """All objects below a folder: path relative to it, to bytes.

        Raises:
            StorageError: Storage refused or failed.
        """
        prefix = f"{folder}/"
        try:
            pages = self._store.list(prefix)
            items = {str(item["path"]): int(item["size"]) for page in pages for item in page}
        except (BaseError, OSError) as error:
            raise self._failed("list", folder, error) from error
        # Consoles mark a folder by an object named like it and a slash, which is listed without the slash.
        return {path.removeprefix(prefix): size for path, size in items.items() if path.startswith(prefix)}

    def read(self, path: str) -> bytes:
        """A small object, whole.

        Raises:
            FileNotFoundError: There is none.
            StorageError: Storage refused or failed.
        """
        try:
            return bytes(self._store.get(path).bytes())
        except (NotFoundError, FileNotFoundError) as error:
            self._require_bucket("read", path, error)
            raise FileNotFoundError(self.join(path)) from error
        except (BaseError, OSError) as error:
            raise self._failed("read", path, error) from error

    def look_up(self, path: str) -> bytes | None:
        """A small object, None if there is none, or if keys that may write may not see it.

        Raises:
            StorageError: Storage refused or failed.
        """
        try:
            return self.read(path)
        except FileNotFoundError:
            return None
        except StorageRefusedError:
            if self._may_write:
                return None
            raise

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """`length` bytes of an object from `start` on.

        Raises:
            FileNotFoundError: There is none.
            StorageError: Storage refused or failed, or the object ends before.
        """
        tries = BODY_TRIES
        while True:
            tries -= 1
            try:
                return bytes(obstore.get_range(self._store, path, start=start, length=length))
            except (NotFoundError, FileNotFoundError) as error:
                self._require_bucket("read", path, error)
                raise FileNotFoundError(self.join(path)) from error
            except (BaseError, OSError) as error:
                if not tries or BROKEN_BODY not in str(error):
                    raise self._failed("read", path, error) from error

    def upload(self, path: str, source: Path, *, sent: Callable[[int], None] = lambda _bytes: None) -> None:
        """Write a file to an object, in parts when it is large.

        Args:
            path: The object.
            source: The file.
            sent: Told of the bytes as they go; what it raises ends the upload.

        Raises:
            StorageError: Storage refused or failed.
        """

        def chunks() -> Iterator[bytes]:
            with source.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
                    sent(len(chunk))

        try:
            if source.stat().st_size > CHUNK:
                obstore.put(self._store, path, chunks(), chunk_size=CHUNK, max_concurrency=PARTS)
            else:
                obstore.put(self._store, path, content := source.read_bytes())
                sent(len(content))
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

    def _look_for_bucket(self, path: str) -> None:
        if not self._bucket_seen:
            with suppress(FileNotFoundError):
                self.read_range(path, 0, 1)

    def _require_bucket(self, verb: str, path: str, error: Exception) -> None:
        """Nothing if only the object is absent; a bucket that is, or a user, is no answer to a question for an object.

        Raises:
            StorageError: More than the object is absent.
        """
        code, _ = _answer(error)
        if code and code not in ABSENT_OBJECT:
            raise self._failed(verb, path, error) from error
        self._bucket_seen = True

    def _failed(self, verb: str, path: str, error: Exception) -> StorageError:
        hint = ""
        scheme = urlsplit(self.uri).scheme
        if scheme in HINTS and not any(os.environ.get(name) for name in HINTS[scheme][0]):
            hint = f" ({HINTS[scheme][1]})"
        code, _ = _answer(error)
        refused = isinstance(error, PermissionDeniedError) and code not in UNKNOWN_USER
        kind = StorageRefusedError if refused else StorageError
        return kind(f"cannot {verb} {self.join(path)}: {_reason(error)}{hint}")


def _private_authority() -> dict[str, Any]:
    """Certificates of `AWS_CA_BUNDLE`, trusted beside the system's own (which `SSL_CERT_FILE` may replace)."""
    path = os.environ.get(CA_BUNDLE)
    if not path:
        return {}
    try:
        return {"root_certificate": Path(path).read_bytes()}
    except OSError as error:
        raise StorageError(f"{CA_BUNDLE} names {path}, which cannot be read: {error.strerror}") from error


def _shared_credentials() -> dict[str, str]:
    """Keys of AWS's shared credentials file, which obstore does not read; nothing when there is another identity.

    Profiles that lead elsewhere (single sign-on, roles, processes) are for AWS's own tools.
    """
    named = os.environ.get("AWS_SHARED_CREDENTIALS_FILE")
    path = Path(named or "~/.aws/credentials").expanduser()
    if any(os.environ.get(name) for name in IDENTITIES) or not (named or path.is_file()):
        return {}
    profile = os.environ.get("AWS_PROFILE") or "default"
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
        found = {
            key.removeprefix("aws_"): value
            for key, value in parser.items(profile)
            if key in {"aws_access_key_id", "aws_secret_access_key", "aws_session_token"}
        }
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        # The parser quotes lines of the file in its messages, and those may be secrets.
        reason = getattr(error, "strerror", None) or f"no profile {profile!r} can be read from it"
        raise StorageError(f"the credentials file {path} is not usable: {reason}") from error
    if not {"access_key_id", "secret_access_key"} <= set(found):
        raise StorageError(f"the credentials file {path} holds no keys for the profile {profile!r}")
    return found


CAUSES = {
    "UnknownIssuer": f"its certificate is of an authority that is not known here; {CA_BUNDLE} may name a file of it",
    "InvalidCertificate": "its certificate is not valid for this name and time",
    "TimedOut": "no answer in time",
    "ConnectionRefused": "connection refused",
    "dns error": "the name of the server does not resolve",
}
"""What users can act on, by its name in the debug dump that follows the first line of an obstore message."""

ABSENT_OBJECT = {"NoSuchKey", "BlobNotFound", "ResourceNotFound"}
"""Error codes of S3, GCS and Azure that say of an object alone that it is absent."""
ABSENT_BUCKET = {"NoSuchBucket", "ContainerNotFound", "FilesystemNotFound"}
UNKNOWN_USER = {"SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken", "RequestTimeTooSkewed"}
"""Error codes of answers 403 that concern the credentials, and not what they permit."""
WRONG_REGION = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
REDIRECT = "Received redirect without LOCATION"


def _answer(error: Exception) -> tuple[str, str]:
    """Error code and message in the XML that object storage answers with; empty where there is none."""
    text = str(error).partition("\n\nDebug source:")[0]
    found = (re.search(f"<{name}>([^<]{{1,300}})</{name}>", text) for name in ("Code", "Message"))
    code, message = (" ".join(html.unescape(item[1]).split()) if item else "" for item in found)
    return code, message


def _reason(error: Exception) -> str:
    """What went wrong in one line: the server's own words where it said some, with the cause where it is known."""
    first, _, dump = str(error).strip().partition("\n")
    first = re.sub(r"(https?://[^\s?]+)\?\S*", r"\1", first)  # a query may hold a signature
    code, message = _answer(error)
    if code in ABSENT_BUCKET:
        return f"the bucket does not exist; create it, or correct the URI or the endpoint ({code}: {message})"
    if code in WRONG_REGION or REDIRECT in first:
        said = f"{code}: {message}" if code else first[:300]
        return f"the bucket is in another region, or of another endpoint; AWS_REGION names it ({said})"
    if code:
        return f"{code}: {message}"
    cause = next((f" ({text})" for name, text in CAUSES.items() if name in dump), "")
    return (first[:500] or type(error).__name__) + cause
