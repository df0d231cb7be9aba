from hypothesis import given
from hypothesis import strategies as st

from asr_serving.batching import Grid, Shape, choose

GRID = Grid(tuple(Shape(seconds * 16_000, 8) for seconds in (1, 2, 4, 8, 16, 32)), min_fill=0.6)

waiting = st.lists(st.integers(400, 32 * 16_000), min_size=1, max_size=60)


def seconds(*values: float) -> list[int]:
    return [round(value * 16_000) for value in values]


@given(waiting)
def test_the_oldest_utterance_always_goes_so_that_none_starves(lengths: list[int]) -> None:
    assert choose(lengths, GRID)[0] == 0


@given(waiting)
def test_a_batch_fits_its_shape(lengths: list[int]) -> None:
    chosen = choose(lengths, GRID)
    assert len(chosen) == len(set(chosen)) <= GRID.shape_of(max(lengths[index] for index in chosen)).batch


@given(waiting)
def test_all_but_the_oldest_fill_their_shape_well_or_have_no_shorter_one(lengths: list[int]) -> None:
    chosen = choose(lengths, GRID)
    padded = GRID.shape_of(max(lengths[index] for index in chosen)).samples
    assert all(
        lengths[index] >= GRID.min_fill * padded or GRID.shape_of(lengths[index]).samples == padded
        for index in chosen[1:]
    )


@given(waiting)
def test_every_utterance_is_answered_after_at_most_as_many_batches_as_wait_before_it(lengths: list[int]) -> None:
    left = list(range(len(lengths)))
    batches = 0
    while left:
        chosen = {left[index] for index in choose([lengths[index] for index in left], GRID)}
        left = [index for index in left if index not in chosen]
        batches += 1
        assert all(index >= batches - 1 for index in left)


def test_utterances_of_like_length_share_a_batch() -> None:
    assert sorted(choose(seconds(7, 1, 6.5, 30, 7.5), GRID)) == [0, 2, 4]


def test_a_short_one_does_not_wait_for_long_ones() -> None:
    assert choose(seconds(1, 30, 30, 30), GRID) == [0]


def test_of_too_many_the_oldest_are_taken() -> None:
    assert choose(seconds(5, *[8] * 7, *[5.1] * 7), GRID) == list(range(8))


def test_a_longer_shape_is_taken_when_it_gathers_more() -> None:
    grid = Grid((Shape(16_000, 8), Shape(20_000, 8)), min_fill=0.6)
    assert sorted(choose([16_000, 19_000, 19_500], grid)) == [0, 1, 2]


MEASURED = Grid((Shape(160, 1, 1.0), Shape(160, 8, 3.0), Shape(160, 64, 12.0), Shape(320, 1, 1.5)), min_fill=0.7)


def test_what_gets_through_the_most_audio_in_a_millisecond_is_taken() -> None:
    assert choose([150, 150], MEASURED) == [0, 1]
    assert choose([150] * 8, MEASURED) == list(range(8))
    assert choose([150] * 80, MEASURED) == list(range(64))


def test_two_go_one_by_one_where_together_they_take_longer() -> None:
    assert choose([150, 150], Grid((Shape(160, 1, 1.0), Shape(160, 8, 9.0)), min_fill=0.7)) == [0]


def test_a_half_full_large_batch_is_taken_before_a_full_small_one_that_leaves_the_others_waiting() -> None:
    assert choose([150] * 30, MEASURED) == list(range(30))


def test_utterances_too_short_for_any_shape_of_their_own_still_share_a_batch() -> None:
    assert choose([10] * 8, MEASURED) == list(range(8))
