"""Publish, fetch and verify against a real folder; the same against a real S3 server is in `tests/builder`."""

import json
from pathlib import Path

import pytest

from asr_contract.errors import ArtifactError, StorageError, StorageLocationError, WorkFolderError
from asr_operator.api import v1alpha1 as api
from asr_operator.observe import artifact_of
from model_builder import artifact_store
from model_builder.progress import NullReporter
from model_builder.storage import Storage
from tests.unit.test_artifact import FACTS
from tests.unit.test_recipe import example

QUIET = NullReporter()
PROVENANCE = {"source": "english.nemo", "checkpoint_class": "EncDecCTCModelBPE", "parameters": 1, "versions": {}}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    for name, content in (("english_stt/config.pbtxt", b"name"), ("onnx_english_stt/1/model.onnx", b"\0" * 100_000)):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage((tmp_path / "storage").as_uri(), create=True)


@pytest.fixture
def published(repository: Path, storage: Storage) -> artifact_store.Published:
    return artifact_store.publish(
        repository, storage, recipe=example(), provenance=PROVENANCE, facts=FACTS, check={}, gate={}, reporter=QUIET
    )


def stored(storage: Storage, name: str) -> Path:
    (found,) = Path(storage.uri.removeprefix("file://")).rglob(name)
    return found


def test_what_is_fetched_is_what_was_published(
    repository: Path, published: artifact_store.Published, tmp_path: Path
) -> None:
    destination = tmp_path / "fetched"
    manifest = artifact_store.fetch(published.uri, destination, sha256=published.manifest_sha256, reporter=QUIET)
    assert all((destination / path).read_bytes() == (repository / path).read_bytes() for path in manifest.files)


def test_the_operator_reads_the_summary_of_a_published_artifact(published: artifact_store.Published) -> None:
    found = artifact_of("onnx-1", json.dumps(published.summary()))
    assert found is not None
    assert (found.build, found.runtime) == ("onnx-1", api.Runtime.ONNX_RUNTIME)
    assert (found.uri, found.manifest_sha256) == (published.uri, published.manifest_sha256)
    assert found.bytes == published.manifest.size


def test_an_artifact_exists_only_once_its_manifest_does(
    storage: Storage, published: artifact_store.Published, tmp_path: Path
) -> None:
    stored(storage, "manifest.json").unlink()
    assert artifact_store.find(storage, example()) is None
    with pytest.raises(ArtifactError, match="no artifact was published there"):
        artifact_store.fetch(published.uri, tmp_path / "fetched", sha256=None, reporter=QUIET)


def test_a_second_builder_takes_the_artifact_of_the_first(
    repository: Path, storage: Storage, published: artifact_store.Published
) -> None:
    (repository / "english_stt" / "config.pbtxt").write_text("other bytes")
    again = artifact_store.publish(
        repository, storage, recipe=example(), provenance=PROVENANCE, facts=FACTS, check={}, gate={}, reporter=QUIET
    )
    assert again == published
    artifact_store.verify(published.uri, reporter=QUIET)


@pytest.mark.parametrize("damage", ["flipped", "missing", "shortened", "lengthened", "emptied"])
def test_a_damaged_object_is_refused_and_leaves_nothing(
    storage: Storage, published: artifact_store.Published, tmp_path: Path, damage: str
) -> None:
    path = stored(storage, "model.onnx")
    if damage == "flipped":
        path.write_bytes(b"\1" + path.read_bytes()[1:])
    elif damage == "shortened":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "lengthened":
        path.write_bytes(path.read_bytes() + b"\0")
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx (was altered|is missing)"):
        artifact_store.fetch(published.uri, tmp_path / "fetched", sha256=None, reporter=QUIET)
    with pytest.raises(ArtifactError, match=r"model\.onnx (was altered|is missing)"):
        artifact_store.verify(published.uri, reporter=QUIET)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repository", "storage"]


def test_objects_that_were_renamed_or_added_are_named(
    storage: Storage, published: artifact_store.Published, tmp_path: Path
) -> None:
    path = stored(storage, "model.onnx")
    (path.parent / "extra").touch()
    with pytest.raises(ArtifactError, match="onnx_english_stt/1/extra is not in the manifest"):
        artifact_store.verify(published.uri, reporter=QUIET)
    path.rename(path.parent / "extra")
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing; .*/extra is not in the manifest"):
        artifact_store.verify(published.uri, reporter=QUIET)
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing"):
        artifact_store.fetch(published.uri, tmp_path / "fetched", sha256=None, reporter=QUIET)


def test_another_manifest_than_the_pinned_one_is_refused(published: artifact_store.Published, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="expected 0000"):
        artifact_store.fetch(published.uri, tmp_path / "fetched", sha256="0" * 64, reporter=QUIET)


def test_a_file_in_the_place_of_the_folder_is_left_alone(published: artifact_store.Published, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("something")
    with pytest.raises(WorkFolderError, match="is no folder"):
        artifact_store.fetch(published.uri, tmp_path / "file", sha256=None, reporter=QUIET)
    assert (tmp_path / "file").read_text() == "something"


def test_a_folder_in_use_is_left_alone(published: artifact_store.Published, tmp_path: Path) -> None:
    destination = tmp_path / "fetched"
    destination.mkdir()
    (destination / "mine").write_text("keep")
    with pytest.raises(WorkFolderError, match="is not empty"):
        artifact_store.fetch(published.uri, destination, sha256=None, reporter=QUIET)
    assert (destination / "mine").read_text() == "keep"


def test_fetching_twice_is_fetching_once(published: artifact_store.Published, tmp_path: Path) -> None:
    destination = tmp_path / "fetched"
    first = artifact_store.fetch(published.uri, destination, sha256=None, reporter=QUIET)
    assert artifact_store.fetch(published.uri, destination, sha256=None, reporter=QUIET) == first


def test_what_python_compiled_is_neither_published_nor_missed(
    repository: Path, storage: Storage, tmp_path: Path
) -> None:
    def compile_in(folder: Path) -> None:
        (folder / "english_stt" / "__pycache__").mkdir()
        (folder / "english_stt" / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"code")

    compile_in(repository)
    published = artifact_store.publish(
        repository, storage, recipe=example(), provenance=PROVENANCE, facts=FACTS, check={}, gate={}, reporter=QUIET
    )
    assert not any("__pycache__" in name for name in published.manifest.files)
    destination = tmp_path / "fetched"
    artifact_store.fetch(published.uri, destination, sha256=None, reporter=QUIET)
    compile_in(destination)
    artifact_store.verify(str(destination), reporter=QUIET)


def test_an_altered_folder_is_noticed(published: artifact_store.Published, tmp_path: Path) -> None:
    destination = tmp_path / "fetched"
    artifact_store.fetch(published.uri, destination, sha256=None, reporter=QUIET)
    (destination / "extra").write_text("not ours")
    with pytest.raises(ArtifactError, match="extra is not in the manifest"):
        artifact_store.verify(str(destination), reporter=QUIET)


def test_a_path_in_place_of_a_uri_is_explained() -> None:
    with pytest.raises(StorageLocationError, match="write file:///folder or s3://bucket/prefix"):
        Storage("models/prod")


def test_storage_that_refuses_connections_is_a_transient_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    with pytest.raises(StorageError, match=r"cannot read s3://bucket/prefix/manifest\.json") as caught:
        Storage("s3://bucket/prefix").read("manifest.json")
    assert caught.value.transient


def test_looking_into_a_folder_that_is_not_there_does_not_make_it(tmp_path: Path) -> None:
    with pytest.raises(StorageLocationError, match="absent"):
        artifact_store.verify((tmp_path / "absent").as_uri(), reporter=QUIET)
    assert not list(tmp_path.iterdir())
