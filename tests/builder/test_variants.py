"""Other precisions, front ends and encodings pass the same gate."""

from pathlib import Path

import pytest

from tests.builder.conftest import Builder


@pytest.mark.parametrize(
    "options",
    [
        ("--precision", "fp16", "--wire", "float32"),
        ("--frontend", "nemo", "--wire", "float64"),
    ],
    ids=["fp16, float32 audio", "NeMo's preprocessor, float64 audio"],
)
def test_the_variant_transcribes_what_nemo_does(
    builder: Builder, demo_checkpoint: Path, options: tuple[str, ...]
) -> None:
    built = builder.build("-".join(options).replace("--", ""), *options, source=demo_checkpoint)
    gate = built.report["stages"]["gate"]
    assert gate["wer_increase"] <= 0.005
    assert gate["token_agreement"] >= 0.99


def test_half_precision_halves_the_weights(builder: Builder, demo_checkpoint: Path) -> None:
    fp16 = builder.build("fp16", "--precision", "fp16", "--wire", "float32", source=demo_checkpoint)
    fp32 = builder.build("fp32", source=demo_checkpoint)
    sizes = [(builder.s3.folder / built.uri.removeprefix("s3://asr-models/")) for built in (fp16, fp32)]
    small, large = (next(size.rglob("model.onnx")).stat().st_size for size in sizes)
    assert small < 0.75 * large
