"""Stage `frontend`: the acoustic graph in its precision, and the mel graph joined in front of it."""

import shutil
from pathlib import Path
from typing import Any

from asr_contract.recipe import Frontend, Precision, Recipe
from asr_serving import tensors
from asr_serving.frontend import plain
from model_builder import audio_set, onnx_graph
from model_builder.nemo import Checkpoint
from model_builder.progress import Reporter


def run(
    checkpoint: Checkpoint, acoustic: Path, mel: Path, model: Path, *, recipe: Recipe, reporter: Reporter
) -> dict[str, Any]:
    """Write `mel` (audio to features) and `model` (what Triton serves) from the `acoustic` graph."""
    import torch  # noqa: PLC0415

    from model_builder import torch_graph  # noqa: PLC0415

    with reporter.task("frontend") as task:
        audio = audio_set.in_noise([], batch=2, samples=16_001, wire=recipe.wire)
        features = tensors.processed_signal(checkpoint.description.features)
        torch_graph.export(
            torch_graph.LogMel(torch_graph.MelRecipe(**checkpoint.mel_parts())),
            mel,
            inputs=(tensors.audio(recipe.wire), tensors.AUDIO_LENGTH),
            outputs=(features, tensors.PROCESSED_SIGNAL_LENGTH),
            example=tuple(torch.from_numpy(array) for array in plain(*audio).values()),
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
