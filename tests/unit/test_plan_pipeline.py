from dataclasses import replace
from pathlib import Path

import pytest

from asr_contract.artifact import Manifest
from asr_contract.errors import ArtifactError, IncompatiblePlanError, PlanError
from asr_contract.recipe import Engine, Precision
from model_builder.cuda import Gpu
from model_builder.plan_pipeline import Options, check_server, recipe_for, shapes_for
from model_builder.plan_shapes import Geometry
from tests.unit.test_artifact import manifest
from tests.unit.test_recipe import example

H200 = Gpu("NVIDIA-H200", "9.0", 141 * 1024**3, "13.0")
OPTIONS = Options(artifact="s3://asr-models/english_stt/abc", storage="s3://asr-models", work=Path("work"))


def artifact(**changes: object) -> Manifest:
    return manifest("english_stt/config.pbtxt").model_copy(update={"recipe": example(**changes)})


def test_a_plan_keeps_the_settings_of_the_onnx_artifact_and_names_what_it_is_for() -> None:
    source = artifact(max_audio_seconds=20, wire="FLOAT32")
    recipe = recipe_for(OPTIONS, source, H200, "10.6.0")
    assert (recipe.max_audio_seconds, recipe.wire) == (20, "FLOAT32")
    assert (recipe.engine, recipe.precision) == (Engine.TENSORRT, Precision.FP16)
    assert recipe.plan is not None
    assert recipe.plan.model_dump() == {
        "onnx_repository": source.repository,
        "gpu_product": "NVIDIA-H200",
        "compute_capability": "9.0",
        "tensorrt": "10.6.0",
        "shapes": (),
    }


def test_plans_are_built_from_fp32_onnx_only() -> None:
    with pytest.raises(ArtifactError, match="built from an OnnxRuntime artifact in FP32"):
        recipe_for(OPTIONS, artifact(precision="FP16"), H200, "10.6.0")


@pytest.mark.parametrize("serving", ["10.7.0", "11.0.0.114", "10.6.1"])
def test_a_server_with_another_tensorrt_is_refused_before_the_build(serving: str) -> None:
    with pytest.raises(IncompatiblePlanError, match=f"TensorRT 10.6.0, the server {serving}"):
        check_server("10.6.0", serving)


@pytest.mark.parametrize("serving", [None, "10.6.0", "10.6.0.26", "10.6"])
def test_a_server_with_the_same_tensorrt_or_one_that_is_not_known_is_fine(serving: str | None) -> None:
    check_server("10.6.0", serving)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((20.0, 8),), "no shape holds audio of 40 s"),
        (((40.0, 8), (60.0, 4)), "and the model serves 40 s: leave that shape out"),
        (((40.0, 500),), "the largest batch of that length is"),
    ],
)
def test_shapes_that_the_model_or_tensorrt_cannot_have_are_refused(
    shapes: tuple[tuple[float, int], ...], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        shapes_for(replace(OPTIONS, shapes=shapes), example(), Geometry(160, 80, 256), H200)


def test_shapes_that_a_user_asks_for_are_taken_padded() -> None:
    shapes = shapes_for(replace(OPTIONS, shapes=((40.0, 8), (10.0, 32))), example(), Geometry(160, 80, 256), H200)
    assert shapes == [(163_680, 32), (644_960, 8)]
