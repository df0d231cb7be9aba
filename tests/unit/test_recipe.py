import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model_builder.recipe import Engine, Frontend, Precision, Recipe, Wire, build_key

recipes = st.builds(
    Recipe,
    model_name=st.from_regex(r"[a-z][a-z0-9_]{0,39}", fullmatch=True).filter(
        lambda name: not name.startswith(("preprocessing_", "postprocessing_", "onnx_", "tensorrt_", "ensemble_"))
    ),
    checkpoint_sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    check_audio_sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    engine=st.sampled_from(Engine),
    precision=st.sampled_from(Precision),
    frontend=st.sampled_from(Frontend),
    wire=st.sampled_from(Wire),
    max_audio_seconds=st.integers(1, 600),
    max_batch_size=st.integers(1, 512),
)


def example(**changes: object) -> Recipe:
    return Recipe.model_validate(
        {"model_name": "english_stt", "checkpoint_sha256": "a" * 64, "check_audio_sha256": "b" * 64} | changes
    )


def test_the_build_key_of_a_known_recipe_never_changes() -> None:
    # A change here makes every published artifact unknown: raise ARTIFACT_FORMAT only when the output changes.
    assert build_key(example()) == "de5d29b089e5574993e9c44078327ea8499d7c5287d2fb107162ae997decc3f6"


@given(recipes)
def test_a_recipe_survives_its_canonical_json(recipe: Recipe) -> None:
    assert Recipe.model_validate_json(recipe.canonical_json()) == recipe


@given(recipes, recipes)
def test_only_equal_recipes_have_equal_keys(one: Recipe, other: Recipe) -> None:
    assert (build_key(one) == build_key(other)) == (one == other)


def test_canonical_json_has_sorted_keys_and_no_spaces() -> None:
    text = example().canonical_json().decode()
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert " " not in text


@pytest.mark.parametrize(
    "name", ["", "English", "english-stt", "1english", "a" * 41, "english/stt", "ensemble_english"]
)
def test_names_that_triton_or_storage_would_not_take_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=r"model_name|names a part of the repository"):
        example(model_name=name)


def test_a_reserved_name_is_refused_with_a_better_one() -> None:
    with pytest.raises(ValidationError, match="use 'english_stt'"):
        example(model_name="ensemble_english_stt")


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="max_batch"):
        example(max_batch=8)
