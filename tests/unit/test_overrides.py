"""Other batching laid over an artifact, beside real folders; the same through `fetch` is in `tests/builder`."""

import json
from pathlib import Path

import pytest

from model_builder.artifact import MANIFEST
from model_builder.errors import WorkFolderError
from model_builder.repository.overrides import lay, parse
from tests.unit.test_recipe import example

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
