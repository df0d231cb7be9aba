"""The command line of the model builder, before anything is built."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_builder.cli import app

PLACES = ("--source", "english.nemo", "--name", "english_stt", "--storage", "file:///store")


@pytest.mark.parametrize("written", ["bf16", "BF16"])
def test_a_precision_may_be_written_as_in_the_resource(written: str) -> None:
    result = CliRunner().invoke(app, ["build", *PLACES, "--precision", written])

    assert result.exit_code == 2
    assert "bf16 is for TensorRT plans" in result.output


def test_brackets_in_the_name_of_a_checkpoint_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(Path(__file__).parents[1] / "demo" / "english_stt.nemo", tmp_path / "english[large].nemo")
    monkeypatch.chdir(tmp_path)

    assert "english[large].nemo" in CliRunner().invoke(app, ["inspect", "english[large].nemo"]).output


def test_the_case_of_an_engine_does_not_matter() -> None:
    result = CliRunner().invoke(app, ["plan", "file:///store/english_stt/key", "--storage", "x", "--engine", "ONNX"])

    assert result.exit_code == 2
    assert "a plan is for tensorrt, or for both" in result.output
