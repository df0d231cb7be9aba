"""Other batching laid over an artifact, beside real folders; the same through `fetch` is in `tests/builder`."""

import errno
import json
import os
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

from asr_contract.artifact import MANIFEST
from asr_contract.errors import OverridesError, WorkFolderError
from model_builder.repository.overrides import CONFIG, lay, parse
from tests.unit.test_model_configs import texts
from tests.unit.test_recipe import TARGET, example

WANTED = parse('{"maxBatchSize": 4}')
SETTINGS = "english_stt/1/settings.json"


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "artifact"
    for name in (SETTINGS, f"preprocessing_{SETTINGS}"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(json.dumps({"shapes": [[80_000, 8, 1.0]], "in_flight": 2}))
    (folder / MANIFEST).write_text("{}")
    return folder


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("inside", [".", "..", "../..", "laid"])
def test_the_repository_may_not_hold_the_artifact_nor_lie_in_it(artifact: Path, inside: str, tmp_path: Path) -> None:
    before = files(tmp_path)
    with pytest.raises(WorkFolderError, match="give a folder beside it"):
        lay(artifact, artifact / inside, WANTED, example())
    assert files(tmp_path) == before


def test_a_folder_with_other_things_in_it_is_left_as_it_is(artifact: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(WorkFolderError, match="is no artifact, and not empty"):
        lay(artifact, target, WANTED, example())
    assert (target / "thesis.txt").read_text() == "years of work"


def test_what_was_laid_before_is_replaced(artifact: Path) -> None:
    target = artifact.with_name("laid")
    lay(artifact, target, parse('{"maxBatchSize": 2}'), example())
    lay(artifact, target, WANTED, example())
    assert json.loads((target / SETTINGS).read_text())["shapes"] == [[80_000, 4, 1.0]]


def test_an_empty_folder_is_taken(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    lay(artifact, tmp_path / "empty", WANTED, example())
    assert (tmp_path / "empty" / SETTINGS).is_file()


def test_a_volume_without_hard_links_gets_copies_once(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    target = artifact.with_name("laid")
    lay(artifact, target, WANTED, example())
    assert (target / MANIFEST).read_bytes() == (artifact / MANIFEST).read_bytes()
    made = target.stat().st_ino
    lay(artifact, target, WANTED, example())
    assert target.stat().st_ino == made, "it is taken as it is"
    (target / MANIFEST).write_text("altered")
    lay(artifact, target, WANTED, example())
    assert (target / MANIFEST).read_bytes() == (artifact / MANIFEST).read_bytes()


def kinds(folder: Path) -> dict[str, str]:
    """Kind of each acoustic model's instances."""
    found = {}
    for path in folder.glob(f"*/{CONFIG}"):
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        (found[config.name],) = {ModelInstanceGroup.Kind.Name(group.kind) for group in config.instance_group}
    return found


@pytest.fixture
def both(artifact: Path) -> Path:
    """An artifact with an ONNX model and a plan."""
    for name, text in texts(example(engine="Both", precision="FP16", plan=TARGET)).items():
        if name.startswith(("onnx", "tensorrt")):
            (artifact / name).mkdir()
            (artifact / name / CONFIG).write_text(text)
    return artifact


@pytest.mark.parametrize("device", ["CPU", "GPU"])
def test_an_onnx_model_runs_on_what_its_pool_has_and_a_plan_on_a_gpu(device: str, both: Path) -> None:
    assert kinds(both)["onnx_english_stt"] == "KIND_AUTO"
    target = both.with_name("laid")
    lay(both, target, parse(json.dumps({"device": device})), example())
    assert kinds(target) == {"onnx_english_stt": f"KIND_{device}", "tensorrt_english_stt": "KIND_GPU"}
    assert kinds(both)["onnx_english_stt"] == "KIND_AUTO", "the artifact stays as it is"


def test_another_device_than_cpu_and_gpu_is_refused() -> None:
    with pytest.raises(OverridesError, match="device: Input should be 'CPU' or 'GPU'"):
        parse('{"device": "AUTO"}')
