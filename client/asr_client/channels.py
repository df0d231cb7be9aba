"""From the channels of a recording to one: their average, or one of them. Pure."""

import numpy as np
import numpy.typing as npt

MIX = 0
"""The average, also where channels cancel each other."""
NAMES = {"mix": MIX, "left": 1, "right": 2}
UNRELATED_SHARE = 0.2
"""The average of n unrelated channels has a power of 1/n of theirs. With less than this share of that, they cancel."""
AUDIBLE = 1e-8
"""Power of samples in [-1, 1], -80 dB: less is no sound that could be lost."""


def parse(text: str) -> int:
    """A channel's number from 1, or `MIX`, from `left`, `right`, `mix` or a number.

    Raises:
        ValueError: Something else.
    """
    if text in NAMES:
        return NAMES[text]
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"{text!r} is not left, right, mix or the number of a channel from 1")
    return int(text)


class Mixer:
    """Mixes a recording block by block, and notices where its channels cancel each other.

    Args:
        channels: How many it has.
        choice: The channel to take, from 1; `MIX` or None for the average.
    """

    def __init__(self, channels: int, choice: int | None) -> None:
        self._channels = channels
        self._choice = choice
        self._frames = 0
        self._power = self._mixed_power = 0.0

    def mono(self, block: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[frames] of [frames, channels]."""
        if self._choice:
            chosen: npt.NDArray[np.float32] = block[:, self._choice - 1]
            return np.ascontiguousarray(chosen)
        if self._channels == 1:
            return block[:, 0]
        mixed: npt.NDArray[np.float32] = block.mean(axis=1)
        if self._choice is None:
            # Without what is constant: offsets of opposite sign are no sound.
            centred = block - block.mean(axis=0)
            self._power += float(np.vdot(centred, centred)) / self._channels
            centred_mix = mixed - mixed.mean()
            self._mixed_power += float(np.vdot(centred_mix, centred_mix))
            self._frames += len(block)
        return mixed

    @property
    def cancels(self) -> bool:
        """Whether the average has lost what the channels hold, as it does with the same sound in opposite phase."""
        audible = self._power > AUDIBLE * self._frames
        return audible and self._mixed_power < UNRELATED_SHARE / self._channels * self._power
