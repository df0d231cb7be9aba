"""The command line of the model builder, before anything is built."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_builder import pipeline
from model_builder.cli import app, this_machine_directly

PLACES = ("--source", "english.nemo", "--name", "english_stt", "--storage", "file:///store")


@pytest.mark.parametrize("written", ["bf16", "BF16"])
def test_a_precision_may_be_written_as_in_the_resource(written: str) -> None:
    result = CliRunner().invoke(app, ["build", *PLACES, "--precision", written])

    assert result.exit_code == 2
    assert "bf16 is for TensorRT plans" in result.output


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf:nvidia/parakeet-tdt_ctc-110m@main", "parakeet-tdt_ctc-110m"),
        ("hf:nvidia/parakeet-ctc-0.6b", "parakeet-ctc-0.6b"),
        ("s3://models/german/stt_de.nemo", "stt_de"),
        ("models/English-2.nemo", "English-2"),
    ],
)
def test_a_model_is_named_after_its_source(source: str, name: str) -> None:
    assert pipeline.name_of(source) == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--source", "my model (2).nemo"), "--name is needed: 'my model (2)', after the source, is not a name"),
        (("--source", "x.nemo", "--name", "nvidia/parakeet"), "; write 'parakeet', without the owner"),
    ],
)
def test_a_name_that_no_model_can_have_is_refused_with_what_to_write(
    options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    places = ("--storage", tmp_path.as_uri(), "--work", str(tmp_path / "work"))
    result = CliRunner().invoke(app, ["build", *options, *places])

    assert result.exit_code == 2
    assert message in result.output


def test_brackets_in_the_name_of_a_checkpoint_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(Path(__file__).parents[2] / "demo" / "english_stt.nemo", tmp_path / "english[large].nemo")
    monkeypatch.chdir(tmp_path)

    assert "english[large].nemo" in CliRunner().invoke(app, ["inspect", "english[large].nemo"]).output


def test_the_case_of_an_engine_does_not_matter() -> None:
    result = CliRunner().invoke(app, ["plan", "file:///store/english_stt/key", "--storage", "x", "--engine", "ONNX"])

    assert result.exit_code == 2
    assert "a plan is for tensorrt, or for both" in result.output


@pytest.mark.parametrize(
    ("given", "merged"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "a.example, .b.example"}, "a.example,.b.example,127.0.0.1,localhost"),
        ({"NO_PROXY": "a.example", "no_proxy": "b.example"}, "b.example,127.0.0.1,localhost"),
    ],
)
def test_this_machine_is_asked_directly_besides_what_the_user_excepts(given: dict[str, str], merged: str) -> None:
    assert this_machine_directly(given) == {"no_proxy": merged, "NO_PROXY": merged}


@pytest.mark.parametrize("command", [("fetch", "file:///store/key", "model"), ("plan", "key", "--storage", "x")])
def test_a_compute_capability_without_its_gpu_is_refused(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*command, "--compute-capability", "8.9"])

    assert result.exit_code == 2
    assert "write which GPU, too: --gpu-product" in result.output
