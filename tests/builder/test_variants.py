"""Other precisions, front ends and encodings pass the same gate."""

import json
from pathlib import Path

import numpy as np
import pytest

from asr_contract.artifact import MANIFEST, parse_manifest
from asr_serving.audio import floats
from model_builder import audio_set
from tests.builder.conftest import Builder, Built


def assert_transcribes_like_nemo(built: Built) -> None:
    gate = built.report["stages"]["gate"]
    assert gate["wer_increase"] <= 0.005
    assert gate["token_agreement"] >= 0.99


def test_float_audio_is_transcribed_as_nemo_does(float_built: Built) -> None:
    assert_transcribes_like_nemo(float_built)


def test_a_model_for_two_seconds_of_audio_is_built_with_what_ships(builder: Builder, demo_checkpoint: Path) -> None:
    built = builder.build("short", "--max-audio-seconds", "2", source=demo_checkpoint)
    assert_transcribes_like_nemo(built)
    assert built.report["stages"]["gate"]["utterances"] == 2


def test_half_precision_transcribes_what_nemo_does(half_built: Built) -> None:
    assert_transcribes_like_nemo(half_built)


def test_half_precision_nearly_halves_the_model(half_built: Built, built: Built) -> None:
    half, full = (
        (found.work / "repository" / "onnx_english_stt" / "1" / "model.onnx").stat().st_size
        for found in (half_built, built)
    )
    assert half < 0.75 * full


def test_the_preprocessor_of_nemo_itself_can_be_the_front_end(builder: Builder, demo_checkpoint: Path) -> None:
    built = builder.build("nemo", "--frontend", "nemo", "--wire", "float64", source=demo_checkpoint)
    assert_transcribes_like_nemo(built)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::SyntaxWarning")  # NeMo's
def test_its_features_are_the_same_of_integers_and_of_floats(repository: Path, tmp_path: Path) -> None:
    from asr_serving.nemo_frontend import PREPROCESSOR_FILE, NemoFrontend  # noqa: PLC0415 (torch and NeMo)

    facts = parse_manifest((repository / MANIFEST).read_bytes(), where="repository").model
    (tmp_path / PREPROCESSOR_FILE).write_text(json.dumps(facts.preprocessor))
    frontend = NemoFrontend(tmp_path)
    integers, lengths = audio_set.in_noise([], batch=2, samples=16_000, wire="PCM16")
    given, expected = frontend(integers, lengths), frontend(floats(integers), lengths)
    assert given["processed_signal"].shape == (2, 80, 101)
    assert all(np.array_equal(given[name], expected[name]) for name in expected)
