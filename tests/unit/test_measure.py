"""From what was measured on a GPU to what is configured."""

from asr_serving.batching import Shape
from model_builder.plan_shapes import profiles
from model_builder.stages.measure import Timing, kept, served

SHAPES = [(80_000, 8), (80_000, 64), (240_000, 8), (240_000, 64)]


def test_a_graph_is_used_only_where_it_pays() -> None:
    assert Timing(80_000, 1, plain_ms=2.0, graph_ms=1.2).uses_graph
    assert not Timing(80_000, 64, plain_ms=20.0, graph_ms=19.9).uses_graph


def test_rtfx_is_padded_audio_over_time() -> None:
    assert Timing(240_000, 64, plain_ms=16.0, graph_ms=16.0).rtfx == 64 * 15 / 0.016


def test_a_larger_batch_that_is_no_faster_is_not_used() -> None:
    small, large = Timing(80_000, 8, 2.0, 2.0), Timing(80_000, 64, 16.0, 16.0)
    assert kept([small, large], 100) == [small]


def test_a_larger_batch_that_is_faster_is_used_unless_it_takes_too_long() -> None:
    small, large = Timing(80_000, 8, 2.0, 2.0), Timing(80_000, 64, 8.0, 8.0)
    assert kept([small, large], 100) == [small, large]
    assert kept([small, large], 5) == [small]


def test_the_smallest_batch_of_a_length_is_used_whatever_it_takes() -> None:
    only = Timing(640_000, 8, 300.0, 300.0)
    assert kept([only], 100) == [only]


def test_what_was_measured_is_what_is_configured() -> None:
    figures = {
        "shapes": [
            {"samples": 240_000, "batch": 1, "plain_ms": 3.0, "graph_ms": 1.5, "graph": True, "used": True},
            {"samples": 240_000, "batch": 64, "plain_ms": 15.0, "graph_ms": 15.1, "graph": False, "used": True},
            {"samples": 240_000, "batch": 8, "plain_ms": 5.0, "graph_ms": 5.0, "graph": False, "used": False},
            {"samples": 80_000, "batch": 1, "plain_ms": 2.0, "graph_ms": 1.0, "graph": True, "used": True},
        ],
        "instances": 2,
    }
    found = served(figures, profiles(SHAPES))
    assert found.grid.shapes == (Shape(80_000, 1, 1.0), Shape(240_000, 1, 1.5), Shape(240_000, 64, 15.0))
    assert found.graphs == ((240_000, 1), (80_000, 1))
    assert (found.instances, len(found.plan)) == (2, 5)
