"""Which waiting utterances go into the next batch. Pure: no clock, no threads.

A batch is padded to one of a few shapes, so its cost is that of its longest utterance times its size. The oldest
utterance always goes first, hence none starves; it is joined by waiting ones of like length, older ones first.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Shape:
    """A padded batch that the acoustic model is fast at.

    Attributes:
        samples: Padded length.
        batch: Most utterances.
        milliseconds: What a full batch of this shape takes, where the build measured it.
    """

    samples: int
    batch: int
    milliseconds: float | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """The shapes, shortest first, and how much padding a batch may hold.

    Attributes:
        shapes: Rising in `samples`, then in `batch`; the last one takes the longest audio that is served.
        min_fill: An utterance joins a batch only when it fills at least this share of the padded length.
    """

    shapes: tuple[Shape, ...]
    min_fill: float

    def shape_of(self, samples: int) -> Shape:
        """The smallest shape that holds `samples`.

        Raises:
            ValueError: It is longer than the longest shape.
        """
        index = bisect_left([shape.samples for shape in self.shapes], samples)
        if index == len(self.shapes):
            raise ValueError(f"{samples} samples are more than the longest shape, {self.shapes[-1].samples}")
        return self.shapes[index]


def choose(lengths: Sequence[int], grid: Grid) -> list[int]:
    """Pick the next batch.

    The oldest utterance may sit anywhere in the batch's range of lengths. Of the shapes that hold it and that it fills
    well enough, the one wins that gathers the most utterances (the shorter one on a tie); where the build measured what
    shapes take, the one that gets through the most audio in a millisecond. A batch that is not full takes less: its
    first utterance costs what the smallest shape of its length takes, and each other one an equal share of the rest.

    Args:
        lengths: Samples of the waiting utterances, oldest first; not empty.
        grid: The shapes.

    Returns:
        Indices into `lengths`; the first is always 0. They fit `grid.shape_of` their longest.
    """
    sizes = np.asarray(lengths)
    oldest = lengths[0]
    smallest = grid.shape_of(oldest).samples
    best = np.zeros(0, dtype=np.intp)
    most = 0.0
    below = 0
    first = grid.shapes[0]
    for shape, following in zip(grid.shapes, (*grid.shapes[1:], None), strict=True):
        if shape.samples > first.samples:
            first = shape
        # Whatever has no shorter shape of its own is taken, however short it is.
        floor = min(grid.min_fill * shape.samples, below + 1)
        if following is not None and following.samples > shape.samples:
            below = shape.samples
        if shape.samples < smallest or (shape.samples > smallest and oldest < floor):
            continue
        # Of too many the oldest: a fifth less p95 than the nearest in length, for the same padding.
        others = sizes[1:]
        chosen = np.append(0, 1 + np.flatnonzero((floor <= others) & (others <= shape.samples))[: shape.batch - 1])
        gain = float(chosen.size)
        if shape.milliseconds is not None and first.milliseconds is not None:
            more = (shape.milliseconds - first.milliseconds) * chosen.size / shape.batch
            gain = float(sizes[chosen].sum()) / (first.milliseconds + more)
        if gain > most:
            best, most = chosen, gain
    return list(best.tolist())
