"""A real S3 server for tests and demo: VersityGW over a local folder, on loopback."""

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from model_builder.ports import reserve
from tests.support.certificates import Certificate

BINARY = Path(__file__).parents[2] / ".cache" / "bin" / "versitygw"
BUCKET = "asr-models"
START_SECONDS, STOP_SECONDS = 60.0, 10.0


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server with one bucket.

    Attributes:
        uri: Of the bucket.
        folder: Where the server keeps its objects, as files by their keys.
        environment: What a client needs to reach it.
    """

    uri: str
    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes]


@contextmanager
def s3_server(
    folder: Path, certificate: Certificate | None = None, *, address: str = "127.0.0.1", read_only: bool = False
) -> Iterator[S3Server]:
    """Run a server over `folder` while the block runs, with TLS if it has a certificate; by default on loopback."""
    if not BINARY.is_file():
        raise FileNotFoundError(f"{BINARY} is missing; run `make setup`")
    objects = folder / "objects"
    (objects / BUCKET).mkdir(parents=True, exist_ok=True)
    access, secret = "demo", secrets.token_urlsafe(24)
    (port,) = reserve(1, address)
    tls: list[str | Path] = ["--cert", certificate.certificate, "--key", certificate.key] if certificate else []
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(
            [BINARY, "--port", f"{address}:{port}", *tls, *(["--readonly"] if read_only else []), "posix", objects],
            env=os.environ | {"ROOT_ACCESS_KEY": access, "ROOT_SECRET_KEY": secret},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    environment = {
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL": f"{'https' if certificate else 'http'}://{address}:{port}",
        "AWS_REGION": "us-east-1",
    }
    try:
        _await_answer(process, environment, folder / "s3.log")
        yield S3Server(f"s3://{BUCKET}", objects / BUCKET, environment, process)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()  # if it still runs
            process.wait()


def _await_answer(process: subprocess.Popen[bytes], environment: dict[str, str], log: Path) -> None:
    store = S3Store(
        BUCKET,
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint=environment["AWS_ENDPOINT_URL"],
        region=environment["AWS_REGION"],
        client_options={"allow_http": True, "allow_invalid_certificates": True},
        retry_config={"max_retries": 0},
    )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            obstore.list_with_delimiter(store)
        except BaseError:  # not listening yet
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text(errors='replace')}")
