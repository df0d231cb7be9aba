import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from asr_contract.recipe import Engine, Frontend, PlanTarget, Precision, Recipe, Wire, build_key

DIGESTS = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
TARGET = {
    "onnx_repository": "d" * 64,
    "gpu_product": "NVIDIA-H200",
    "compute_capability": "9.0",
    "tensorrt": "10.6.0",
}
targets = st.builds(
    PlanTarget,
    onnx_repository=DIGESTS,
    gpu_product=st.from_regex(r"NVIDIA-[A-Z0-9]{1,9}(-MIG-1g\.5gb)?", fullmatch=True),
    compute_capability=st.from_regex(r"[0-9]{1,2}\.[0-9]", fullmatch=True),
    tensorrt=st.from_regex(r"[0-9]{1,2}\.[0-9]{1,2}\.[0-9]", fullmatch=True),
)


def _is_consistent(settings: dict[str, Any]) -> bool:
    return bool(settings["engine"].has_plan or settings["precision"] is not Precision.BF16)


settings = st.fixed_dictionaries(
    {
        "model_name": st.from_regex(r"[a-z][a-z0-9_]{0,39}", fullmatch=True).filter(
            lambda name: not name.startswith(("preprocessing_", "postprocessing_", "onnx_", "tensorrt_", "ensemble_"))
        ),
        "checkpoint_sha256": DIGESTS,
        "check_audio_sha256": DIGESTS,
        "engine": st.sampled_from(Engine),
        "precision": st.sampled_from(Precision),
        "frontend": st.sampled_from(Frontend),
        "wire": st.sampled_from(Wire),
        "max_audio_seconds": st.integers(1, 600),
        "max_batch_size": st.integers(1, 512),
    }
).filter(_is_consistent)
recipes = st.builds(
    lambda chosen, target: Recipe.model_validate(chosen | {"plan": target if chosen["engine"].has_plan else None}),
    settings,
    targets,
)


def example(**changes: object) -> Recipe:
    return Recipe.model_validate(
        {"model_name": "english_stt", "checkpoint_sha256": "a" * 64, "check_audio_sha256": "b" * 64} | changes
    )


def test_the_build_key_of_a_known_recipe_never_changes() -> None:
    # A change here makes every published artifact unknown: raise ARTIFACT_FORMAT only when the output changes.
    assert build_key(example()) == "819d5f98498e2b045119dc3d474f83de5cfd9de69b220f40d586338be97b38cf"


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
    "name",
    [
        "english_stt",
        "stt_en_fastconformer_hybrid_large_streaming_multi",
        "parakeet-tdt_ctc-110m",
        "parakeet-tdt-0.6b-v2",
        "STT-German",
        "1b-model",
        "a" * 96,
    ],
)
def test_names_of_the_hub_are_names_of_models(name: str) -> None:
    assert example(model_name=name).model_name == name


@pytest.mark.parametrize(
    "name",
    ["", "a" * 97, "nvidia/english", "ensemble_english", ".english", "-english", "english.", "a..b", "a b", "a;b"],
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


@pytest.mark.parametrize(
    "changes",
    [{"engine": "TensorRT"}, {"engine": "Both"}, {"plan": TARGET}, {"precision": "BF16"}],
)
def test_a_plan_target_goes_with_a_plan_and_bf16_too(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"plan target|BF16 is for TensorRT"):
        example(**changes)


@pytest.mark.parametrize(
    "change",
    [{"gpu_product": "NVIDIA-L4"}, {"tensorrt": "10.7.0"}, {"onnx_repository": "e" * 64}, {"shapes": ((15.0, 64),)}],
)
def test_a_plan_for_another_gpu_tensorrt_model_or_shape_is_another_artifact(change: dict[str, object]) -> None:
    one = example(engine="TensorRT", precision="FP16", plan=TARGET)
    other = example(engine="TensorRT", precision="FP16", plan=TARGET | change)
    assert build_key(one) != build_key(other)
