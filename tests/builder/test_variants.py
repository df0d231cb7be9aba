"""Other precisions, front ends and encodings pass the same gate."""

from pathlib import Path

from tests.builder.conftest import Builder, Built


def assert_transcribes_like_nemo(built: Built) -> None:
    gate = built.report["stages"]["gate"]
    assert gate["wer_increase"] <= 0.005
    assert gate["token_agreement"] >= 0.99


def test_float_audio_is_transcribed_as_nemo_does(float_built: Built) -> None:
    assert_transcribes_like_nemo(float_built)


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
