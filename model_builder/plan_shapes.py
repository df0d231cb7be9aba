"""The shapes that a TensorRT plan is built for. Pure.

A plan is fast only at the shapes that it was tuned for: off the optimum of a dynamic profile it runs at half the
throughput. So each length has profiles of its own, static but for the batch, whose optimum is their largest batch;
batches are padded to a length. One utterance alone has a profile that takes every length, tuned for LATENCY_SECONDS.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from asr_contract.errors import PlanError
from asr_serving.tensors import SAMPLE_RATE

WORK_SECONDS = 960
"""Audio in a full batch, whatever its length: 64 x 15 s fill the largest GPUs."""
LARGEST_BATCH = 256
FULL_MEMORY = 70 * 1024**3
"""Bytes of GPU memory that WORK_SECONDS is meant for; smaller GPUs get smaller batches."""
SHORTEST_SECONDS = 3.0
STEP_RATIO = 1.35
"""Each length over the one before: an eighth of a batch is padding on the average, and a plan is built in minutes."""
SMALL_BATCH = 8
"""Largest batch of the profiles for a server that is not busy."""
LATENCY_SECONDS = 15.0
INT32 = 2**31 - 1
UNIT_FRAMES = 64
"""Feature frames of a padded length are a multiple of this, hence encoder steps of 8: what tensor cores like."""
HOP = 160


@dataclass(frozen=True, slots=True)
class Profile:
    """One optimisation profile: batches from `smallest_batch` to `batch`, which is its optimum.

    `samples` is the smallest, the optimal and the largest padded length; but for single utterances they are equal.
    """

    smallest_batch: int
    batch: int
    samples: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Geometry:
    """What of the model decides how large its arrays become.

    Attributes:
        hop: Samples between feature frames.
        features: Mel bands.
        channels: Of the first convolution of the subsampling, whose output is the largest array.
    """

    hop: int
    features: int
    channels: int

    def largest_batch(self, samples: int) -> int:
        """Utterances of this length in one batch: TensorRT's convolutions count elements with 32 bits."""
        frames = samples // self.hop + 1
        return INT32 // (self.channels * ceil(frames / 2 + 1) * ceil(self.features / 2 + 1))


def work_seconds(memory: int) -> float:
    """Audio in a full batch on a GPU with so many bytes of memory."""
    return WORK_SECONDS * min(1.0, memory / FULL_MEMORY)


def padded_length(seconds: float) -> int:
    """Samples of the shape that holds this much audio; they give one frame more than they have hops."""
    units = ceil((seconds * SAMPLE_RATE / HOP + 1) / UNIT_FRAMES)
    return (units * UNIT_FRAMES - 1) * HOP


def lengths(max_seconds: int) -> list[int]:
    """Padded lengths in samples, shortest first, up to the longest audio that is served."""
    longest = padded_length(max_seconds)
    found = [longest]
    while found[0] > SHORTEST_SECONDS * SAMPLE_RATE * STEP_RATIO:
        found.insert(0, padded_length(found[0] / STEP_RATIO / SAMPLE_RATE - UNIT_FRAMES * HOP / SAMPLE_RATE / 2))
    return found


def default_shapes(
    max_seconds: int, max_batch_size: int, geometry: Geometry, work_seconds: float
) -> list[tuple[int, int]]:
    """Length in samples and batch of each shape: for each length a small batch and a full one, all full ones alike."""
    shapes = []
    for samples in lengths(max_seconds):
        fitting = work_seconds * SAMPLE_RATE / samples
        wanted = round(fitting / SMALL_BATCH) * SMALL_BATCH or int(fitting)
        full = min(wanted, max_batch_size, geometry.largest_batch(samples))
        full = full // SMALL_BATCH * SMALL_BATCH or max(1, full)
        shapes += [(samples, batch) for batch in sorted({min(SMALL_BATCH, full), full})]
    return shapes


def check_shapes(shapes: Sequence[tuple[int, int]], geometry: Geometry) -> None:
    """Refuse what TensorRT cannot count.

    Raises:
        PlanError: A batch is too large; the message names the largest that fits.
    """
    for samples, batch in shapes:
        if batch > (largest := geometry.largest_batch(samples)):
            raise PlanError(
                f"a batch of {batch} x {samples / SAMPLE_RATE:g} s has more than 2^31 elements in its first "
                f"convolution, which TensorRT does not take; the largest batch of that length is {largest}"
            )


def profiles(shapes: Sequence[tuple[int, int]]) -> list[Profile]:
    """Profiles for the shapes: single utterances of any length, then one for each shape.

    Of one length, a profile begins where the next smaller one ends: a batch has exactly one profile that takes it.
    """
    ordered = sorted(set(shapes))
    shortest, longest = ordered[0][0], ordered[-1][0]
    optimum = min(max(padded_length(LATENCY_SECONDS), shortest), longest)
    found = [Profile(1, 1, (shortest, optimum, longest))]
    below, length = 1, 0
    for samples, batch in ordered:
        below = below if samples == length else 1
        if batch > 1:
            found.append(Profile(below + 1, batch, (samples,) * 3))
        below, length = batch, samples
    return found
