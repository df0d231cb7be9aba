"""`config.pbtxt` of each model, as protobuf messages. Adapter of tritonclient's protobuf. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from asr_contract.recipe import Engine, Frontend, Recipe
from asr_serving import tensors
from asr_serving.batching import Grid
from asr_serving.tensors import Tensor, model_names
from model_builder.plan_shapes import Profile

PLAN_FILE = "model.plan"
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
        return tensors.audio(recipe.wire), tensors.AUDIO_LENGTH
    return tensors.processed_signal(features), tensors.PROCESSED_SIGNAL_LENGTH


@dataclass(frozen=True, slots=True)
class Served:
    """How the acoustic models run.

    Attributes:
        grid: The padded shapes of batches.
        plan: Profiles of the TensorRT plan, in its order; empty where there is none.
        instances: Of the TensorRT model: how many batches the GPU works on at once.
        graphs: Length in samples and batch of each shape that is started as a CUDA graph.
        schedulers: Processes of the scheduler model, each with batches of its own: one does not keep a large GPU busy.
    """

    grid: Grid
    plan: tuple[Profile, ...] = ()
    instances: int = 1
    graphs: tuple[tuple[int, int], ...] = ()
    schedulers: int = 1


def model_configs(recipe: Recipe, *, served: Served, features: int, classes: int, hop: int) -> dict[str, Any]:
    """All models of the repository.

    Args:
        recipe: What is built.
        served: How the acoustic models run.
        features: Mel bands.
        classes: Vocabulary and blank.
        hop: Samples between feature frames.

    Returns:
        `ModelConfig` messages by model name.
    """
    names = model_names(recipe.model_name)
    signal = tensors.audio_signal(recipe.wire)
    audio, length = acoustic_inputs(recipe, features)

    preprocessing = _config(
        names["preprocessing"], "python", inputs=[signal], outputs=[audio, length], max_batch_size=recipe.max_batch_size
    )
    preprocessing.input[0].allow_ragged_batch = True
    preprocessing.dynamic_batching.SetInParent()
    _on_cpu(preprocessing, 1)
    _warm_up(preprocessing, "shortest", [(signal, [served.grid.shapes[0].samples])], batch_size=1)

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
    _on_cpu(scheduler, served.schedulers)
    # No warm-up: Triton refuses calls between models ("Server not ready") until every model is loaded. The acoustic
    # model has a warm-up of its own, and the server is ready only when all models are.

    acoustic = [
        _onnx(names["onnx"], recipe, served.grid, features=features, classes=classes, hop=hop)
        if role == "onnx"
        else _tensorrt(names["tensorrt"], recipe, served, features=features, classes=classes, hop=hop)
        for role in acoustic_roles(recipe)
    ]
    ensembles = [
        _ensemble(
            names["ensemble" if role == "onnx" else "ensemble_tensorrt"],
            steps=[
                (names["preprocessing"], [signal], [audio, length]),
                (names[role], [audio, length], tensors.ACOUSTIC),
                (names["postprocessing"], tensors.ACOUSTIC, tensors.TRANSCRIPT),
            ],
        )
        for role in acoustic_roles(recipe)
    ]
    for config in (scheduler, *ensembles):
        config.parameters[tensors.MAX_AUDIO_SECONDS].string_value = str(recipe.max_audio_seconds)
    return {config.name: config for config in (preprocessing, *acoustic, postprocessing, scheduler, *ensembles)}


def acoustic_roles(recipe: Recipe) -> tuple[str, ...]:
    """Roles of the acoustic models in the repository; the scheduler calls the last one."""
    return {Engine.ONNX_RUNTIME: ("onnx",), Engine.TENSORRT: ("tensorrt",), Engine.BOTH: ("onnx", "tensorrt")}[
        recipe.engine
    ]


def input_dims(recipe: Recipe, features: int, hop: int, samples: int) -> dict[Tensor, list[int]]:
    """Dimensions of the acoustic model's inputs for one utterance of this padded length."""
    audio, length = acoustic_inputs(recipe, features)
    variable = {tensors.AUDIO: samples, tensors.AUDIO_PCM16: 2 * samples}.get(audio, samples // hop + 1)
    return {audio: [variable if size < 0 else size for size in audio.dims], length: list(length.dims)}


def _onnx(name: str, recipe: Recipe, grid: Grid, *, features: int, classes: int, hop: int) -> Any:  # noqa: ANN401
    config = _config(
        name,
        "onnxruntime",
        inputs=acoustic_inputs(recipe, features),
        outputs=[*tensors.ACOUSTIC, tensors.logprobs(classes)],
        max_batch_size=recipe.max_batch_size,
    )
    config.default_model_filename = "model.onnx"
    config.dynamic_batching.max_queue_delay_microseconds = QUEUE_DELAY_MICROSECONDS
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_AUTO, count=1)
    # cuDNN tries every algorithm at each new shape otherwise, for hundreds of milliseconds. CPU ignores it.
    config.parameters["cudnn_conv_algo_search"].string_value = "1"
    for shape in (grid.shapes[0], grid.shapes[-1]):
        dims = input_dims(recipe, features, hop, shape.samples)
        _warm_up(config, f"{next(iter(dims.values()))[-1]}x1", dims.items(), batch_size=1)
    return config


def _tensorrt(name: str, recipe: Recipe, served: Served, *, features: int, classes: int, hop: int) -> Any:  # noqa: ANN401
    config = _config(
        name,
        "tensorrt",
        inputs=acoustic_inputs(recipe, features),
        outputs=[*tensors.ACOUSTIC, tensors.logprobs(classes)],
        max_batch_size=max(profile.batch for profile in served.plan),
    )
    config.platform = "tensorrt_plan"  # without it Triton refuses to be told of profiles
    config.default_model_filename = PLAN_FILE
    # No dynamic batching: it knows one limit for all lengths, and joins two batches of long audio into one that no
    # profile takes. Whole batches come from the scheduler model.
    config.instance_group.add(
        kind=model_config_pb2.ModelInstanceGroup.KIND_GPU,
        count=served.instances,
        profile=[str(index) for index in range(len(served.plan))],
    )
    if served.graphs:
        config.optimization.cuda.graphs = True
    for samples, batch in served.graphs:
        spec = config.optimization.cuda.graph_spec.add(batch_size=batch)
        for tensor, sizes in input_dims(recipe, features, hop, samples).items():
            spec.input[tensor.name].dim.extend(sizes)
    for profile in served.plan:
        dims = input_dims(recipe, features, hop, profile.samples[1])
        _warm_up(config, f"{profile.batch}x{profile.samples[1]}", dims.items(), batch_size=profile.batch)
    return config


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
