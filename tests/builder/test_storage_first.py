"""Storage is looked at before any work: what cannot be published to is said in seconds, and whose fault it is."""

import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from asr_contract.errors import (
    CheckAudioError,
    SourceError,
    SourceUnreachableError,
    StorageError,
    StorageLocationError,
    StorageRefusedError,
)
from model_builder import artifact_store, cuda, plan_pipeline
from model_builder.progress import NullReporter
from model_builder.stages import check_audio, fetch
from model_builder.storage import PROBE, Storage
from tests.support.permissions import limited
from tests.support.programs import program
from tests.support.s3 import S3Server, s3_server
from tests.unit.test_artifact import FACTS
from tests.unit.test_artifact_store import PROVENANCE
from tests.unit.test_recipe import example

QUIET = NullReporter()
ABSENT = "s3://no-such-bucket/prefix"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(autouse=True)
def reached(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "onnx_english_stt" / "1").mkdir(parents=True)
    (folder / "onnx_english_stt" / "1" / "model.onnx").write_bytes(b"model")
    return folder


def publish(repository: Path, storage: Storage) -> artifact_store.Published:
    return artifact_store.publish(
        repository, storage, recipe=example(), provenance=PROVENANCE, facts=FACTS, check={}, gate={}, reporter=QUIET
    )


def objects(s3: S3Server, prefix: str) -> list[str]:
    return sorted(path.name for path in (s3.folder / prefix).rglob("*") if path.is_file())


def build(storage: str, work: Path) -> subprocess.CompletedProcess[str]:
    """A build whose checkpoint is not there: who reads of the storage first has not looked for it."""
    return subprocess.run(
        [
            *(program("model-builder"), "build", "--source", str(work / "absent.nemo"), "--name", "english_stt"),
            *("--storage", storage, "--work", str(work / "work")),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        (ABSENT, "the bucket does not exist; create it"),
        ("/models/prod", "'/models/prod' is not a URI of storage; write file:///folder or s3://bucket/prefix, such as"),
    ],
    ids=["no bucket", "a path"],
)
def test_storage_that_cannot_be_used_ends_a_build_before_its_source_is_looked_for(
    tmp_path: Path, storage: str, message: str
) -> None:
    done = build(storage, tmp_path)
    assert done.returncode == 30
    assert done.stderr.startswith("StorageUnavailable: ")
    assert message in done.stderr
    report = json.loads((tmp_path / "work" / "report.json").read_text())
    assert (report["status"], report["stages"]) == ("failed", {})


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "SignatureDoesNotMatch"),
        ("AWS_ACCESS_KEY_ID", "nobody", "No user exists with the provided access key"),
        ("AWS_REGION", "eu-west-9", "is in another region, or of another endpoint; AWS_REGION names it"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "connection refused"),
        ("AWS_ENDPOINT_URL", "http://no-such-host.invalid", "the name of the server does not resolve"),
    ],
    ids=["wrong secret", "unknown key", "another region", "no server", "no such name"],
)
def test_the_check_says_what_is_wrong_with_the_way_to_storage(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StorageError, match=message):
        Storage("s3://asr-models/first").check_writable("english_stt")


def test_the_source_is_blamed_where_storage_can_be_used(tmp_path: Path, s3: S3Server) -> None:
    done = build(f"{s3.uri}/used", tmp_path)
    assert (done.returncode, done.stderr.split(":")[0]) == (10, "SourceUnavailable")
    assert objects(s3, "used") == []


def test_a_plan_is_not_begun_where_it_cannot_be_published(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = publish(repository, Storage((tmp_path / "storage").as_uri(), create=True))
    gpu = cuda.Gpu(product="NVIDIA-L4", compute_capability="8.9", memory=24 * 1024**3, cuda="12.8")
    monkeypatch.setattr(plan_pipeline, "check_machine", lambda _: (gpu, "10.13.2"))
    options = plan_pipeline.Options(artifact=published.uri, storage=ABSENT, work=tmp_path / "work")
    with pytest.raises(StorageError, match="the bucket does not exist"):
        plan_pipeline.build(options, QUIET)
    assert json.loads((tmp_path / "work" / "report.json").read_text())["stages"] == {}


def test_keys_that_may_only_read_are_found_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(tmp_path, read_only=True) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StorageRefusedError, match=rf"cannot write {server.uri}/p/model/.*AccessDenied"):
            Storage(f"{server.uri}/p").check_writable("model")
        assert objects(server, "p") == []


def test_keys_that_may_not_read_nor_remove_publish_and_leave_one_object(
    s3: S3Server, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with limited(s3.environment["AWS_ENDPOINT_URL"], "GET", "HEAD", "DELETE") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for _ in range(3):
            storage = Storage(f"{s3.uri}/writeonly")
            storage.check_writable("english_stt")
            assert artifact_store.find(storage, example()) is None
        published = publish(repository, storage)
    assert objects(s3, "writeonly") == [PROBE, "manifest.json", "model.onnx"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.environment["AWS_ENDPOINT_URL"])
    artifact_store.verify(published.uri, reporter=QUIET)


def test_keys_that_may_not_read_are_refused_where_nothing_was_written(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with limited(s3.environment["AWS_ENDPOINT_URL"], "GET", "HEAD") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(StorageRefusedError, match="AccessDenied"):
            artifact_store.find(Storage(f"{s3.uri}/unread"), example())


def test_the_check_leaves_nothing_also_when_builds_begin_together(s3: S3Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: Storage(f"{s3.uri}/together").check_writable("english_stt"), range(32)))
    assert objects(s3, "together") == []


def test_the_check_removes_what_an_interrupted_one_left(s3: S3Server) -> None:
    storage = Storage(f"{s3.uri}/left")
    storage.create(f"english_stt/{PROBE}", b"of a build that was killed")
    storage.check_writable("english_stt")
    assert objects(s3, "left") == []


def test_the_check_of_a_folder_leaves_nothing(tmp_path: Path) -> None:
    Storage((tmp_path / "storage").as_uri(), create=True).check_writable("english_stt")
    assert not list((tmp_path / "storage").iterdir())


def test_a_bucket_that_is_absent_is_no_artifact_that_is_not_built_yet(tmp_path: Path) -> None:
    storage = Storage(ABSENT)
    for ask in (
        lambda: artifact_store.find(storage, example()),
        lambda: artifact_store.read_manifest(storage),
        lambda: artifact_store.fetch(ABSENT, tmp_path / "fetched", sha256=None, reporter=QUIET),
        lambda: artifact_store.verify(ABSENT, reporter=QUIET),
        lambda: storage.stat("object"),
        lambda: storage.read_range("object", 0, 1),
    ):
        with pytest.raises(StorageError, match="the bucket does not exist"):
            ask()


def test_an_object_that_is_absent_is_only_that(s3: S3Server) -> None:
    storage = Storage(f"{s3.uri}/nothing")
    assert storage.stat("object") is None
    assert artifact_store.find(storage, example()) is None
    with pytest.raises(FileNotFoundError):
        storage.read("object")


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("s3://no-such-bucket/x.nemo", SourceUnreachableError, r"cannot fetch s3://no-such-bucket/x\.nemo.*the bucket"),
        ("nothing://models/x.nemo", SourceError, r"cannot fetch nothing://models/x\.nemo: .*is not a URI of storage"),
        ("file:///no/such/folder/x.nemo", SourceError, r"cannot fetch file:///no/such/folder/x\.nemo"),
    ],
)
def test_storage_that_the_checkpoint_comes_from_is_named_as_the_source(
    tmp_path: Path, source: str, kind: type[SourceError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        fetch.run(source, tmp_path, QUIET)
    assert (caught.value.exit_code, caught.value.transient) == (10, kind is SourceUnreachableError)


def test_storage_that_the_check_audio_comes_from_is_named_as_that(tmp_path: Path) -> None:
    with (
        pytest.raises(CheckAudioError, match=r"check audio: .*the bucket does not exist"),
        check_audio.brought("s3://no-such-bucket/audio", tmp_path, QUIET),
    ):
        pass


ANSWERS = {
    "az": ("BlobNotFound", "ContainerNotFound"),
    "gs": ("NoSuchKey", "NoSuchBucket"),
}
"""What Azure and Google Cloud answer with 404: of the object, of the bucket."""


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server that answers each request with 404 and the error code in this list."""
    answer: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = f"<?xml version='1.0'?><Error><Code>{answer[0]}</Code><Message>Said.</Message></Error>".encode()
            self.send_response(404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", url)
        account = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": ""}
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account | {"private_key_id": ""}))
        yield answer
        server.shutdown()


@pytest.mark.parametrize("scheme", ANSWERS)
def test_other_clouds_answers_of_an_absent_bucket_are_known(cloud: list[str], scheme: str) -> None:
    absent_object, absent_bucket = ANSWERS[scheme]
    storage = Storage(f"{scheme}://models/prefix")
    cloud.append(absent_object)
    assert artifact_store.find(storage, example()) is None
    cloud[0] = absent_bucket
    with pytest.raises(StorageError, match=f"the bucket does not exist.*{absent_bucket}"):
        artifact_store.find(storage, example())


def test_a_location_that_is_none_is_not_tried_again() -> None:
    with pytest.raises(StorageLocationError) as caught:
        Storage("memory:///models")
    assert not caught.value.transient
