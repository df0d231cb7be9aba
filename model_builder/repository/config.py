"""`config.pbtxt` of each model, as protobuf messages. Adapter of tritonclient's protobuf. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from asr_serving import tensors
from asr_serving.batching import Grid
from asr_serving.tensors import Tensor, model_names
from model_builder.recipe import Engine, Frontend, Recipe

QUEUE_DELAY_MICROSECONDS = 2_000
"""How long the models of the ensembles wait for company. The scheduler model needs no delay."""


def _dtype(tensor: Tensor) -> int:
    return int(model_config_pb2.DataType.Value(f"TYPE_{tensor.dtype}"))


def _config(
    name: str, backend: str, *, inputs: Sequence[Tensor], outputs: Sequence[Tensor], max_batch_size: int
) -> Any:  # noqa: ANN401
    return model_config_pb2.ModelConfig(
        name=name,
        backend=backend,
        max_batch_size=max_batch_size,
        input=[{"name": tensor.name, "data_type": _dtype(tensor), "dims": tensor.dims} for tensor in inputs],
        output=[{"name": tensor.name, "data_type": _dtype(tensor), "dims": tensor.dims} for tensor in outputs],
    )


def _warm_up(config: Any, name: str, inputs: Iterable[tuple[Tensor, Sequence[int]]], *, batch_size: int) -> None:  # noqa: ANN401
    sample = config.model_warmup.add(name=name, batch_size=batch_size)
    for tensor, dims in inputs:
        value = sample.inputs[tensor.name]
        value.data_type = _dtype(tensor)
        value.dims.extend(dims)
        value.zero_data = True


def _on_cpu(config: Any, count: int) -> None:  # noqa: ANN401
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=count)


def acoustic_inputs(recipe: Recipe, features: int) -> tuple[Tensor, Tensor]:
    """What the acoustic model takes: audio, or features when NeMo's preprocessor runs in front of it."""
    if recipe.frontend is Frontend.NUMPY:
        return tensors.AUDIO, tensors.AUDIO_LENGTH
    return tensors.processed_signal(features), tensors.PROCESSED_SIGNAL_LENGTH


def model_configs(recipe: Recipe, *, grid: Grid, features: int, classes: int, hop: int) -> dict[str, Any]:
    """All models of the repository.

    Args:
        recipe: What is built.
        grid: The padded shapes that the acoustic model is warmed up with.
        features: Mel bands.
        classes: Vocabulary and blank.
        hop: Samples between feature frames.

    Returns:
        `ModelConfig` messages by model name.
    """
    if recipe.engine is not Engine.ONNX_RUNTIME:
        raise NotImplementedError(recipe.engine)
    names = model_names(recipe.model_name)
    signal = tensors.audio_signal(recipe.wire)
    audio, length = acoustic_inputs(recipe, features)

    preprocessing = _config(
        names["preprocessing"], "python", inputs=[signal], outputs=[audio, length], max_batch_size=recipe.max_batch_size
    )
    preprocessing.input[0].allow_ragged_batch = True
    preprocessing.dynamic_batching.SetInParent()
    _on_cpu(preprocessing, 1)
    _warm_up(preprocessing, "shortest", [(signal, [grid.shapes[0].samples])], batch_size=1)

    acoustic = _config(
        names["onnx"],
        "onnxruntime",
        inputs=[audio, length],
        outputs=[*tensors.ACOUSTIC, tensors.logprobs(classes)],
        max_batch_size=recipe.max_batch_size,
    )
    acoustic.default_model_filename = "model.onnx"
    acoustic.dynamic_batching.max_queue_delay_microseconds = QUEUE_DELAY_MICROSECONDS
    acoustic.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_AUTO, count=1)
    # cuDNN tries every algorithm at each new shape otherwise, for hundreds of milliseconds. CPU ignores it.
    acoustic.parameters["cudnn_conv_algo_search"].string_value = "1"
    for shape in (grid.shapes[0], grid.shapes[-1]):
        variable = shape.samples if audio is tensors.AUDIO else shape.samples // hop + 1
        dims = [variable if size < 0 else size for size in audio.dims]
        _warm_up(acoustic, f"{variable}x1", [(audio, dims), (length, [1])], batch_size=1)

    postprocessing = _config(
        names["postprocessing"],
        "python",
        inputs=tensors.ACOUSTIC,
        outputs=tensors.TRANSCRIPT,
        max_batch_size=recipe.max_batch_size,
    )
    for tensor in postprocessing.input:
        tensor.allow_ragged_batch = True
    postprocessing.dynamic_batching.SetInParent()
    _on_cpu(postprocessing, 1)
    _warm_up(
        postprocessing,
        "ten_steps",
        [(tensors.TOKENS, [10]), (tensors.TOKEN_LOGPROBS, [10]), (tensors.ENCODED_LENGTH, [1])],
        batch_size=1,
    )

    scheduler = _config(
        names["scheduler"],
        "python",
        inputs=[signal],
        outputs=tensors.TRANSCRIPT,
        max_batch_size=max(64, recipe.max_batch_size),
    )
    scheduler.input[0].allow_ragged_batch = True
    scheduler.dynamic_batching.SetInParent()
    _on_cpu(scheduler, 1)
    # No warm-up: Triton refuses calls between models ("Server not ready") until every model is loaded. The acoustic
    # model has a warm-up of its own, and the server is ready only when all models are.

    ensemble = _ensemble(
        names["ensemble"],
        steps=[
            (names["preprocessing"], [signal], [audio, length]),
            (names["onnx"], [audio, length], tensors.ACOUSTIC),
            (names["postprocessing"], tensors.ACOUSTIC, tensors.TRANSCRIPT),
        ],
    )
    return {config.name: config for config in (preprocessing, acoustic, postprocessing, scheduler, ensemble)}


def _ensemble(name: str, *, steps: Sequence[tuple[str, Sequence[Tensor], Sequence[Tensor]]]) -> Any:  # noqa: ANN401
    """Chain models, each with what it takes and gives; every tensor keeps its name on the way."""
    # One utterance a request: a batch of two is refused at the door, before it can meet other requests.
    config = _config(name, "", inputs=steps[0][1], outputs=steps[-1][2], max_batch_size=1)
    config.platform = "ensemble"
    for model, taken, given in steps:
        config.ensemble_scheduling.step.add(
            model_name=model,
            model_version=-1,
            input_map={tensor.name: tensor.name for tensor in taken},
            output_map={tensor.name: tensor.name for tensor in given},
        )
    return config


def to_text(config: Any) -> str:  # noqa: ANN401
    """`config.pbtxt` of a model."""
    return str(text_format.MessageToString(config))
