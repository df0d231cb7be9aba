"""Stage `export`: encoder and CTC head to ONNX, with argmax and lengths in the graph."""

from pathlib import Path
from typing import Any

from asr_serving import tensors
from model_builder import onnx_graph, plan_shapes
from model_builder.nemo import Checkpoint
from model_builder.progress import Reporter

EXAMPLE_FRAMES = 401
"""Any length up to the longest audio will do; an odd one shows constants that should have been variable."""


def run(
    checkpoint: Checkpoint, target: Path, vocabulary: Path, *, max_seconds: int, reporter: Reporter
) -> dict[str, Any]:
    """Write the acoustic graph from features to tokens, and the vocabulary.

    Args:
        checkpoint: The loaded model.
        target: The ONNX file.
        vocabulary: The JSON file of the vocabulary.
        max_seconds: Longest audio; sizes the table of positions.
        reporter: Told of the progress.

    Raises:
        UnsupportedCheckpointError: Its weights are more than one ONNX file can hold.
    """
    import torch  # noqa: PLC0415

    from model_builder import torch_graph  # noqa: PLC0415

    with reporter.task("export") as task:
        hop = int(checkpoint.mel_parts()["hop"])
        # Plans pad the longest audio up to their next length: the table of positions must reach that far.
        longest = plan_shapes.padded_length(max_seconds) // hop + 1
        checkpoint.limit_audio(longest)
        features, frames = checkpoint.description.features, min(EXAMPLE_FRAMES, longest)
        example = (
            torch.randn(2, features, frames),
            torch.tensor([[frames], [frames - frames // 4]], dtype=torch.int32),
        )
        with checkpoint.untyped():
            torch_graph.export(
                torch_graph.CtcHead(checkpoint.encoder, checkpoint.decoder),
                target,
                inputs=(tensors.processed_signal(features), tensors.PROCESSED_SIGNAL_LENGTH),
                outputs=(*tensors.ACOUSTIC, tensors.logprobs(len(checkpoint.vocabulary.tokens) + 1)),
                example=example,
            )
        checkpoint.vocabulary.save(vocabulary)
        result = onnx_graph.summary(target) | {"hop": hop, "parameters": checkpoint.parameters}
        result["channels"] = checkpoint.subsampling_channels
        task.note(
            f"{checkpoint.parameters / 1e6:.2f} M parameters  {result['nodes']} nodes  {result['bytes'] / 1e6:.1f} MB"
        )
    return result
