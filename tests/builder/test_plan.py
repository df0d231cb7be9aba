"""The plan stage without a GPU, through TensorRT for RTX: parser, profiles, precision, serialisation, errors.

Plans of the real TensorRT, their speed and their transcripts are measured on GPUs: `benchmarks`.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr_contract.artifact import ModelFacts, parse_manifest
from asr_contract.errors import IncompatiblePlanError, PlanError
from asr_contract.recipe import Recipe
from asr_serving.frontend import plain
from model_builder import audio_set, onnx_graph, plan_shapes, tensorrt
from model_builder.progress import NullReporter
from model_builder.stages import plan
from model_builder.storage import Storage
from tests.builder.conftest import Builder, Built
from tests.unit.test_recipe import TARGET, example

QUIET = NullReporter()
SHAPES = [(plan_shapes.padded_length(4), 4)]
ADA = (8, 9)


@pytest.fixture(scope="module")
def model(repository: Path) -> Path:
    """The checked FP32 model of the demo checkpoint."""
    return repository / "onnx_english_stt" / "1" / "model.onnx"


@pytest.fixture(scope="module")
def facts(repository: Path) -> ModelFacts:
    return parse_manifest((repository / "manifest.json").read_bytes(), where="repository").model


def recipe(precision: str) -> Recipe:
    return example(engine="TensorRT", precision=precision, plan=TARGET)


def planned(model: Path, folder: Path, facts: ModelFacts, precision: str, **limits: Any) -> dict[str, Any]:  # noqa: ANN401
    """Lower and plan `model` into `folder`."""
    folder.mkdir(exist_ok=True)
    plan.lower(model, folder / "lowered.onnx", recipe=recipe(precision), reporter=QUIET)
    return plan.run(
        folder / "lowered.onnx",
        folder / "model.plan",
        plan_shapes.profiles(SHAPES),
        recipe=recipe(precision),
        facts=facts,
        storage=Storage(folder.as_uri()),
        limits=tensorrt.Limits(**limits),
        reporter=QUIET,
        library="tensorrt_rtx",
        compute_capability=ADA,
    )


def weights(path: Path) -> dict[str, int]:
    """Bytes of the weights by element type."""
    import onnx  # noqa: PLC0415

    found: dict[str, int] = {}
    for tensor in onnx.load(path).graph.initializer:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        found[name] = found.get(name, 0) + len(tensor.raw_data)
    return found


@pytest.fixture(scope="module")
def half(model: Path, facts: ModelFacts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("half")
    return folder, planned(model, folder, facts, "FP16")


def test_a_plan_is_built_with_a_profile_for_each_shape_and_one_for_single_utterances(
    half: tuple[Path, dict[str, Any]],
) -> None:
    folder, figures = half
    assert [item["batch"] for item in figures["profiles"]] == [[1, 1], [2, 4]]
    assert (folder / "model.plan").stat().st_size == figures["bytes"] > 0


def test_half_precision_reaches_the_plan(
    half: tuple[Path, dict[str, Any]], model: Path, facts: ModelFacts, tmp_path: Path
) -> None:
    full = planned(model, tmp_path / "full", facts, "FP32")
    assert half[1]["bytes"] < 0.8 * full["bytes"]


def test_the_timing_cache_is_kept_in_storage_by_gpu_and_tensorrt(half: tuple[Path, dict[str, Any]]) -> None:
    assert (half[0] / "timing-caches" / "NVIDIA-H200" / "tensorrt-10.6.0.cache").stat().st_size > 0


def test_a_foreign_timing_cache_costs_time_only(model: Path, facts: ModelFacts, tmp_path: Path) -> None:
    cache = tmp_path / "timing-caches" / "NVIDIA-H200" / "tensorrt-10.6.0.cache"
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"not a timing cache at all")
    assert planned(model, tmp_path, facts, "FP16")["bytes"] > 0
    assert cache.read_bytes() != b"not a timing cache at all"


@pytest.mark.parametrize(("precision", "name"), [("FP16", "FLOAT16"), ("BF16", "BFLOAT16")])
def test_weights_are_in_the_precision_and_the_mel_graph_stays_fp32(
    model: Path, tmp_path: Path, precision: str, name: str
) -> None:
    plan.lower(model, tmp_path / "lowered.onnx", recipe=recipe(precision), reporter=QUIET)
    import onnx  # noqa: PLC0415

    found = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "lowered.onnx").graph.initializer}
    assert found["frontend/kernel"] == found["frontend/mel"] == onnx.TensorProto.FLOAT
    sizes = weights(tmp_path / "lowered.onnx")
    assert sizes[name] > 3_000_000
    mel = sum(len(t.raw_data) for t in onnx.load(tmp_path / "lowered.onnx").graph.initializer if "frontend/" in t.name)
    assert sizes["FLOAT"] < 1.1 * mel


def test_a_model_taken_apart_and_joined_again_gives_the_same(model: Path, tmp_path: Path) -> None:
    mel, acoustic, again = (tmp_path / name for name in ("mel.onnx", "acoustic.onnx", "again.onnx"))
    onnx_graph.split(model, mel, acoustic)
    onnx_graph.join(mel, acoustic, again)
    signals = [np.zeros(17_000, dtype=np.int16)]
    feed = plain(*audio_set.in_noise(signals, batch=2, samples=30_000, wire="PCM16"))
    before, after = onnx_graph.Session(model).run(feed), onnx_graph.Session(again).run(feed)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_the_graph_takes_the_length_that_a_plan_pads_the_longest_audio_to(model: Path) -> None:
    samples = plan_shapes.padded_length(recipe("FP32").max_audio_seconds)
    given = onnx_graph.Session(model).run(plain(*audio_set.in_noise([], batch=1, samples=samples, wire="PCM16")))
    assert given["encoded_length"].item() == given["tokens"].shape[1] > samples / 160 / 8


def test_an_operator_that_tensorrt_lacks_is_named(model: Path, facts: ModelFacts, tmp_path: Path) -> None:
    import onnx  # noqa: PLC0415

    changed = onnx.load(model)
    node = next(node for node in changed.graph.node if node.op_type == "Softmax")
    node.op_type, node.domain = "Softmaxx", "somebody.else"
    changed.opset_import.add(domain="somebody.else", version=1)
    onnx.save(changed, tmp_path / "changed.onnx")
    with pytest.raises(PlanError, match=f"cannot take changed.onnx: Softmaxx {re.escape(node.name)}"):
        plan.run(
            tmp_path / "changed.onnx",
            tmp_path / "model.plan",
            plan_shapes.profiles(SHAPES),
            recipe=recipe("FP32"),
            facts=facts,
            storage=Storage(tmp_path.as_uri()),
            limits=tensorrt.Limits(),
            reporter=QUIET,
            library="tensorrt_rtx",
            compute_capability=ADA,
        )


def test_a_build_that_takes_too_long_is_stopped_and_leaves_no_plan(
    model: Path, facts: ModelFacts, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match="was not built within 1 s"):
        planned(model, tmp_path, facts, "FP16", seconds=1.0)
    assert not (tmp_path / "model.plan").exists()


def test_a_plan_cut_short_is_refused(half: tuple[Path, dict[str, Any]]) -> None:
    content = (half[0] / "model.plan").read_bytes()
    with pytest.raises(IncompatiblePlanError, match="cannot load the plan"):
        tensorrt.Plan(content[: len(content) // 2], library="tensorrt_rtx")


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="gpu: this machine has one")
def test_without_a_gpu_a_plan_is_refused_with_its_own_exit_code_and_nothing_is_published(
    builder: Builder, built: Built, tmp_path: Path
) -> None:
    done = builder.run(
        *("plan", built.uri, "--storage", f"{builder.s3.uri}/plans", "--work", str(tmp_path / "work")),
    )
    assert done.returncode == 42
    assert "plans are built on the GPU that they are for" in done.stderr
    assert not (builder.s3.folder / "plans").exists()


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="gpu: this machine has one")
def test_without_a_gpu_a_build_with_a_plan_is_refused_before_anything_is_exported(
    builder: Builder, demo_checkpoint: Path, tmp_path: Path
) -> None:
    done = builder.run(
        *("build", "--source", str(demo_checkpoint), "--name", "english_stt", "--engine", "tensorrt"),
        *("--storage", f"{builder.s3.uri}/plans", "--work", str(tmp_path / "work")),
    )
    assert done.returncode == 42
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    "shape", ["15", "15x", "x64", "0x8", "15x0", "-1x8", "1e9x8", "99999x8", "15x9999", "9" * 500 + "x1"]
)
def test_a_shape_that_is_none_is_refused(builder: Builder, built: Built, shape: str) -> None:
    done = builder.run("plan", built.uri, "--storage", f"{builder.s3.uri}/plans", f"--shape={shape}")
    assert done.returncode == 2
    assert "such as 15x64" in " ".join(done.stderr.replace("│", " ").split())
