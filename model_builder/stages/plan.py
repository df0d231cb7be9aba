"""Stage `plan`: a TensorRT plan from the checked ONNX, for the GPU of this machine."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_contract.artifact import ModelFacts
from asr_contract.errors import PlanError, StorageError
from asr_contract.recipe import Frontend, PlanTarget, Precision, Recipe
from model_builder import onnx_graph, tensorrt
from model_builder.plan_shapes import Profile
from model_builder.progress import Reporter
from model_builder.repository.config import input_dims
from model_builder.storage import Storage


def lower(model: Path, target: Path, *, recipe: Recipe, reporter: Reporter) -> dict[str, Any]:
    """Write the checked FP32 model in the recipe's precision; the mel graph stays FP32."""
    with reporter.task("precision") as task, tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        folder = Path(temporary)
        acoustic, mel, lowered = folder / "acoustic.onnx", folder / "frontend.onnx", folder / "lowered.onnx"
        if recipe.precision is Precision.FP32:
            shutil.copyfile(model, target)
        elif recipe.frontend is Frontend.NUMPY:
            onnx_graph.split(model, mel, acoustic)
            onnx_graph.lower_precision(acoustic, lowered, recipe.precision)
            onnx_graph.join(mel, lowered, target)
        else:
            onnx_graph.lower_precision(model, target, recipe.precision)
        result = onnx_graph.summary(target)
        task.note(f"{recipe.precision}  {result['nodes']} nodes  {result['bytes'] / 1e6:.1f} MB")
    return result


def input_shapes(profile: Profile, recipe: Recipe, facts: ModelFacts) -> dict[str, tensorrt.ShapeRange]:
    """Smallest, optimal and largest shape of each input in a profile."""
    batches = (profile.smallest_batch, profile.batch, profile.batch)
    ends = [input_dims(recipe, facts.features, facts.hop, samples) for samples in profile.samples]
    return {
        tensor.name: (
            (batches[0], *ends[0][tensor]),
            (batches[1], *ends[1][tensor]),
            (batches[2], *ends[2][tensor]),
        )
        for tensor in ends[0]
    }


def timing_cache_path(target: PlanTarget) -> str:
    """Where the timing cache of this GPU product and TensorRT lies, below the storage location."""
    return f"timing-caches/{target.gpu_product}/tensorrt-{target.tensorrt}.cache"


def run(
    model: Path,
    plan: Path,
    profiles: Sequence[Profile],
    *,
    recipe: Recipe,
    facts: ModelFacts,
    storage: Storage,
    limits: tensorrt.Limits,
    reporter: Reporter,
    library: str = "tensorrt",
    compute_capability: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Build `plan` from `model`, and keep the timing cache in storage for the next build on such a GPU.

    Raises:
        PlanError: TensorRT cannot parse or build it within the limits.
        StorageError: The timing cache could not be read.
    """
    if recipe.plan is None:
        raise PlanError(f"engine {recipe.engine} has no plan")
    path = timing_cache_path(recipe.plan)
    known = storage.look_up(path) or b""
    with reporter.task("plan", tensorrt.UNITS) as task:
        task.note(f"{len(profiles)} profiles for {recipe.plan.gpu_product}")
        built = tensorrt.build(
            model,
            [input_shapes(profile, recipe, facts) for profile in profiles],
            limits=limits,
            timing_cache=known,
            task=task,
            library=library,
            compute_capability=compute_capability,
        )
        plan.write_bytes(built.plan)
        warm = f"from a timing cache of {len(known) / 1e6:.1f} MB" if known else "no timing cache yet"
        task.note(f"{len(profiles)} profiles  {len(built.plan) / 1e6:.1f} MB  {built.seconds:.0f} s  {warm}")
    _keep(storage, path, built.timing_cache, plan.parent, reporter)
    return {
        "profiles": [
            {"batch": [profile.smallest_batch, profile.batch], "samples": list(profile.samples)} for profile in profiles
        ],
        "bytes": len(built.plan),
        "build_seconds": round(built.seconds, 1),
        "timing_cache_bytes": [len(known), len(built.timing_cache)],
    }


def _keep(storage: Storage, path: str, cache: bytes, folder: Path, reporter: Reporter) -> None:
    """Write the timing cache. It only saves time, so a build does not fail because of it."""
    if not cache:
        return
    local = folder / "timing.cache"
    local.write_bytes(cache)
    try:
        storage.upload(path, local)
    except StorageError as error:
        reporter.info(f"the timing cache could not be kept; the next build will take as long: {error}")
