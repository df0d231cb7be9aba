"""Publish and fetch through a real S3 server that answers 503, breaks connections, hangs, is slow, or is gone."""

import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from asr_contract.errors import SourceUnreachableError, StorageError
from model_builder import artifact_store, storage
from model_builder.progress import NullReporter
from model_builder.stages import download, fetch
from model_builder.storage import Storage
from tests.support.faults import Faults, faulty
from tests.support.s3 import S3Server, s3_server
from tests.unit.test_artifact import FACTS
from tests.unit.test_artifact_store import PROVENANCE
from tests.unit.test_fetch import Watching as Counting
from tests.unit.test_recipe import example

QUIET = NullReporter()
LARGE = 20_000_000
"""Bytes: three parts of a multipart upload."""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def faults(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    address = urlsplit(s3.environment["AWS_ENDPOINT_URL"])
    assert address.hostname is not None
    assert address.port is not None
    with faulty(address.hostname, address.port) as proxy:
        for name, value in (s3.environment | {"AWS_ENDPOINT_URL": proxy.url}).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "onnx_english_stt" / "1").mkdir(parents=True)
    (folder / "onnx_english_stt" / "1" / "model.onnx").write_bytes(secrets.token_bytes(LARGE))
    (folder / "onnx_english_stt" / "config.pbtxt").write_text("name")
    return folder


def publish(repository: Path, s3: S3Server, prefix: str) -> artifact_store.Published:
    storage = Storage(f"{s3.uri}/{prefix}")
    return artifact_store.publish(
        repository, storage, recipe=example(), provenance=PROVENANCE, facts=FACTS, check={}, gate={}, reporter=QUIET
    )


def manifests(s3: S3Server, prefix: str) -> int:
    return len(list((s3.folder / prefix).rglob("manifest.json")))


def test_an_overloaded_server_is_asked_again(repository: Path, s3: S3Server, faults: Faults) -> None:
    faults.refuse = 4
    published = publish(repository, s3, "overloaded")
    artifact_store.verify(published.uri, reporter=QUIET)
    assert faults.refuse == 0


def test_an_upload_whose_connections_break_is_completed(repository: Path, s3: S3Server, faults: Faults) -> None:
    faults.cut_after = [1_000_000, 3_000_000]
    published = publish(repository, s3, "broken")
    artifact_store.verify(published.uri, reporter=QUIET)
    assert not faults.cut_after


def test_a_server_that_stays_down_is_told_and_nothing_is_visible(
    repository: Path, s3: S3Server, faults: Faults
) -> None:
    faults.refuse = 1_000
    with pytest.raises(StorageError, match=r"cannot .* s3://asr-models/down/") as caught:
        publish(repository, s3, "down")
    assert caught.value.transient
    assert manifests(s3, "down") == 0
    faults.refuse = 0
    artifact_store.verify(publish(repository, s3, "down").uri, reporter=QUIET)


def test_a_download_whose_connections_break_is_completed(
    repository: Path, s3: S3Server, faults: Faults, tmp_path: Path
) -> None:
    published = publish(repository, s3, "download")
    faults.refuse = 3
    artifact_store.fetch(published.uri, tmp_path / "fetched", sha256=published.manifest_sha256, reporter=QUIET)
    artifact_store.verify_folder(tmp_path / "fetched", reporter=QUIET)


def test_a_server_that_hangs_is_told_in_a_bounded_time_and_nothing_is_visible(
    repository: Path, s3: S3Server, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "REQUEST_TIME", timedelta(seconds=0.3))
    faults.hang = 1_000
    with pytest.raises(StorageError, match=r"cannot .* s3://asr-models/hangs/.*no answer in time") as caught:
        publish(repository, s3, "hangs")
    assert caught.value.transient
    assert manifests(s3, "hangs") == 0


def test_requests_that_hang_are_sent_again(
    repository: Path, s3: S3Server, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "REQUEST_TIME", timedelta(seconds=2))
    faults.hang = 2
    artifact_store.verify(publish(repository, s3, "hung").uri, reporter=QUIET)
    assert faults.hang == 0


def test_an_upload_may_take_longer_than_any_one_request(
    repository: Path, s3: S3Server, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Parts of 5 MB at 4 MB/s each: the file takes longer than REQUEST_TIME, a part does not.
    monkeypatch.setattr(storage, "CHUNK", 5 * 1024 * 1024)
    monkeypatch.setattr(storage, "PARTS", 1)
    monkeypatch.setattr(storage, "REQUEST_TIME", timedelta(seconds=3))
    faults.bytes_per_second = 4e6
    published = publish(repository, s3, "slow")
    faults.bytes_per_second = 0
    artifact_store.verify(published.uri, reporter=QUIET)


def test_a_download_is_continued_where_its_connections_break(
    repository: Path, s3: S3Server, faults: Faults, tmp_path: Path
) -> None:
    published = publish(repository, s3, "cut")
    faults.cut_answer_after = [100_000, 200_000, 3_000_000]
    artifact_store.fetch(published.uri, tmp_path / "fetched", sha256=published.manifest_sha256, reporter=QUIET)
    artifact_store.verify_folder(tmp_path / "fetched", reporter=QUIET)


def test_a_checkpoint_whose_connections_break_arrives(s3: S3Server, faults: Faults, tmp_path: Path) -> None:
    source = s3.folder / "incoming.nemo"
    source.write_bytes(secrets.token_bytes(LARGE))
    faults.refuse = 2
    faults.cut_answer_after = [0, 0, 100_000, 5_000_000]
    fetched = fetch.run(f"{s3.uri}/incoming.nemo", tmp_path, QUIET)
    assert fetched.path.read_bytes() == source.read_bytes()
    assert not faults.cut_answer_after


def test_a_checkpoint_is_continued_after_storage_went_away(
    s3: S3Server, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = s3.folder / "continued.nemo"
    source.write_bytes(secrets.token_bytes(LARGE))
    monkeypatch.setattr(download, "CHUNK", 1_000_000)
    monkeypatch.setattr(download, "PARALLEL", 1)
    monkeypatch.setitem(storage.RETRIES, "max_retries", 0)

    class Watching(Counting):
        def arrived(self) -> None:
            if self.brought >= 10_000_000:
                faults.refuse = 1_000

    with pytest.raises(SourceUnreachableError, match=r"cannot read s3://asr-models/continued\.nemo"):
        fetch.run(f"{s3.uri}/continued.nemo", tmp_path, Watching())
    before = faults.passed
    faults.refuse = 0
    assert before >= 10_000_000
    assert fetch.run(f"{s3.uri}/continued.nemo", tmp_path, QUIET).path.read_bytes() == source.read_bytes()
    assert faults.passed - before <= LARGE - 10_000_000 + 10_000


def test_a_checkpoint_that_is_here_is_not_sent_again(s3: S3Server, faults: Faults, tmp_path: Path) -> None:
    source = s3.folder / "once.nemo"
    source.write_bytes(secrets.token_bytes(LARGE))
    first = fetch.run(f"{s3.uri}/once.nemo", tmp_path, QUIET)
    before = faults.passed
    assert fetch.run(f"{s3.uri}/once.nemo", tmp_path, QUIET) == first
    assert faults.passed - before < 10_000
