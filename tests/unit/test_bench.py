"""The pure parts of `asr bench`: utterances, sums, statistics and the record."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_client import plot
from asr_client.bench import (
    Answer,
    Run,
    by_length,
    latency_of,
    percentiles,
    random_lengths,
    record,
    summarise,
    whole_files,
)
from asr_client.server_statistics import (
    Duration,
    ModelStatistics,
    acoustic_candidates,
    acoustic_model,
    base_name,
    difference,
    parse,
)

RATE = 16_000
SPEECH: list[npt.NDArray[np.int16]] = [
    np.arange(start, start + size, dtype=np.int16) for start, size in ((0, 5_000), (5_000, 7_000), (12_000, 400))
]

latencies = st.floats(0.001, 100.0)
answers = st.builds(
    Answer,
    audio_seconds=st.floats(0.1, 40.0),
    latency_s=latencies,
    error=st.sampled_from([None, None, None, "refused", "queue is full"]),
)
durations = st.builds(Duration, st.integers(0, 1_000), st.integers(0, 10**12))
counted = st.builds(
    ModelStatistics,
    *[st.integers(0, 10_000)] * 4,
    durations,
    durations,
    st.dictionaries(st.integers(1, 64), st.builds(Duration, st.integers(1, 1_000), st.integers(0, 10**12)), max_size=4),
)


# Utterances


@given(st.integers(0, 10_000), st.integers(0, 1 << 33), st.floats(0.1, 3.0), st.floats(0.0, 4.0))
def test_lengths_stay_between_the_shortest_and_the_longest(seed: int, index: int, shortest: float, more: float) -> None:
    utterance = random_lengths(SPEECH, shortest=shortest, longest=shortest + more, seed=seed)(index)
    assert round(shortest * RATE) <= utterance.size <= round((shortest + more) * RATE)


@given(st.integers(0, 10_000))
def test_utterances_are_pieces_of_the_speech_in_a_row(index: int) -> None:
    utterance = random_lengths(SPEECH, shortest=0.1, longest=3.0, seed=0)(index)
    steps = set(np.unique(np.diff(utterance.astype(np.int64))).tolist())
    # One up within the speech, back to the start where it begins again.
    assert steps <= {1, -12_399}


def test_the_same_seed_makes_the_same_utterances() -> None:
    one, two = (random_lengths(SPEECH, shortest=0.1, longest=3.0, seed=7) for _ in range(2))
    assert all(np.array_equal(one(index), two(index)) for index in (3, 1, 2))


def test_another_seed_makes_other_utterances() -> None:
    one, two = (random_lengths(SPEECH, shortest=0.1, longest=3.0, seed=seed) for seed in (1, 2))
    assert [one(index).size for index in range(10)] != [two(index).size for index in range(10)]


def test_lengths_are_uniform() -> None:
    make = random_lengths(SPEECH, shortest=1.0, longest=3.0, seed=0)
    counts, _ = np.histogram([make(index).size / RATE for index in range(2_000)], bins=4, range=(1.0, 3.0))
    assert counts.min() > 400
    assert counts.max() < 600


def test_whole_files_are_all_sent_before_one_is_sent_again() -> None:
    make = whole_files(SPEECH, seed=5)
    assert sorted(make(index).size for index in range(3)) == [400, 5_000, 7_000]


def test_whole_files_come_again_in_the_same_order() -> None:
    make = whole_files(SPEECH, seed=5)
    assert [make(index).size for index in range(3)] == [make(index).size for index in range(3, 6)]


# Percentiles and sums


@given(st.lists(latencies, min_size=1))
def test_percentiles_rise_within_the_values(values: list[float]) -> None:
    found = list(percentiles(values).values())
    assert found == sorted(found)
    assert min(values) <= found[0]
    assert found[-1] <= max(values)


def test_percentiles_of_one_to_a_hundred_and_one() -> None:
    assert percentiles(list(range(1, 102))) == {50: 51.0, 90: 91.0, 95: 96.0, 99: 100.0}


def test_latency_is_told_in_milliseconds() -> None:
    latency = latency_of([Answer(1.0, 0.25)])
    assert latency is not None
    assert latency.percentiles_ms[50] == 250.0


def test_failed_requests_have_no_latency() -> None:
    assert latency_of([Answer(1.0, 0.25, "refused")]) is None


@given(st.lists(answers))
def test_terciles_hold_every_answered_request_once(sent: list[Answer]) -> None:
    thirds = by_length(sent)
    answered = [answer for answer in sent if answer.error is None]
    assert not thirds or sum(third.requests for third in thirds.values()) == len(answered)


@given(st.lists(answers))
def test_terciles_rise_in_length(sent: list[Answer]) -> None:
    thirds = list(by_length(sent).values())
    assert all(one.longest_s <= other.shortest_s for one, other in pairwise(thirds))


def test_audio_of_one_length_has_no_terciles() -> None:
    assert by_length([Answer(2.0, 0.1)] * 9) == {}


def test_failed_requests_add_no_audio() -> None:
    assert summarise([Answer(2.0, 0.1), Answer(30.0, 0.1, "refused")], 1.0).audio_seconds == 2.0


def test_rtfx_is_audio_by_wall_time() -> None:
    assert summarise([Answer(30.0, 1.0), Answer(10.0, 1.0)], 2.0).rtfx == 20.0


def test_requests_per_second_count_answered_ones() -> None:
    assert summarise([Answer(1.0, 0.1), Answer(1.0, 0.1, "refused")], 0.5).requests_per_second == 2.0


def test_the_most_frequent_error_comes_first() -> None:
    failures = [Answer(1.0, 0.1, message) for message in ("rare", "usual", "usual")]
    assert list(summarise(failures, 1.0).errors.items()) == [("usual", 2), ("rare", 1)]


# Triton's statistics


@given(counted, counted)
def test_what_was_added_since_is_the_difference(before: ModelStatistics, added: ModelStatistics) -> None:
    assert (before + added).since(before) == added


@given(counted)
def test_a_restarted_server_counts_from_zero(after: ModelStatistics) -> None:
    before = ModelStatistics(inferences=after.inferences + 1, executions=after.executions + 1)
    assert after.since(before) == after


def test_a_model_loaded_meanwhile_counts_from_zero() -> None:
    loaded = ModelStatistics(inferences=4, executions=2)
    assert difference({}, {"n": loaded}) == {"n": loaded}


def test_mean_batch_is_inferences_by_executions() -> None:
    assert ModelStatistics(inferences=12, executions=4).mean_batch == 3.0


def test_a_model_that_did_nothing_has_no_mean_batch() -> None:
    assert ModelStatistics().mean_batch is None


def test_tritons_answer_is_read() -> None:
    service = pytest.importorskip("tritonclient.grpc.service_pb2")
    response = service.ModelStatisticsResponse()
    model = response.model_stats.add(name="onnx_n", version="1", inference_count=12, execution_count=3)
    spent = model.inference_stats
    spent.success.count, spent.fail.count = 11, 1
    spent.queue.count, spent.queue.ns = 11, 22_000_000
    for phase in (spent.compute_input, spent.compute_infer, spent.compute_output):
        phase.count, phase.ns = 11, 11_000_000
    batch = model.batch_stats.add(batch_size=4)
    batch.compute_infer.count, batch.compute_infer.ns = 3, 30_000_000
    assert parse(response) == {
        "onnx_n": ModelStatistics(
            inferences=12,
            executions=3,
            succeeded=11,
            failed=1,
            queue=Duration(11, 22_000_000),
            compute=Duration(11, 33_000_000),
            batches={4: Duration(3, 30_000_000)},
        )
    }


def test_versions_of_a_model_are_added_up() -> None:
    service = pytest.importorskip("tritonclient.grpc.service_pb2")
    response = service.ModelStatisticsResponse()
    for version in ("1", "2"):
        response.model_stats.add(name="n", version=version, inference_count=5, execution_count=2)
    assert parse(response)["n"].inferences == 10


@pytest.mark.parametrize(
    "model",
    [
        "english_stt",
        "ensemble_english_stt",
        "ensemble_tensorrt_english_stt",
        "onnx_english_stt",
        "preprocessing_english_stt",
    ],
)
def test_every_model_of_a_set_leads_to_its_name(model: str) -> None:
    assert base_name(model) == "english_stt"


@pytest.mark.parametrize(
    ("model", "expected"),
    [("n", ["onnx_n", "tensorrt_n"]), ("ensemble_n", ["onnx_n"]), ("ensemble_tensorrt_n", ["tensorrt_n"]), ("m", [])],
)
def test_acoustic_models_behind_a_model(model: str, expected: list[str]) -> None:
    assert acoustic_candidates(model, {"n", "onnx_n", "tensorrt_n"}) == expected


def test_of_two_acoustic_models_the_busier_one_is_meant() -> None:
    statistics = {"onnx_n": ModelStatistics(inferences=1), "tensorrt_n": ModelStatistics(inferences=500)}
    assert acoustic_model("n", statistics) == "tensorrt_n"


# The record and the plot


def run_of(sent: list[Answer], models: dict[str, ModelStatistics] | None) -> Run:
    """What a run would bring back."""
    return Run(sent, 2.0, 0.1, models, server="2.51.0", engine="onnxruntime", acoustic="onnx_n" if models else None)


def record_of(run: Run) -> dict[str, Any]:
    """Its record."""
    return record(
        run,
        summarise(run.answers, run.wall_seconds),
        model="n",
        clients=256,
        seed=0,
        lengths=(2.0, 30.0),
        versions={"tritonclient": "2.73.0"},
    )


def test_a_record_has_the_agreed_fields() -> None:
    found = record_of(run_of([Answer(10.0, 0.5)], {"onnx_n": ModelStatistics(inferences=12, executions=4)}))
    del found["details"]
    assert found == {
        "case": "n 256 clients 2-30 s",
        "engine": "onnxruntime",
        "precision": None,
        "batch": 3.0,
        "audio_seconds": 10.0,
        "clients": 256,
        "rtfx": 5.0,
        "p50_ms": 500.0,
        "p95_ms": 500.0,
        "versions": {"triton": "2.51.0", "tritonclient": "2.73.0"},
        "gpu": None,
    }


def test_a_request_that_was_sent_again_is_counted_once_whatever_came_of_it() -> None:
    sent = [Answer(1.0, 0.1), Answer(1.0, 5.0, retries=3), Answer(1.0, 9.0, "lost", retries=6)]
    assert (summarise(sent, 9.0).retried, summarise(sent, 9.0).failed) == (2, 1)
    assert record_of(run_of(sent, None))["details"]["retried"] == 2


def test_a_record_without_answers_and_statistics_holds_nulls() -> None:
    found = record_of(run_of([Answer(10.0, 0.5, "refused")], None))
    assert (found["batch"], found["p50_ms"], found["p95_ms"]) == (None, None, None)


@given(st.lists(answers), counted)
def test_a_record_is_json_without_nan(sent: list[Answer], model: ModelStatistics) -> None:
    found = record_of(run_of(sent, {"onnx_n": model}))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("sent", [[Answer(1.0, 0.1), Answer(2.0, 0.2, "refused")], []], ids=["some", "none"])
def test_a_plot_is_a_png(sent: list[Answer], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot.save(sent, tmp_path / "results.png", title="n")
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
