"""Stage `frontend`: the acoustic graph in its precision, and the mel graph joined in front of it."""

import shutil
from pathlib import Path
from typing import Any

from asr_serving import tensors
from model_builder import onnx_graph
from model_builder.nemo import Checkpoint
from model_builder.progress import Reporter
from model_builder.recipe import Frontend, Precision, Recipe


def run(
    checkpoint: Checkpoint, acoustic: Path, mel: Path, model: Path, *, recipe: Recipe, reporter: Reporter
) -> dict[str, Any]:
    """Write `mel` (audio to features) and `model` (what Triton serves) from the `acoustic` graph."""
    import torch  # noqa: PLC0415

    from model_builder import torch_graph  # noqa: PLC0415

    with reporter.task("frontend") as task:
        features = tensors.processed_signal(checkpoint.description.features)
        torch_graph.export(
            torch_graph.LogMel(torch_graph.MelRecipe(**checkpoint.mel_parts())),
            mel,
            inputs=(tensors.AUDIO, tensors.AUDIO_LENGTH),
            outputs=(features, tensors.PROCESSED_SIGNAL_LENGTH),
            example=(torch.randn(2, 16_001), torch.tensor([[16_001], [9_000]], dtype=torch.int32)),
        )
        precise = acoustic
        if recipe.precision is Precision.FP16:
            precise = acoustic.with_suffix(".fp16.onnx")
            onnx_graph.lower_precision(acoustic, precise, recipe.precision)
        if recipe.frontend is Frontend.NUMPY:
            onnx_graph.join(mel, precise, model)
        else:
            shutil.copyfile(precise, model)
        result = onnx_graph.summary(model)
        task.note(f"{recipe.frontend} front end  {recipe.precision}  {result['bytes'] / 1e6:.1f} MB")
    return result
