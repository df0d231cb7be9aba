"""Every kind of checkpoint that is accepted is served as NeMo transcribes it."""

import json
from pathlib import Path

import pytest

from tests.builder.conftest import Builder
from tests.support import checkpoints

KINDS = ("characters", "hybrid-bpe", "hybrid-characters", "streaming", "control-pieces")
"""Some say that they were searched with a language model that is not here; NeMo's own greedy text counts."""
HUB_NAME = "Stt_xx-tdt_ctc-0.6b-v2.multilingual_streaming_multi"


@pytest.fixture(scope="module")
def made(builder: Builder) -> dict[str, Path]:
    return checkpoints.made(builder.folder / "kinds", *KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_checkpoint_is_served_like_nemo(builder: Builder, made: dict[str, Path], kind: str) -> None:
    built = builder.build(f"kind-{kind}", source=made[kind])
    gate = built.report["stages"]["gate"]
    assert all(item["served"] for item in gate["transcripts"])
    assert (gate["text_agreement"], gate["token_agreement"]) == (1.0, 1.0)


def test_a_model_is_served_under_a_name_as_the_hub_has_it_and_its_head_is_named(
    builder: Builder, made: dict[str, Path]
) -> None:
    built = builder.build("kind-named", "--name", HUB_NAME, source=made["hybrid-bpe"])
    assert f"/{HUB_NAME}/" in built.uri
    assert f"ensemble_{HUB_NAME}" in [path.name for path in (built.work / "repository").iterdir()]
    assert built.report["stages"]["gate"]["text_agreement"] == 1.0
    inspected = built.report["stages"]["inspect"]
    assert (inspected["head"], inspected["unused_heads"]) == ("CTC", ["TDT"])
    assert "CTC head (its TDT head is left out)" in built.errors
    told = json.loads(builder.run("inspect", built.uri, "--json").stdout)["provenance"]
    assert (told["head"], told["unused_heads"]) == ("CTC", ["TDT"])
