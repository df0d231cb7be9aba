"""Storage with a certificate of a private authority, and the ways to an identity: real servers on loopback."""

import secrets
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from asr_contract.errors import StorageError
from model_builder import storage
from model_builder.storage import Storage
from tests.support.certificates import Certificate, certificate
from tests.support.s3 import S3Server, s3_server

VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION"),
    *("AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY"),
)


@pytest.fixture(autouse=True)
def no_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, made: Certificate) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("secure"), made) as server:
        yield server


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("plain")) as server:
        yield server


def enter(monkeypatch: pytest.MonkeyPatch, server: S3Server, *names: str) -> None:
    for name in names or server.environment:
        monkeypatch.setenv(name, server.environment[name])


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_an_authority_that_the_environment_names_is_trusted(
    secure: S3Server, made: Certificate, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    enter(monkeypatch, secure)
    monkeypatch.setenv(variable, str(made.authority))
    found = Storage(f"{secure.uri}/{variable.lower()}")
    assert found.create("object", b"content")
    assert found.read("object") == b"content"


def test_an_unknown_authority_is_refused_and_told_with_the_remedy(
    secure: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(monkeypatch, secure)
    monkeypatch.setitem(storage.RETRIES, "max_retries", 0)
    with pytest.raises(StorageError, match=r"authority that is not known here; AWS_CA_BUNDLE may name"):
        Storage(secure.uri).read("object")


def test_a_bundle_that_is_not_there_is_told(secure: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    enter(monkeypatch, secure)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "absent.pem"))
    with pytest.raises(StorageError, match=r"AWS_CA_BUNDLE names .*absent\.pem, which cannot be read: No such file"):
        Storage(secure.uri)


def credentials_file(path: Path, server: S3Server, profile: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"[other]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n\n[{profile}]\n"
        f"aws_access_key_id = {server.environment['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {server.environment['AWS_SECRET_ACCESS_KEY']}\n"
    )


def test_keys_come_from_the_users_credentials_file(
    plain: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    enter(monkeypatch, plain, "AWS_ENDPOINT_URL", "AWS_REGION")
    credentials_file(tmp_path / ".aws" / "credentials", plain, "default")
    assert Storage(f"{plain.uri}/home").create("object", b"content")


def test_file_and_profile_may_be_named(plain: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    enter(monkeypatch, plain, "AWS_ENDPOINT_URL", "AWS_REGION")
    credentials_file(tmp_path / "mounted", plain, "prod")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "mounted"))
    monkeypatch.setenv("AWS_PROFILE", "prod")
    assert Storage(f"{plain.uri}/named").create("object", b"content")


def test_keys_in_the_environment_go_before_the_file(
    plain: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    enter(monkeypatch, plain)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[default]\naws_access_key_id = nobody\n")
    assert Storage(f"{plain.uri}/environment").create("object", b"content")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("aws_secret_access_key = hush", "no profile 'default' can be read from it"),
        ("[default]\nregion = eu-west-1\n", "holds no keys for the profile 'default'"),
        ("[prod]\naws_secret_access_key = hush\n", "no profile 'default' can be read from it"),
    ],
)
def test_a_credentials_file_without_keys_is_told_without_its_content(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "mounted").write_text(content)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "mounted"))
    with pytest.raises(StorageError, match=message) as caught:
        Storage("s3://bucket/prefix")
    assert "hush" not in str(caught.value)


def test_a_credentials_file_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    with pytest.raises(StorageError, match="absent is not usable: No such file"):
        Storage("s3://bucket/prefix")


class SecurityTokenService(ThreadingHTTPServer):
    """AWS's protocol for workload identities, as far as a token is exchanged for keys."""

    def __init__(self, server: S3Server, made: Certificate) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        # obstore sends a token over TLS only.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.certificate, made.key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.keys = server.environment
        self.token = secrets.token_urlsafe(16)
        self.asked: list[dict[str, list[str]]] = []


class Exchange(BaseHTTPRequestHandler):
    server: SecurityTokenService

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        asked = parse_qs(content or self.path.partition("?")[2])
        self.server.asked.append(asked)
        known = asked["WebIdentityToken"] == [self.server.token]
        expiration = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        answer = (
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            "<AssumeRoleWithWebIdentityResult><Credentials>"
            f"<AccessKeyId>{self.server.keys['AWS_ACCESS_KEY_ID']}</AccessKeyId>"
            f"<SecretAccessKey>{self.server.keys['AWS_SECRET_ACCESS_KEY']}</SecretAccessKey>"
            f"<SessionToken></SessionToken><Expiration>{expiration}</Expiration>"
            "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            if known
            else "<ErrorResponse><Error><Code>InvalidIdentityToken</Code></Error></ErrorResponse>"
        ).encode()
        self.send_response(200 if known else 400)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def identity(
    plain: S3Server, made: Certificate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[SecurityTokenService]:
    enter(monkeypatch, plain, "AWS_ENDPOINT_URL", "AWS_REGION")
    with SecurityTokenService(plain, made) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        (tmp_path / "token").write_text(service.token)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(made.authority))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/asr")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"https://127.0.0.1:{service.server_address[1]}")
        yield service
        service.shutdown()


def test_a_workload_identity_is_exchanged_for_keys(plain: S3Server, identity: SecurityTokenService) -> None:
    assert Storage(f"{plain.uri}/identity").create("object", b"content")
    assert identity.asked[0]["RoleArn"] == ["arn:aws:iam::123456789012:role/asr"]


def test_a_token_that_is_refused_is_told(
    plain: S3Server, identity: SecurityTokenService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("of somebody else")
    monkeypatch.setitem(storage.RETRIES, "max_retries", 0)
    with pytest.raises(StorageError, match=f"cannot read {plain.uri}/identity/object"):
        Storage(f"{plain.uri}/identity").read("object")
    assert identity.asked
