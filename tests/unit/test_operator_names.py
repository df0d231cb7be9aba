"""Names in Kubernetes that follow from a model's name, which may be long and have capitals, dots and underscores."""

import re

import pytest

from asr_operator import names

LABEL_VALUE = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"


@pytest.mark.parametrize(
    ("model", "readable"),
    [
        ("english_stt", "english-stt"),
        ("parakeet-tdt-0.6b-v2", "parakeet-tdt-0-6b-v2"),
        ("STT__German..", "stt-german"),
        ("stt_en_fastconformer_hybrid_large_streaming_multi", "stt-en-fastconformer-hybrid-large-st"),
        ("a" * 35 + "_" + "b" * 60, "a" * 35),
    ],
)
@pytest.mark.parametrize("kind", ["onnx", "plan"])
def test_a_job_is_named_after_its_model_as_far_as_a_label_can_hold(kind: str, model: str, readable: str) -> None:
    found = names.job(kind, model, names.digest(["any", model]))
    assert found.startswith(f"asr-{kind}-{readable}-")
    assert len(found) <= 63
    assert re.fullmatch(LABEL_VALUE, found)


def test_models_whose_names_are_cut_to_the_same_have_jobs_of_their_own() -> None:
    models = ["stt.en", "stt-en", "stt_en", "STT_en"]
    assert len({names.job("onnx", model, names.digest({"command": [f"--name={model}"]})) for model in models}) == 4
