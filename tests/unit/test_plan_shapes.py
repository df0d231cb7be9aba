from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_contract.errors import PlanError
from asr_serving.tensors import SAMPLE_RATE
from model_builder.plan_shapes import (
    INT32,
    LARGEST_BATCH,
    SMALL_BATCH,
    STEP_RATIO,
    UNIT_FRAMES,
    WORK_SECONDS,
    Geometry,
    check_shapes,
    default_shapes,
    lengths,
    padded_length,
    profiles,
    work_seconds,
)

LARGE = Geometry(hop=160, features=80, channels=256)
geometries = st.builds(Geometry, hop=st.just(160), features=st.integers(40, 128), channels=st.integers(16, 1024))


@given(st.integers(1, 600))
def test_lengths_rise_to_the_longest_audio_in_steps_that_waste_little(max_seconds: int) -> None:
    found = lengths(max_seconds)
    assert found == sorted(set(found))
    assert found[-1] >= max_seconds * SAMPLE_RATE
    assert all(samples % 160 == 0 and (samples // 160 + 1) % UNIT_FRAMES == 0 for samples in found)
    assert all(b / a <= STEP_RATIO * 1.15 for a, b in pairwise(found))


@given(st.integers(1, 600), st.integers(1, LARGEST_BATCH), geometries)
def test_the_default_shapes_are_ones_that_tensorrt_can_count(
    max_seconds: int, max_batch: int, geometry: Geometry
) -> None:
    shapes = default_shapes(max_seconds, max_batch, geometry, WORK_SECONDS)
    check_shapes(shapes, geometry)
    assert all(1 <= batch <= max_batch for _, batch in shapes)


def test_full_batches_of_every_length_hold_about_the_same_audio() -> None:
    shapes = [shape for shape in default_shapes(40, LARGEST_BATCH, LARGE, WORK_SECONDS) if shape[1] > SMALL_BATCH]
    assert all(
        0.85 * WORK_SECONDS <= samples * batch / SAMPLE_RATE <= 1.15 * WORK_SECONDS for samples, batch in shapes[1:]
    )


def test_smaller_gpus_get_smaller_batches() -> None:
    assert work_seconds(24 * 1024**3) < WORK_SECONDS / 2
    assert work_seconds(141 * 1024**3) == WORK_SECONDS


def test_a_gpu_too_small_for_eight_long_utterances_takes_as_many_as_fit() -> None:
    assert default_shapes(40, LARGEST_BATCH, LARGE, work_seconds=137)[-1] == (padded_length(40), 3)


def test_a_batch_that_tensorrt_cannot_count_is_refused_with_the_largest_that_fits() -> None:
    fits = LARGE.largest_batch(60 * SAMPLE_RATE)
    assert 256 * 3002 * 41 * fits <= INT32
    check_shapes([(60 * SAMPLE_RATE, fits)], LARGE)
    with pytest.raises(PlanError, match=f"the largest batch of that length is {fits}"):
        check_shapes([(60 * SAMPLE_RATE, fits + 1)], LARGE)


sizes = st.tuples(st.integers(1, 100).map(lambda steps: steps * 1280), st.integers(1, 256))


@given(st.lists(sizes, min_size=1, max_size=8))
def test_every_batch_of_every_length_has_exactly_one_profile(shapes: list[tuple[int, int]]) -> None:
    found = profiles(shapes)
    for samples, largest in shapes:
        for batch in range(1, largest + 1):
            holding = [
                profile
                for profile in found
                if profile.smallest_batch <= batch <= profile.batch
                and profile.samples[0] <= samples <= profile.samples[2]
            ]
            assert len(holding) == 1
