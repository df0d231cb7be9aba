"""A Triton repository as guides show it: numpy features, NeMo's own export, log-probabilities to a Python decoder.

An ensemble `naive` of three models without batching, on this project's local Triton. FP64 audio on the wire.
"""

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import model_config_pb2

from asr_serving.tensors import SAMPLE_RATE
from model_builder.checkpoint import describe, unpack
from model_builder.nemo import Checkpoint
from model_builder.repository.config import to_text

NAME = "naive"
MODELS = {role: f"{role}_{NAME}" for role in ("preprocessing", "onnx", "postprocessing")}
MAX_SECONDS = 40
"""Longest audio: sizes the encoder's table of positions, like the default of a build."""

Tensor = tuple[str, str, Sequence[int]]
"""Name, data type and dimensions, the batch axis of 1 among them: no model has Triton's batch axis."""


def write(folder: Path, source: Path, scratch: Path) -> None:
    """Write the repository of the checkpoint `source` into the new folder `folder`; `scratch` is a new folder too."""
    scratch.mkdir()
    unpack(source, scratch)
    checkpoint = Checkpoint(describe(scratch))
    parts = checkpoint.mel_parts()
    bands, classes = parts["mel"].shape[0], len(checkpoint.vocabulary.tokens) + 1
    audio: Tensor = ("audio_signal", "FP64", [-1])
    features: Tensor = ("features", "FP32", [1, bands, -1])
    length: Tensor = ("length", "INT64", [1])
    logprobs: Tensor = ("logprobs", "FP32", [1, -1, classes])
    texts: Tensor = ("decoded_texts", "STRING", [1])
    # The acoustic model's own names are those of NeMo's export.
    exported: Tensor = ("audio_signal", *features[1:])

    preprocessing = _model(folder, MODELS["preprocessing"], "python", [audio], [features, length])
    shutil.copyfile(Path(__file__).parent / "preprocessing.py", preprocessing / "model.py")
    np.savez(preprocessing / "mel.npz", **_mel_parts(parts))

    acoustic = _model(folder, MODELS["onnx"], "onnxruntime", [exported, length], [logprobs])
    checkpoint.limit_audio(MAX_SECONDS * SAMPLE_RATE // int(parts["hop"]) + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of each Python condition on a shape
        checkpoint.model.export(str(acoustic / "model.onnx"))

    postprocessing = _model(folder, MODELS["postprocessing"], "python", [logprobs], [texts])
    shutil.copyfile(Path(__file__).parent / "postprocessing.py", postprocessing / "model.py")
    (postprocessing / "tokens.json").write_text(json.dumps(checkpoint.vocabulary.tokens), encoding="utf-8")

    steps: list[dict[str, Any]] = [
        {"input_map": {"audio_signal": "audio_signal"}, "output_map": {"features": "features", "length": "length"}},
        {"input_map": {"audio_signal": "features", "length": "length"}, "output_map": {"logprobs": "logprobs"}},
        {"input_map": {"logprobs": "logprobs"}, "output_map": {"decoded_texts": "decoded_texts"}},
    ]
    scheduling = {
        "step": [{"model_name": name} | step for name, step in zip(MODELS.values(), steps, strict=True)],
    }
    for step in scheduling["step"]:
        step["model_version"] = -1
    _model(folder, NAME, "", [audio], [texts], platform="ensemble", ensemble_scheduling=scheduling)


def _mel_parts(parts: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint's window, padded to n_fft on both sides, its mel bank, and its constants; all FP64."""
    window = parts["window"].numpy().astype(np.float64)
    before = (parts["n_fft"] - window.size) // 2
    return {
        "window": np.pad(window, (before, parts["n_fft"] - window.size - before)),
        "mel": parts["mel"].numpy().astype(np.float64),
        "hop": parts["hop"],
        "preemphasis": parts["preemphasis"],
        "log_guard": parts["log_guard"],
    }


def _model(
    folder: Path,
    name: str,
    backend: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    **more: Any,  # noqa: ANN401 (fields of a protobuf message)
) -> Path:
    """Write `config.pbtxt`; returns the new folder of the only version."""

    def fields(tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
        return [
            {"name": tensor, "data_type": model_config_pb2.DataType.Value(f"TYPE_{dtype}"), "dims": dims}
            for tensor, dtype, dims in tensors
        ]

    config = model_config_pb2.ModelConfig(
        name=name, backend=backend, max_batch_size=0, input=fields(inputs), output=fields(outputs), **more
    )
    if backend:
        config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=1)
    if backend == "onnxruntime":
        config.default_model_filename = "model.onnx"
    version = folder / name / "1"
    version.mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(to_text(config), encoding="utf-8")
    return version
