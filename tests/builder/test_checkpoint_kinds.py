"""Every kind of checkpoint that is accepted is served as NeMo transcribes it."""

from pathlib import Path

import pytest

from tests.builder.conftest import Builder
from tests.support import checkpoints

KINDS = ("characters", "hybrid-bpe", "hybrid-characters", "streaming")


@pytest.fixture(scope="module")
def made(builder: Builder) -> dict[str, Path]:
    return checkpoints.made(builder.folder / "kinds", *KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_checkpoint_is_served_like_nemo(builder: Builder, made: dict[str, Path], kind: str) -> None:
    built = builder.build(f"kind-{kind}", source=made[kind])
    gate = built.report["stages"]["gate"]
    assert all(item["served"] for item in gate["transcripts"])
    assert (gate["text_agreement"], gate["token_agreement"]) == (1.0, 1.0)
