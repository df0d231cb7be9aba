"""A Triton repository as guides show it: numpy features, log-probabilities of NeMo's model to a Python decoder.

An ensemble `naive` of three models, with Triton's own dynamic batcher or without batching. FP64 audio on the wire.
"""

import dataclasses
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import model_config_pb2

from asr_contract.artifact import MANIFEST, parse_manifest
from asr_serving import tensors
from asr_serving.tensors import SAMPLE_RATE, model_names
from asr_serving.text import Vocabulary
from model_builder import onnx_graph
from model_builder.repository.config import to_text
from model_builder.repository.layout import VERSION

NAME = "naive"
MODELS = {role: f"{role}_{NAME}" for role in ("preprocessing", "onnx", "postprocessing")}
MAX_SECONDS = 40
"""Longest audio: sizes the encoder's table of positions, like the default of a build."""
PREEMPHASIS, LOG_GUARD = 0.97, 2.0**-24
"""NeMo's defaults, for artifacts whose checkpoint does not say otherwise."""

Tensor = tuple[str, str, Sequence[int]]
"""Name, data type and dimensions, with the batch axis of 1 in front."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """What the pipeline is made of.

    Attributes:
        window: [n_fft] FP64 window, padded on both sides.
        mel: [bands, n_fft // 2 + 1] FP64 filter bank.
        hop: Samples between frames.
        preemphasis: Coefficient of the first-order pre-emphasis.
        log_guard: Added to each mel power before the logarithm.
        tokens: Of the vocabulary, without the blank.
        features: The acoustic model's name for features [1, bands, T] FP32.
        length: The acoustic model's name for valid frames.
        frames: Valid frames as the acoustic model takes them: an array of its shape and dtype.
        export: Writes the acoustic model, features and valid frames to `logprobs` [1, steps, classes], as ONNX.
    """

    window: npt.NDArray[np.float64]
    mel: npt.NDArray[np.float64]
    hop: int
    preemphasis: float
    log_guard: float
    tokens: Sequence[str]
    features: str
    length: str
    frames: npt.NDArray[Any]
    export: Callable[[Path], object]


def from_checkpoint(source: Path, scratch: Path) -> Parts:
    """Parts of a checkpoint, with NeMo's own export; `scratch` is a new folder."""
    from model_builder.checkpoint import describe, unpack  # noqa: PLC0415 (needs NeMo)
    from model_builder.nemo import Checkpoint  # noqa: PLC0415

    scratch.mkdir()
    unpack(source, scratch)
    checkpoint = Checkpoint(describe(scratch))
    parts = checkpoint.mel_parts()

    def export(path: Path) -> None:
        checkpoint.limit_audio(MAX_SECONDS * SAMPLE_RATE // int(parts["hop"]) + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer warns of each Python condition on a shape
            checkpoint.model.export(str(path))

    return Parts(
        window=_centred(parts["window"].numpy().astype(np.float64), parts["n_fft"]),
        mel=parts["mel"].numpy().astype(np.float64),
        hop=int(parts["hop"]),
        preemphasis=parts["preemphasis"],
        log_guard=parts["log_guard"],
        tokens=checkpoint.vocabulary.tokens,
        features="audio_signal",
        length="length",
        frames=np.zeros(1, np.int64),
        export=export,
    )


def from_artifact(artifact: Path, scratch: Path) -> Parts:
    """Parts of a fetched OnnxRuntime artifact, without NeMo; `scratch` is a new folder.

    The acoustic model is the artifact's own from the features on, which engines like better than NeMo's export.
    """
    import onnx  # noqa: PLC0415
    from onnx import numpy_helper  # noqa: PLC0415

    manifest = parse_manifest((artifact / MANIFEST).read_bytes(), where=str(artifact))
    names = model_names(manifest.recipe.model_name)
    scratch.mkdir()
    mel, acoustic = scratch / "mel.onnx", scratch / "acoustic.onnx"
    onnx_graph.split(artifact / names["onnx"] / VERSION / "model.onnx", mel, acoustic)
    arrays = {item.name: numpy_helper.to_array(item) for item in onnx.load(mel).graph.initializer}
    settings = manifest.model.preprocessor
    # The kernel is the window times cosines, then sines, of each frequency; the first cosine is 1.
    size = round(settings["window_size"] * SAMPLE_RATE)
    window, bank = arrays["kernel"][:size, 0].astype(np.float64), arrays["mel"].T.astype(np.float64)

    vocabulary = Vocabulary.load(artifact / names["postprocessing"] / VERSION / "vocabulary.json")
    outputs = [tensors.logprobs(len(vocabulary.tokens) + 1).name]
    onnx.utils.extract_model(str(acoustic), str(scratch / "logprobs.onnx"), list(onnx_graph.LINKS), outputs)

    return Parts(
        window=_centred(window, 2 * (bank.shape[1] - 1)),
        mel=bank,
        hop=manifest.model.hop,
        preemphasis=settings.get("preemph", PREEMPHASIS),
        log_guard=settings.get("log_zero_guard_value", LOG_GUARD),
        tokens=vocabulary.tokens,
        features=tensors.processed_signal(bank.shape[0]).name,
        length=tensors.PROCESSED_SIGNAL_LENGTH.name,
        frames=np.zeros((1, 1), np.int32),
        export=partial(shutil.copyfile, scratch / "logprobs.onnx"),
    )


def write(folder: Path, parts: Parts, *, batch: int = 0, instances: int = 1, gpu: bool = False) -> None:
    """Write the repository into the new folder `folder`.

    Args:
        folder: Where to.
        parts: What it is made of; those of an artifact if it batches.
        batch: Largest batch of Triton's dynamic batcher; 0 for a pipeline that takes one request at a time.
        instances: Processes of preprocessing and of decoding.
        gpu: The acoustic model runs on the GPU.
    """
    kind = model_config_pb2.ModelInstanceGroup
    where = {"batch": batch, "count": instances, "kind": kind.KIND_CPU}
    bands, classes = parts.mel.shape[0], len(parts.tokens) + 1
    frames = "INT64" if parts.frames.dtype == np.int64 else "INT32"
    audio: Tensor = ("audio_signal", "FP64", [1, -1])
    features: Tensor = ("features", "FP32", [1, bands, -1])
    length: Tensor = ("length", frames, parts.frames.shape)
    # The acoustic model has names of its own.
    taken: list[Tensor] = [(parts.features, *features[1:]), (parts.length, *length[1:])]
    logprobs: Tensor = ("logprobs", "FP32", [1, -1, classes])
    texts: Tensor = ("decoded_texts", "STRING", [1, 1])

    preprocessing = _model(folder, MODELS["preprocessing"], "python", [audio], [features, length], **where)
    shutil.copyfile(Path(__file__).parent / "preprocessing.py", preprocessing / "model.py")
    arrays = ("window", "mel", "hop", "preemphasis", "log_guard", "frames")
    np.savez(preprocessing / "parts.npz", **{name: getattr(parts, name) for name in arrays})

    acoustic = _model(
        folder,
        MODELS["onnx"],
        "onnxruntime",
        taken,
        [logprobs],
        **where | {"count": 1} | ({"kind": kind.KIND_GPU} if gpu else {}),
    )
    parts.export(acoustic / "model.onnx")

    postprocessing = _model(folder, MODELS["postprocessing"], "python", [logprobs], [texts], **where)
    shutil.copyfile(Path(__file__).parent / "postprocessing.py", postprocessing / "model.py")
    (postprocessing / "tokens.json").write_text(json.dumps(parts.tokens), encoding="utf-8")

    maps = (
        {"input_map": {"audio_signal": "audio_signal"}, "output_map": {"features": "features", "length": "length"}},
        {
            "input_map": {parts.features: "features", parts.length: "length"},
            "output_map": {"logprobs": "logprobs"},
        },
        {"input_map": {"logprobs": "logprobs"}, "output_map": {"decoded_texts": "decoded_texts"}},
    )
    scheduling = [
        {"model_name": name, "model_version": -1} | step for name, step in zip(MODELS.values(), maps, strict=True)
    ]
    _model(
        folder, NAME, "", [audio], [texts], batch=batch, platform="ensemble", ensemble_scheduling={"step": scheduling}
    )


def _centred(window: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """A window padded to `size` on both sides."""
    before = (size - window.size) // 2
    return np.pad(window, (before, size - window.size - before))


def _model(
    folder: Path,
    name: str,
    backend: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    batch: int,
    count: int = 1,
    kind: int = 0,
    **more: Any,  # noqa: ANN401 (fields of a protobuf message)
) -> Path:
    """Write `config.pbtxt`; returns the new folder of the only version."""

    def fields(tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
        return [
            {
                "name": tensor,
                "data_type": model_config_pb2.DataType.Value(f"TYPE_{dtype}"),
                "dims": dims[1:] if batch else dims,
            }
            for tensor, dtype, dims in tensors
        ]

    config = model_config_pb2.ModelConfig(
        name=name, backend=backend, max_batch_size=batch, input=fields(inputs), output=fields(outputs), **more
    )
    if backend:
        config.instance_group.add(kind=kind, count=count)
        if batch:
            config.dynamic_batching.SetInParent()
    if backend == "onnxruntime":
        config.default_model_filename = "model.onnx"
        # By default cuDNN tries all its algorithms at each new length, for hundreds of milliseconds: too poor a rival.
        config.parameters["cudnn_conv_algo_search"].string_value = "1"
    version = folder / name / VERSION
    version.mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(to_text(config), encoding="utf-8")
    return version
