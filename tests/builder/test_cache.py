"""`model-builder fetch --shared` from a real S3 server, with other batching laid over the copy."""

import json
from pathlib import Path

import pytest

from asr_contract.errors import ServerError
from model_builder import triton
from model_builder.repository.overrides import CONFIG
from tests.builder.conftest import Builder, Built


@pytest.fixture
def laid(builder: Builder, built: Built, tmp_path: Path) -> Path:
    return fetch(builder, built, tmp_path / "cache")


def fetch(builder: Builder, built: Built, cache: Path, **wanted: object) -> Path:
    """As the pods of a pool do that has a batching of its own."""
    digest = built.report["manifest_sha256"]
    target = cache / f"{digest[:16]}-0123456789"
    overrides = json.dumps(wanted or {"maxBatchSize": 4})
    done = builder.run(
        *("fetch", built.uri, str(cache / digest[:16]), "--manifest-sha256", digest, "--shared"),
        *("--overrides", overrides, "--repository", str(target)),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(target)
    return target


def config(repository: Path) -> Path:
    """Of the acoustic model."""
    return repository / "onnx_english_stt" / CONFIG


def test_a_second_pod_takes_what_the_first_one_laid(builder: Builder, built: Built, laid: Path) -> None:
    assert "max_batch_size: 4" in config(laid).read_text()
    made = config(laid).stat().st_ino
    assert fetch(builder, built, laid.parent) == laid
    assert config(laid).stat().st_ino == made


@pytest.mark.parametrize("file", ["onnx_english_stt/config.pbtxt", "english_stt/1/settings.json", "extra"])
def test_what_was_laid_and_then_altered_is_laid_anew(builder: Builder, built: Built, laid: Path, file: str) -> None:
    (laid / file).write_text("altered")
    fetch(builder, built, laid.parent)
    assert "max_batch_size: 4" in config(laid).read_text()
    assert not (laid / "extra").exists()


def test_an_altered_model_is_fetched_anew_and_served_with_the_batching(
    builder: Builder, built: Built, laid: Path
) -> None:
    (model,) = (laid / "onnx_english_stt").rglob("model.onnx")
    whole = model.read_bytes()
    model.write_bytes(whole[:-1])  # in the artifact's copy, too: it is the same file
    fetch(builder, built, laid.parent)
    (model,) = (laid / "onnx_english_stt").rglob("model.onnx")
    assert model.read_bytes() == whole


def test_the_server_of_a_gpu_pool_does_not_start_where_it_finds_no_gpu(
    builder: Builder, built: Built, tmp_path: Path
) -> None:
    repository = fetch(builder, built, tmp_path / "cache", device="GPU")
    with pytest.raises(ServerError, match="has kind KIND_GPU but no GPUs are available"), triton.serve(repository):
        pass
