"""Folders that Triton can take, and folders that are none to serve."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from asr_contract.errors import WorkFolderError
from model_builder import triton_paths
from model_builder.cli import app

ODD = ["my models", "stt (1)", "it's", 'a"b', "$(id)", "`id`", "a;b", "a&b", "a\nb", "übung", "*", "~", "a\\b", "{a,b}"]


@pytest.mark.parametrize("name", [*ODD, "x" * 600])
def test_a_folder_with_an_odd_name_is_served_by_a_link_under_a_safe_one(name: str, tmp_path: Path) -> None:
    found = triton_paths.linked(Path("/models") / name, tmp_path, "repository")

    assert found == tmp_path / "repository"
    assert triton_paths.is_safe(found)
    assert found.readlink() == Path("/models") / name


def test_a_folder_with_a_plain_name_is_served_as_it_is(tmp_path: Path) -> None:
    assert triton_paths.linked(Path("/models/english-1.0_a"), tmp_path, "x") == Path("/models/english-1.0_a")


def test_the_links_lie_in_a_safe_folder_when_the_temporary_one_is_odd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a b").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a b"))

    with triton_paths.safe_folder("triton-") as folder:
        assert folder.is_dir()
        assert triton_paths.is_safe(folder)
    assert not folder.exists()


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text('backend: "python"')
    return folder


def problem(repository: Path) -> str:
    with pytest.raises(WorkFolderError) as raised:
        triton_paths.check_repository(repository)
    return str(raised.value)


def test_an_empty_folder_is_no_repository(tmp_path: Path) -> None:
    assert "it should hold a folder for each model" in problem(tmp_path)


def test_a_single_models_folder_is_no_repository(tmp_path: Path) -> None:
    assert f"give the folder that holds it, {tmp_path}" in problem(model(tmp_path / "english"))


def test_an_artifact_in_storage_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()

    assert "`model-builder fetch`" in problem(tmp_path)


def test_a_model_whose_name_triton_cannot_take_is_named(tmp_path: Path) -> None:
    model(tmp_path / "my model")

    assert "'my model'; rename the folder" in problem(tmp_path)


def test_a_repository_with_models_and_other_files_is_accepted(tmp_path: Path) -> None:
    model(tmp_path / "english_stt")
    (tmp_path / "references.json").touch()

    triton_paths.check_repository(tmp_path)


def test_a_name_that_the_file_system_refuses_is_one_line_and_not_a_traceback() -> None:
    result = CliRunner().invoke(app, ["verify", "x" * 5000])

    assert result.exit_code == 32
    assert result.stderr.startswith("WorkFolderUnusable: cannot use xxx")
    assert result.stderr.endswith(": File name too long\n")
