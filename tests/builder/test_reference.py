"""NeMo's own text, by a greedy search whatever the checkpoint says; and the served text from the same tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from asr_serving.text import transcribe
from model_builder.checkpoint import CONFIG, describe, unpack
from tests.builder.conftest import Builder
from tests.support import checkpoints

KINDS = ("bpe", "control-pieces", "hybrid-bpe", "hybrid-characters")
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def made(builder: Builder) -> dict[str, Path]:
    return checkpoints.made(builder.folder / "kinds", *KINDS)


def loaded(path: Path, folder: Path, change: Change | None = None) -> Any:  # noqa: ANN401 (its type is behind NeMo)
    from model_builder.nemo import Checkpoint  # noqa: PLC0415

    folder.mkdir()
    unpack(path, folder)
    if change is not None:
        config = yaml.safe_load((folder / CONFIG).read_text())
        change(config)
        (folder / CONFIG).write_text(yaml.safe_dump(config))
    return Checkpoint(describe(folder))


def served(checkpoint: Any, tokens: list[int]) -> str:  # noqa: ANN401
    """What is served of these tokens, each with a blank behind it."""
    steps = np.array([[step for token in tokens for step in (token, checkpoint.vocabulary.blank)]], dtype=np.int32)
    zeros = np.zeros(steps.shape, dtype=np.float32)
    return transcribe(steps, zeros, np.array([steps.shape[1]]), checkpoint.vocabulary)[0].text


@pytest.mark.parametrize("kind", KINDS)
def test_any_tokens_are_served_as_nemo_reads_them(made: dict[str, Path], tmp_path: Path, kind: str) -> None:
    checkpoint = loaded(made[kind], tmp_path / "unpacked")
    random = np.random.default_rng(0)
    for _ in range(200):
        tokens = random.integers(0, len(checkpoint.vocabulary.tokens), 30).tolist()
        by_nemo = checkpoint.decoding.decode_tokens_to_str_with_strip_punctuation(tokens)
        assert served(checkpoint, tokens) == " ".join(by_nemo.split())


def test_control_pieces_are_not_spoken_and_symbols_of_the_user_are(made: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = loaded(made["control-pieces"], tmp_path / "unpacked")
    pieces = list(checkpoint.decoder.vocabulary)
    for silent in ("<s>", "</s>", "<pad>", "<|start|>", "<|noise|>"):
        assert served(checkpoint, [pieces.index(silent)]) == ""
    assert served(checkpoint, [pieces.index("<unk>")]) == "nothing"
    assert served(checkpoint, [pieces.index("[laugh]")]) == "[laugh]"


CTC: dict[str, Change] = {
    "beam": lambda config: config.update(decoding={"strategy": "beam", "beam": {"beam_size": 8, "kenlm_path": "/x"}}),
    "pyctcdecode": lambda config: config.update(decoding={"strategy": "pyctcdecode", "beam": {"kenlm_path": "/x"}}),
    "flashlight": lambda config: config.update(decoding={"strategy": "flashlight"}),
    "unknown": lambda config: config.update(decoding={"strategy": "of next year", "odd": {"key": 1}}),
    "null": lambda config: config.update(decoding=None),
    "absent": lambda config: config.pop("decoding"),
    "text": lambda config: config.update(decoding="greedy"),
}
HYBRID: dict[str, Change] = {
    "alsd": lambda config: config.update(decoding={"strategy": "alsd", "beam": {"beam_size": 4}}),
    "null": lambda config: (config.update(decoding=None), config["aux_ctc"].update(decoding=None)),
    "absent": lambda config: (config.pop("decoding"), config["aux_ctc"].pop("decoding")),
    "CTC wfst": lambda config: config["aux_ctc"].update(decoding={"strategy": "wfst"}),
}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *(pytest.param("bpe", change, id=f"CTC {name}") for name, change in CTC.items()),
        *(pytest.param("hybrid-bpe", change, id=f"hybrid {name}") for name, change in HYBRID.items()),
    ],
)
def test_the_reference_is_greedy_whatever_the_checkpoint_was_searched_with(
    made: dict[str, Path], tmp_path: Path, kind: str, change: Change
) -> None:
    signal = np.random.default_rng(1).normal(0, 0.1, 32_000).astype(np.float32)
    (found,) = loaded(made[kind], tmp_path / "changed", change).reference([signal])
    (usual,) = loaded(made[kind], tmp_path / "usual").reference([signal])
    assert found.text == usual.text != ""


def test_settings_of_training_that_cannot_be_read_do_not_matter(made: dict[str, Path], tmp_path: Path) -> None:
    loaded(
        made["bpe"], tmp_path / "changed", lambda config: config.update(train_ds={"manifest_filepath": "${nowhere}"})
    )
