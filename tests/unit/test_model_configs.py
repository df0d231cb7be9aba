"""The configurations of the models, as text files that one can read: `tests/golden/repository/<model>.pbtxt`."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from tritonclient.grpc import model_config_pb2

from asr_contract.recipe import Recipe
from asr_serving.batching import Grid, Shape
from model_builder.plan_shapes import profiles
from model_builder.repository.config import Served, model_configs, to_text
from model_builder.repository.layout import grid_for, served_by_onnx
from tests.unit.test_recipe import TARGET, example, recipes

GOLDEN = Path(__file__).parents[1] / "golden" / "repository"
ONNX = (
    "preprocessing_english_stt",
    "onnx_english_stt",
    "postprocessing_english_stt",
    "ensemble_english_stt",
    "english_stt",
)
PLAN = ("tensorrt_english_stt", "ensemble_tensorrt_english_stt")
SHAPES = [(80_000, 32), (240_000, 8)]


def served(recipe: Recipe) -> Served:
    if not recipe.engine.has_plan:
        return served_by_onnx(recipe)
    shapes = tuple(Shape(samples, batch, 1.0) for samples, batch in SHAPES)
    return Served(Grid(shapes, 0.7), plan=tuple(profiles(SHAPES)), instances=2, graphs=((240_000, 1),))


def texts(recipe: Recipe) -> dict[str, str]:
    configs = model_configs(recipe, served=served(recipe), features=80, classes=321, hop=160)
    return {name: to_text(config) for name, config in configs.items()}


@pytest.mark.parametrize("model", ONNX)
def test_the_configuration_is_the_golden_one(model: str) -> None:
    assert texts(example())[model] == (GOLDEN / f"{model}.pbtxt").read_text()


@pytest.mark.parametrize("model", PLAN)
def test_the_configuration_of_a_plan_is_the_golden_one(model: str) -> None:
    recipe = example(engine="TensorRT", precision="FP16", plan=TARGET)
    assert texts(recipe)[model] == (GOLDEN / f"{model}.pbtxt").read_text()


@pytest.mark.parametrize(
    ("engine", "models"),
    [
        ("OnnxRuntime", set(ONNX)),
        ("TensorRT", set(ONNX) - {"onnx_english_stt", "ensemble_english_stt"} | set(PLAN)),
        ("Both", {*ONNX, *PLAN}),
    ],
)
def test_every_engine_has_its_models_and_an_ensemble_and_all_have_n(engine: str, models: set[str]) -> None:
    assert set(texts(example(engine=engine, plan=None if engine == "OnnxRuntime" else TARGET))) == models


@settings(max_examples=60)
@given(recipes)
def test_every_valid_recipe_gives_configurations_that_parse(recipe: Recipe) -> None:
    for name, text in texts(recipe).items():
        assert text_format.Parse(text, model_config_pb2.ModelConfig()).name == name


@settings(max_examples=40)
@given(recipes)
def test_the_grid_rises_to_the_longest_audio(recipe: Recipe) -> None:
    lengths = [shape.samples for shape in grid_for(recipe).shapes]
    assert lengths == sorted(set(lengths))
    assert lengths[-1] == recipe.max_audio_seconds * 16_000
