"""Mixing of channels, and what is noticed where they cancel each other."""

import numpy as np
import numpy.typing as npt
import pytest

from asr_client import channels
from asr_client.channels import Mixer

Samples = npt.NDArray[np.float32]
NOISE = np.random.default_rng(0).normal(0, 0.1, (16_000, 8)).astype(np.float32)
VOICE, OTHER = NOISE[:, 0], NOISE[:, 1]


def cancels(*signals: Samples, choice: int | None = None) -> bool:
    mixer = Mixer(len(signals), choice)
    for block in np.array_split(np.stack(signals, axis=1), 5):
        mixer.mono(block)
    return mixer.cancels


@pytest.mark.parametrize(
    "other",
    [-VOICE, -0.8 * VOICE, -VOICE + 0.02 * OTHER, -VOICE + np.float32(0.3)],
    ids=["opposite", "opposite and quieter", "opposite with noise", "opposite with an offset"],
)
def test_opposite_phase_is_noticed(other: Samples) -> None:
    assert cancels(VOICE, other)


@pytest.mark.parametrize(
    "other",
    [VOICE, OTHER, 0 * VOICE, -0.2 * VOICE, VOICE * 0.01 + np.float32(0.5)],
    ids=["same", "another voice", "silence", "opposite echo", "offset"],
)
def test_other_stereo_is_mixed(other: Samples) -> None:
    assert not cancels(VOICE, other)


def test_unrelated_voices_of_many_channels_are_mixed() -> None:
    assert not cancels(*NOISE.T)


def test_offsets_of_opposite_sign_are_no_sound() -> None:
    assert not cancels(VOICE + np.float32(0.5), VOICE - np.float32(0.5))


def test_silence_is_nothing_that_could_be_lost() -> None:
    assert not cancels(1e-6 * VOICE, -1e-6 * VOICE)


@pytest.mark.parametrize("choice", [channels.MIX, 1, 2])
def test_what_was_asked_for_is_taken(choice: int) -> None:
    assert not cancels(VOICE, -VOICE, choice=choice)


@pytest.mark.parametrize(("text", "number"), [("left", 1), ("right", 2), ("mix", channels.MIX), ("7", 7)])
def test_names_of_channels(text: str, number: int) -> None:
    assert channels.parse(text) == number


@pytest.mark.parametrize("text", ["", "0", "-1", "centre", "1.5", "\xb2", "\u0663"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not left, right, mix or the number"):
        channels.parse(text)
