"""Judgements of `asr conform`: what a real server gave passes, and fails with one value altered.

The inputs were recorded from the demo model on Triton 2.51; those of GPUs are in the form that Triton writes.
"""

import json
import shutil
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr_cli.conform import (
    artifact,
    cancellation,
    inside,
    kill,
    load,
    memory,
    performance,
    placement,
    prometheus,
    record,
    refusals,
    texts,
    tokens,
    versions,
)
from asr_cli.conform.artifact import Artifact, CheckAudio, Reference
from asr_cli.conform.outcome import Outcome, Result, failed
from asr_client.transcription import Transcript, TranscriptionError, Word
from model_builder.audio_set import SHIPPED

PASS, FAIL, SKIPPED = Outcome.PASS, Outcome.FAIL, Outcome.SKIPPED


def outcome(result: Result) -> Outcome:
    """Its outcome; whatever failed says what to do."""
    assert result.hint or result.outcome is not FAIL
    assert result.message
    json.dumps(result.to_json())
    return result.outcome


# ---- versions and flags

SERVED = {
    "python": "3.12.3",
    "numpy": "1.26.4",
    "onnxruntime": "1.27.0",
    "environment": {"TRT_VERSION": "10.13.2.6", "NVIDIA_TRITON_SERVER_VERSION": "25.08"},
    "gpus": [{"name": "NVIDIA L4", "driver": "580.65.06", "compute_capability": "8.9"}],
}
FLAGS = [
    *("--model-repository=...", "--model-control-mode=none", "--strict-readiness=true", "--exit-on-error=true"),
    *("--disable-auto-complete-config", "--backend-config=python,shm-default-byte-size=16777216", "--grpc-port=8001"),
]


def with_versions(triton: str | None = "2.60.0", plan: str | None = "10.13.2", **inside: Any) -> Result:  # noqa: ANN401
    published = replace(artifact_of(), tensorrt=plan)
    return versions.judge(versions.record(triton, SERVED | inside, "tritonserver:25.08-py3@sha256:ab", published))


def test_versions_that_go_together_pass_and_are_recorded() -> None:
    found = with_versions()
    assert outcome(found) is PASS
    assert found.figures["driver"] == "580.65.06"
    assert found.figures["onnxruntime"] == "1.27.0"


def test_a_plan_of_another_tensorrt_fails() -> None:
    assert outcome(with_versions(plan="10.9.0")) is FAIL


def test_numpy_2_in_a_python_backend_that_returns_empty_outputs_with_it_fails() -> None:
    assert outcome(with_versions(triton="2.51.0", numpy="2.3.5")) is FAIL
    assert outcome(with_versions(triton="2.71.0", numpy="2.3.5")) is PASS


@pytest.mark.parametrize("version", [None, "2.40.0"])
def test_an_old_server_and_one_that_states_no_version_fail(version: str | None) -> None:
    assert outcome(with_versions(triton=version)) is FAIL


def test_versions_are_judged_without_a_program_beside_the_server() -> None:
    found = versions.judge(versions.record("2.71.0", None, None, None))
    assert outcome(found) is PASS
    assert found.figures["tensorrt"] is None


def test_the_flags_of_the_operator_pass() -> None:
    assert outcome(versions.judge_flags(FLAGS)) is PASS


@pytest.mark.parametrize("flag", sorted(versions.REQUIRED_FLAGS))
def test_a_server_without_a_required_flag_fails(flag: str) -> None:
    found = versions.judge_flags([item for item in FLAGS if item != flag])
    assert outcome(found) is FAIL
    assert flag in found.message


def test_flags_are_read_without_paths_addresses_and_keys() -> None:
    given = [
        *("tritonserver", "--model-repository=/models/abc", "--grpc-port=8001", "--strict-readiness=true"),
        "--http-restricted-api=metadata,trace:admin-key=s3cret",
        "--grpc-restricted-protocol=shared-memory:key=s3cret",
    ]
    shown = inside.flags(given)
    assert shown[1:3] == ["--grpc-port=8001", "--strict-readiness=true"]
    assert shown[3] == "--http-restricted-api=..."
    assert "s3cret" not in str(shown)
    assert "/models" not in str(shown)


# ---- the artifact and its audio

LOGPROBS = np.log(np.array([0.99, 0.98, 0.51, 0.97], dtype=np.float32))
TOKENS = np.array([4, 320, 7, 320], dtype=np.int32)
FILES = ("en_029_adam_0009.wav", "flite_slt_0010.wav")


def artifact_of(precision: str = "FP32") -> Artifact:
    return Artifact(
        model="english_stt",
        build="c40667432e8b",
        precision=precision,
        max_seconds=40,
        files=FILES,
        seconds={},
        references=(Reference("a node", TOKENS, LOGPROBS), Reference("a cluster", TOKENS, LOGPROBS)),
        tensorrt=None,
        gpu_product=None,
        measurements={},
        model_bytes=9_000_000,
    )


def manifest_of(files: list[str]) -> dict[str, Any]:
    recipe = {"model_name": "english_stt", "precision": "FP32", "max_audio_seconds": 40}
    return {
        "build_key": "c4",
        "recipe": recipe,
        "gate": {"transcripts": [{"file": name} for name in files]},
        "check": {"by_utterance": []},
        "files": {"onnx_english_stt/1/model.onnx": {"size": 7}, "references.json": {"size": 5}},
    }


REFERENCES = [{"text": "a", "tokens": [1], "token_logprobs": [-0.1]}]


def test_an_artifact_is_read_with_the_size_of_its_models() -> None:
    found = artifact.parse(manifest_of(["a.wav"]), REFERENCES)
    assert (found.files, found.model_bytes, found.references[0].text) == (("a.wav",), 7, "a")


@pytest.mark.parametrize(
    ("manifest", "references"),
    [(manifest_of(["a.wav", "b.wav"]), REFERENCES), ({}, REFERENCES), (manifest_of(["a.wav"]), [{"text": "a"}])],
    ids=["another number of files", "no manifest", "references without tokens"],
)
def test_files_that_do_not_belong_together_are_refused(manifest: Any, references: Any) -> None:  # noqa: ANN401
    with pytest.raises(artifact.ArtifactError):
        artifact.parse(manifest, references)


def test_the_check_audio_of_the_package_is_used_unless_a_folder_is_given() -> None:
    found = artifact.check_audio(artifact_of(), None)
    assert found.public
    assert len(found.signals) == 2


def test_check_audio_of_a_user_that_is_not_at_hand_is_missing_with_what_to_give() -> None:
    with pytest.raises(artifact.AudioMissingError, match=r"2 of the 2 files .*--audio DIR"):
        artifact.check_audio(replace(artifact_of(), files=("call-1.wav", "call-2.wav")), None)


def test_other_audio_of_the_same_name_is_recognised_by_its_length(tmp_path: Path) -> None:
    for name in FILES:
        shutil.copy(SHIPPED / name, tmp_path)
    right = artifact_of()
    assert not artifact.check_audio(right, tmp_path).public
    with pytest.raises(artifact.AudioMissingError, match="file 2 is"):
        artifact.check_audio(replace(right, seconds={FILES[1]: 99.0}), tmp_path)


# ---- tokens and log-probabilities


def steps(change: dict[int, int] | None = None, offset: float = 0.0) -> list[tokens.Steps]:
    changed = TOKENS.copy()
    for index, token in (change or {}).items():
        changed[index] = token
    return [tokens.Steps(changed, LOGPROBS + np.float32(offset)), tokens.Steps(TOKENS, LOGPROBS)]


def judged(served: list[tokens.Steps], precision: str = "FP32", *, sure: int = 100) -> tuple[Result, tokens.Comparison]:
    """A judgement of these steps, before so many others that are as they should be."""
    rest = tokens.Steps(np.full(sure, 320, dtype=np.int32), np.full(sure, -0.001, dtype=np.float32))
    references = [*artifact_of().references, Reference("", rest.tokens, rest.logprobs)]
    limit = tokens.tolerance(precision, gpu=False)
    found = tokens.compare(references, [*served, rest], limit)
    return tokens.judge("onnx_english_stt", found, limit, files=2), found


def test_the_checkpoints_tokens_pass() -> None:
    result, found = judged(steps())
    assert outcome(result) is PASS
    assert found.tied == frozenset()


def test_one_wrong_token_fails() -> None:
    assert outcome(judged(steps({0: 5}))[0]) is FAIL


def test_a_token_that_differs_where_two_were_equally_probable_is_a_near_tie() -> None:
    result, found = judged(steps({2: 5}), precision="FP16")
    assert outcome(result) is PASS
    assert found.tied == {0}


def test_more_near_ties_than_rounding_explains_fail() -> None:
    assert outcome(judged(steps({2: 5}), precision="FP16", sure=10)[0]) is FAIL


@pytest.mark.parametrize("precision", ["FP16", "BF16"])
def test_one_wrong_token_that_was_sure_fails_in_any_precision(precision: str) -> None:
    assert outcome(judged(steps({0: 5}), precision=precision)[0]) is FAIL


def test_another_number_of_steps_fails() -> None:
    served = steps()
    served[1] = tokens.Steps(TOKENS[:3], LOGPROBS[:3])
    assert outcome(judged(served)[0]) is FAIL


@pytest.mark.parametrize("offset", [-0.02, float("nan")])
def test_log_probabilities_that_rounding_does_not_explain_fail(offset: float) -> None:
    assert outcome(judged(steps(offset=offset))[0]) is FAIL


def test_a_gpu_may_round_fp32_as_tf32_does() -> None:
    assert tokens.tolerance("FP32", gpu=True) == tokens.tolerance("FP16", gpu=False)


def test_logprobs_whose_best_token_is_another_fail() -> None:
    best = np.array([[0, 2, 1]], dtype=np.int32)
    logprobs = np.log(np.full((1, 3, 4), 0.1, dtype=np.float32))
    for step, token in enumerate(best[0]):
        logprobs[0, step, token] = np.log(0.7)
    assert outcome(tokens.judge_logprobs("onnx", best, logprobs)) is PASS
    assert outcome(tokens.judge_logprobs("onnx", best + 1, logprobs)) is FAIL
    assert outcome(tokens.judge_logprobs("onnx", best, logprobs + np.float32(1))) is FAIL
    assert outcome(tokens.judge_logprobs("onnx", best[:, :2], logprobs)) is FAIL


# ---- texts

AUDIO = CheckAudio(public=False, signals=(np.zeros(16_000, dtype=np.int16), np.zeros(16_000, dtype=np.int16)))
FIRST = Transcript("a node", 0.97, (Word("a", 0.1, 0.2), Word("node", 0.3, 0.6)))
SECOND = Transcript("a cluster", 0.98, (Word("a", 0.1, 0.2), Word("cluster", 0.3, 0.9)))


def of_texts(*answers: Transcript | TranscriptionError, tied: frozenset[int] = frozenset()) -> Result:
    return texts.judge("english_stt", artifact_of(), AUDIO, answers, tied)


def test_the_checkpoints_texts_pass() -> None:
    assert outcome(of_texts(FIRST, SECOND)) is PASS


def test_another_text_fails_and_the_record_does_not_hold_it() -> None:
    other = Transcript("the node", 0.97, (Word("the", 0.1, 0.2), Word("node", 0.3, 0.6)))
    found = of_texts(other, SECOND)
    assert outcome(found) is FAIL
    assert "the node" in found.details
    assert "the node" not in json.dumps(found.to_json())
    assert outcome(of_texts(other, SECOND, tied=frozenset({0}))) is PASS


@pytest.mark.parametrize(
    "wrong",
    [
        TranscriptionError("no answer within 300 s", "StatusCode.DEADLINE_EXCEEDED"),
        replace(FIRST, words=(Word("node", 0.3, 0.6),)),
        replace(FIRST, words=(Word("a", 0.1, 0.2), Word("node", 0.3, 7.0))),
        replace(FIRST, words=(Word("a", 0.5, 0.6), Word("node", 0.3, 0.6))),
        replace(FIRST, confidence=1.5),
    ],
    ids=["an error", "a word missing", "a word after the audio", "words out of order", "an impossible confidence"],
)
def test_an_answer_that_is_no_valid_transcript_fails(wrong: Transcript | TranscriptionError) -> None:
    assert outcome(of_texts(wrong, SECOND)) is FAIL


# ---- where the model runs

GPU_PAGE = """\
# HELP nv_gpu_memory_used_bytes GPU used memory, in bytes
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{gpu_uuid="GPU-d2bd"} 1509949440
nv_gpu_memory_total_bytes{gpu_uuid="GPU-d2bd"} 23580639232
"""
CPU_PAGE = "nv_cpu_utilization 0.5\n"


@pytest.mark.parametrize(
    ("kinds", "gpu", "visible", "expected"),
    [
        (["KIND_GPU"], True, True, PASS),
        (["KIND_CPU"], False, False, PASS),
        (["KIND_CPU"], None, False, PASS),
        (["KIND_GPU"], None, True, PASS),
        (["KIND_CPU"], True, True, FAIL),
        (["KIND_CPU"], True, False, FAIL),
        (["KIND_AUTO"], True, True, FAIL),
        (["KIND_GPU", "KIND_CPU"], True, True, FAIL),
        (["KIND_CPU"], None, True, FAIL),
        (["KIND_GPU"], False, True, FAIL),
        ([], False, False, FAIL),
    ],
)
def test_the_acoustic_model_must_run_where_its_pool_says(
    kinds: list[str], gpu: bool | None, visible: bool, expected: Outcome
) -> None:
    assert outcome(placement.judge_kind("onnx_english_stt", kinds, gpu=gpu, visible=visible)) is expected


def test_gpu_memory_that_holds_the_model_passes_and_less_fails() -> None:
    page = prometheus.parse(GPU_PAGE)
    assert placement.has_gpu(page)
    assert outcome(placement.judge_memory(page, 500_000_000, gpu=True)) is PASS
    empty = prometheus.parse(GPU_PAGE.replace("1509949440", "4194304"))
    assert outcome(placement.judge_memory(empty, 500_000_000, gpu=True)) is FAIL
    assert outcome(placement.judge_memory(page, 2_000_000_000, gpu=True)) is FAIL


@pytest.mark.parametrize("gpu", [True, False, None])
def test_gpu_memory_that_no_metric_shows_is_skipped(gpu: bool | None) -> None:
    page = prometheus.parse(CPU_PAGE)
    assert not placement.has_gpu(page)
    assert outcome(placement.judge_memory(page, None, gpu=gpu)) is SKIPPED


# ---- throughput and latency

MEASURED = {
    "shapes": [
        {"samples": 240_000, "batch": 1, "plain_ms": 2.4, "graph_ms": 1.8, "rtfx": 8548, "graph": True, "used": True},
        {"samples": 256_000, "batch": 32, "plain_ms": 11.9, "graph_ms": 0.0, "rtfx": 40_400, "used": True},
        {"samples": 256_000, "batch": 128, "plain_ms": 41.6, "graph_ms": 0.0, "rtfx": 99_000, "used": False},
    ],
    "audio_seconds_per_second_by_instances": {"1": 40_000, "2": 50_000},
}


def test_throughput_is_held_against_the_fastest_arrangement_of_the_build() -> None:
    assert performance.expected_rate(MEASURED) == 50_000
    assert outcome(performance.judge_throughput(30_000, MEASURED, forwarded=False, cpu_share=0.5)) is PASS
    assert outcome(performance.judge_throughput(20_000, MEASURED, forwarded=False, cpu_share=0.5)) is FAIL


@pytest.mark.parametrize(("forwarded", "share"), [(True, 0.5), (False, 1.0)])
def test_throughput_that_the_way_to_the_server_limits_is_skipped(forwarded: bool, share: float) -> None:
    assert outcome(performance.judge_throughput(20_000, MEASURED, forwarded=forwarded, cpu_share=share)) is SKIPPED


def test_throughput_without_measurements_is_skipped() -> None:
    assert outcome(performance.judge_throughput(137.1, {}, forwarded=False, cpu_share=0.5)) is SKIPPED
    assert performance.alone({}) is None


def test_latency_is_held_against_the_smallest_batch() -> None:
    assert performance.alone(MEASURED) == (15.0, 1.8)
    assert outcome(performance.judge_latency(6.0, 1.8, 15.0, forwarded=False)) is PASS
    assert outcome(performance.judge_latency(40.0, 1.8, 15.0, forwarded=False)) is FAIL
    assert outcome(performance.judge_latency(40.0, 1.8, 15.0, forwarded=True)) is SKIPPED


# ---- refusals

REFUSED = [
    refusals.Refusal(case.name, refusals.INVALID, "audio_signal has 0 samples", None)
    for case in refusals.cases("FP32", 40)
]


def test_refusals_of_all_kinds_pass() -> None:
    assert len(REFUSED) == 8
    assert outcome(refusals.judge("refusals", REFUSED)) is PASS


@pytest.mark.parametrize(
    "altered",
    [{"status": None}, {"status": "StatusCode.INTERNAL"}, {"neighbour": "no answer within 60 s"}],
    ids=["answered", "failed as the server's mistake", "its neighbour suffered"],
)
@pytest.mark.parametrize("index", range(len(REFUSED)), ids=lambda index: REFUSED[index].case)
def test_a_request_of_each_kind_that_is_not_refused_as_it_must_be_fails(altered: dict[str, Any], index: int) -> None:
    changed = [replace(item, **altered) if position == index else item for position, item in enumerate(REFUSED)]
    assert outcome(refusals.judge("refusals", changed)) is FAIL


def test_a_count_of_refused_requests_that_lies_fails() -> None:
    expected = sum(case.by_model for case in refusals.cases("INT16", 40))
    assert expected == 4
    assert outcome(refusals.judge_counted(4, expected)) is PASS
    assert outcome(refusals.judge_counted(0, expected)) is FAIL
    assert outcome(refusals.judge_counted(8, expected)) is FAIL


@pytest.mark.parametrize(("server", "safe"), [("2.51.0", False), ("2.60.0", True), ("2.71.0", True), (None, False)])
def test_class_count_is_asked_of_servers_that_survive_it(server: str | None, safe: bool) -> None:
    assert refusals.class_count_is_safe(server) is safe
    assert outcome(refusals.class_count_skipped("class_count", server)) is SKIPPED


# ---- 256 in flight and the metrics

SENT = [index % 2 for index in range(8)]
ANSWERS = [FIRST if index % 2 == 0 else SECOND for index in range(8)]
EXPECTED = ["a node", "a cluster"]


def under_load(*, exact: bool = True, **changed: Transcript | TranscriptionError) -> Result:
    answers: list[Transcript | TranscriptionError] = list(ANSWERS)
    for place, answer in changed.items():
        answers[int(place.removeprefix("at"))] = answer
    return load.judge_load(SENT, answers, EXPECTED, set(), exact=exact)


def test_requests_that_get_their_own_texts_pass() -> None:
    assert outcome(under_load()) is PASS


@pytest.mark.parametrize(
    "answer",
    [TranscriptionError("shared memory exhausted"), SECOND, replace(FIRST, text="a note")],
    ids=["failed", "another utterance's text", "a text of no utterance"],
)
def test_one_request_under_load_that_fails_or_is_answered_otherwise_fails(answer: Transcript) -> None:
    assert outcome(under_load(at0=answer)) is FAIL


def test_with_less_than_fp32_a_swapped_text_still_fails() -> None:
    assert outcome(under_load(exact=False, at0=SECOND)) is FAIL


COUNTED = load.Counts(
    utterances=256,
    batches=18,
    audio_seconds=1310.425,
    padded_audio_seconds=1433.97,
    waiting_seconds=1055.462,
    refused=0,
    failed=0,
    cancelled=0,
    pending=0,
    request_count=256,
    request_seconds=1388.005,
    request_bucket=256,
    batch_count=18,
    batch_sum=256,
    batch_bucket=18,
)


def test_metrics_that_agree_pass() -> None:
    assert outcome(load.judge_sums(COUNTED, 256, 1310.425, 256)) is PASS


def test_requests_of_others_are_no_fault_of_the_metrics() -> None:
    others = replace(COUNTED, utterances=260, request_count=260, request_bucket=260, batch_sum=260)
    found = load.judge_sums(others, 256, 1310.425, 260)
    assert outcome(found) is PASS
    assert "4 of them by other clients" in found.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("utterances", 255), ("batches", 17), ("audio_seconds", 1200.0), ("padded_audio_seconds", 1000.0)),
        *(("waiting_seconds", 2000.0), ("failed", 1), ("cancelled", 1), ("pending", 3), ("request_count", 257)),
        *(("request_seconds", 10.0), ("request_bucket", 250), ("batch_count", 19), ("batch_sum", 300)),
        ("batch_bucket", 1),
    ],
)
def test_a_metric_that_lies_fails(name: str, value: float) -> None:
    assert outcome(load.judge_sums(replace(COUNTED, **{name: value}), 256, 1310.425, 256)) is FAIL


def test_sums_are_not_judged_while_others_send_requests() -> None:
    assert outcome(load.judge_sums(COUNTED, 256, 1310.425, 256, stable=False)) is SKIPPED


def test_rows_of_the_acoustic_model_that_nobody_sent_fail() -> None:
    assert outcome(load.judge_sums(COUNTED, 256, 1310.425, 512)) is FAIL


def test_counts_are_read_over_all_processes_of_one_model() -> None:
    page = prometheus.parse(
        'asr_pending_utterances{model="english_stt",scheduler="english_stt_0_0"} 2\n'
        'asr_pending_utterances{model="english_stt",scheduler="english_stt_0_1"} 3\n'
        'asr_pending_utterances{model="german_stt",scheduler="german_stt_0_0"} 7\n'
        'asr_request_seconds_bucket{le="+Inf",model="english_stt"} 11\n'
        'asr_request_seconds_bucket{le="0.05",model="english_stt"} 4\n'
    )
    found = load.counts(page, "english_stt")
    assert (found.pending, found.request_bucket) == (5, 11)


def test_a_slow_server_gets_shorter_utterances() -> None:
    signals = [np.zeros(seconds * 16_000, dtype=np.int16) for seconds in (1, 2, 3, 4, 30, 30)]
    assert load.choose(signals, rtfx=10_000) == [0, 1, 2, 3, 4, 5]
    assert load.choose(signals, rtfx=10) == [0, 1, 2, 3]


# ---- clients that give up

GAVE_UP = cancellation.Given(
    sent=192, patient=12, answered=12, seconds=6.19, computed=82, cancelled=110, failed=0, pending=0
)


def test_what_nobody_waits_for_is_not_computed() -> None:
    assert outcome(cancellation.judge(GAVE_UP)) is PASS


@pytest.mark.parametrize(
    "altered",
    [
        {"answered": 11},
        {"cancelled": 0, "computed": 192},
        {"cancelled": 100},
        {"failed": 1},
        {"pending": 2},
    ],
    ids=["a client that waited", "all computed", "some missing", "some failed", "some pending"],
)
def test_a_fault_in_what_becomes_of_clients_that_give_up_fails(altered: dict[str, int]) -> None:
    assert outcome(cancellation.judge(replace(GAVE_UP, **altered))) is FAIL


def test_a_server_that_is_done_before_clients_are_asked_after_is_skipped() -> None:
    fast = replace(GAVE_UP, cancelled=0, computed=192, seconds=0.4)
    assert outcome(cancellation.judge(fast)) is SKIPPED


# ---- memory

MEMORY = {
    "group_peak": 3_000_000_000,
    "resident_peak": 1_165_971_456,
    "limit": 2_147_483_648,
    "out_of_memory_kills": 0,
    "shared_used": 224_395_264,
    "shared_limit": 536_870_912,
}


def test_memory_below_its_limits_passes() -> None:
    assert outcome(memory.judge_memory(MEMORY)) is PASS
    assert outcome(memory.judge_memory(MEMORY | {"limit": None})) is PASS
    assert outcome(memory.judge_shared(MEMORY)) is PASS


@pytest.mark.parametrize("altered", [{"resident_peak": 2_100_000_000}, {"out_of_memory_kills": 1}])
def test_memory_near_its_limit_and_a_killed_process_fail(altered: dict[str, int]) -> None:
    assert outcome(memory.judge_memory(MEMORY | altered)) is FAIL


def test_shared_memory_near_its_limit_fails() -> None:
    assert outcome(memory.judge_shared(MEMORY | {"shared_limit": 230_000_000})) is FAIL


def test_memory_that_the_kernel_does_not_show_is_skipped() -> None:
    assert outcome(memory.judge_memory(MEMORY | {"group_peak": None, "resident_peak": None})) is SKIPPED


# ---- killed processes and pods

UNDER_KILL = kill.Load(right=120, errors=Counter({"StatusCode.INTERNAL: Stub process is not healthy": 3}))


def test_a_killed_process_whose_container_restarts_passes() -> None:
    assert outcome(kill.judge_stub(UNDER_KILL, restarted=True, recovered=41.0)) is PASS


@pytest.mark.parametrize(
    ("wrong", "restarted", "recovered"),
    [(1, True, 41.0), (0, False, None), (0, True, None)],
    ids=["a wrong answer", "never restarted", "never ready again"],
)
def test_a_killed_process_that_is_not_made_good_fails(wrong: int, restarted: bool, recovered: float | None) -> None:
    seen = kill.Load(right=9, wrong=wrong, errors=UNDER_KILL.errors)
    assert outcome(kill.judge_stub(seen, restarted=restarted, recovered=recovered)) is FAIL


def test_a_deleted_pod_that_costs_nothing_passes() -> None:
    assert outcome(kill.judge_deletion(kill.Load(right=300), 30.0)) is PASS


@pytest.mark.parametrize(
    ("seen", "recovered"),
    [(UNDER_KILL, 30.0), (kill.Load(right=9, wrong=1), 30.0), (kill.Load(right=9), None)],
    ids=["a failed request", "a wrong answer", "no successor"],
)
def test_a_deleted_pod_that_costs_something_fails(seen: kill.Load, recovered: float | None) -> None:
    assert outcome(kill.judge_deletion(seen, recovered)) is FAIL


ENDED = kill.Ended(sent=64, right=60, wrong=0, unavailable=4, other=Counter())


def test_a_server_that_answers_or_says_unavailable_passes() -> None:
    assert outcome(kill.judge_termination(ENDED)) is PASS


@pytest.mark.parametrize(
    "altered",
    [{"wrong": 1}, {"other": Counter({"StatusCode.INTERNAL: model is not ready": 2})}, {"right": 59}],
    ids=["a wrong answer", "another status", "a request that never came back"],
)
def test_a_server_that_ends_otherwise_fails(altered: dict[str, Any]) -> None:
    assert outcome(kill.judge_termination(replace(ENDED, **altered))) is FAIL


# ---- the record


def test_the_record_holds_no_addresses() -> None:
    words = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:10.42.0.7:8001: Connection refused"
    found = failed("256 in flight", f"1 of 256 requests failed: {words}; english-headless.speech.svc:8001", "Look.")
    content = record.record({"cpu": [found]}, model="english_stt", kill=False, versions={}, at=datetime.now(UTC))
    written = json.dumps(content)
    assert "10.42" not in written
    assert "speech.svc" not in written
    assert "Connection refused" in written
    assert content["summary"] == {"pass": 0, "fail": 1, "skipped": 0}
