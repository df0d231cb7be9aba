"""Checkpoints whose weights, tokenizer or settings are not what NeMo wrote: one clear error each, by NeMo itself."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from asr_contract.errors import CheckpointError, UnsupportedCheckpointError
from model_builder.checkpoint import CONFIG, WEIGHTS, describe, unpack

Change = Callable[[dict[str, Any]], object]
MATRIX = "encoder.layers.0.feed_forward1.linear1.weight"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory, demo_checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    unpack(demo_checkpoint, folder)
    return folder


@pytest.fixture
def folder(unpacked: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unpacked, tmp_path / "checkpoint"))


def load(folder: Path) -> None:
    from model_builder.nemo import Checkpoint  # noqa: PLC0415

    Checkpoint(describe(folder))


def change_weights(folder: Path, change: Change) -> None:
    import torch  # noqa: PLC0415

    weights = torch.load(folder / WEIGHTS, weights_only=True)
    change(weights)
    torch.save(weights, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop(MATRIX), f"Missing key.*{MATRIX}"),
        (lambda weights: weights.update({"foreign": weights[MATRIX]}), "Unexpected key.*foreign"),
        (lambda weights: weights.update({MATRIX: weights[MATRIX][:3]}), f"size mismatch for {MATRIX}"),
        (lambda weights: weights.update({MATRIX: "text"}), MATRIX),
        (lambda weights: weights.update({MATRIX: weights[MATRIX] * float("nan")}), f"{MATRIX} holds NaN or infinity"),
        (lambda weights: weights[MATRIX].view(-1)[-1:].fill_(float("inf")), f"{MATRIX} holds NaN or infinity"),
        (lambda weights: weights.clear(), "Missing key"),
    ],
    ids=["missing", "extra", "wrong shape", "no tensor", "NaN", "one infinity", "none at all"],
)
def test_weights_that_do_not_fit_the_model_are_named(folder: Path, change: Change, message: str) -> None:
    change_weights(folder, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, None], ids=["empty", "garbage", "missing"])
def test_a_tokenizer_that_is_none_is_told(folder: Path, content: bytes | None) -> None:
    (tokenizer,) = folder.glob("*.model")
    if content is None:
        tokenizer.unlink()
    else:
        tokenizer.write_bytes(content)
    with pytest.raises(CheckpointError, match="NeMo cannot load the checkpoint"):
        load(folder)


def test_a_tokenizer_cut_short_is_told(folder: Path) -> None:
    (tokenizer,) = folder.glob("*.model")
    tokenizer.write_bytes(tokenizer.read_bytes()[:800])
    with pytest.raises(CheckpointError, match="NeMo cannot load the checkpoint"):
        load(folder)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("decoder", "num_classes", 100),
        ("preprocessor", "features", 40),
        ("preprocessor", "n_fft", "many"),
        ("preprocessor", "window", "nonsense"),
        ("encoder", "n_heads", 7),
        ("encoder", "d_model", -4),
        ("encoder", "n_layers", "${nothing}"),
        ("encoder", "unknown", 1),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_told_in_one_line(
    folder: Path, part: str, key: str, value: object
) -> None:
    config = yaml.safe_load((folder / CONFIG).read_text())
    config[part][key] = value
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    with pytest.raises((CheckpointError, UnsupportedCheckpointError)) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_more_weights_than_an_onnx_file_holds_are_told_before_the_export(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415

    from model_builder import torch_graph  # noqa: PLC0415

    large = torch.nn.Linear(24_000, 24_000, device="meta")  # takes no memory
    with pytest.raises(UnsupportedCheckpointError, match=r"have 2\.30 GB of weights in FP32; at most 2\.13 GB"):
        torch_graph.export(large, tmp_path / "large.onnx", inputs=(), outputs=(), example=())
