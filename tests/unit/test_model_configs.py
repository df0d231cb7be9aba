"""The configurations of the models, as text files that one can read: `tests/golden/repository/<model>.pbtxt`."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from tritonclient.grpc import model_config_pb2

from model_builder.recipe import Engine, Recipe
from model_builder.repository.config import model_configs, to_text
from model_builder.repository.layout import grid_for
from tests.unit.test_recipe import example, recipes

GOLDEN = Path(__file__).parents[1] / "golden" / "repository"
MODELS = (
    "preprocessing_english_stt",
    "onnx_english_stt",
    "postprocessing_english_stt",
    "ensemble_english_stt",
    "english_stt",
)


def texts(recipe: Recipe) -> dict[str, str]:
    configs = model_configs(recipe, grid=grid_for(recipe), features=80, classes=321, hop=160)
    return {name: to_text(config) for name, config in configs.items()}


@pytest.mark.parametrize("model", MODELS)
def test_the_configuration_is_the_golden_one(model: str) -> None:
    assert texts(example())[model] == (GOLDEN / f"{model}.pbtxt").read_text()


def test_the_repository_has_these_models() -> None:
    assert set(texts(example())) == set(MODELS)


@settings(max_examples=40)
@given(recipes.filter(lambda recipe: recipe.engine is Engine.ONNX_RUNTIME))
def test_every_valid_recipe_gives_configurations_that_parse(recipe: Recipe) -> None:
    for name, text in texts(recipe).items():
        assert text_format.Parse(text, model_config_pb2.ModelConfig()).name == name


@settings(max_examples=40)
@given(recipes.filter(lambda recipe: recipe.engine is Engine.ONNX_RUNTIME))
def test_the_grid_rises_to_the_longest_audio(recipe: Recipe) -> None:
    lengths = [shape.samples for shape in grid_for(recipe).shapes]
    assert lengths == sorted(set(lengths))
    assert lengths[-1] == recipe.max_audio_seconds * 16_000
