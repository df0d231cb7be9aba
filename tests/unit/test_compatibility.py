"""The one rule of where a TensorRT plan runs, and that builder, operator, pods and diagnosis follow it."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_contract.artifact import Manifest
from asr_contract.compatibility import Aspect, Platform, difference, is_version_of, missing, release, same_tensorrt
from asr_contract.errors import IncompatiblePlanError
from asr_contract.recipe import Engine, PlanTarget
from asr_operator.api import v1alpha1 as api
from asr_operator.decide import incompatibility
from asr_operator.diagnose.plans import State, plans
from asr_operator.diagnose.snapshot import Snapshot
from asr_operator.render import deployment, pods
from model_builder import artifact_store, driver
from tests.support.operator import manifest as resource_of
from tests.support.operator_examples import context, example, plan_for
from tests.unit.test_artifact import manifest
from tests.unit.test_recipe import example as recipe

NUMBERS = st.lists(st.integers(0, 3), min_size=1, max_size=5)
VERSIONS = NUMBERS.map(lambda numbers: ".".join(map(str, numbers)))
PLATFORMS = st.builds(
    Platform,
    st.sampled_from([None, "NVIDIA-L4", "NVIDIA-L4-SHARED", "NVIDIA-L40S"]),
    st.sampled_from([None, "8.9", "9.0"]),
    st.none() | VERSIONS,
)
BUILT = ("NVIDIA-L4", "8.9", "11.2.1")
PLAN = Platform(*BUILT)


@given(PLATFORMS, PLATFORMS)
def test_the_order_of_two_platforms_makes_no_difference(one: Platform, other: Platform) -> None:
    assert difference(one, other) == difference(other, one)


@given(PLATFORMS)
def test_a_plan_runs_on_the_platform_that_it_was_built_on(platform: Platform) -> None:
    assert difference(platform, platform) is None


@given(VERSIONS)
def test_a_version_is_the_same_as_each_beginning_of_it(version: str) -> None:
    numbers = version.split(".")
    assert all(same_tensorrt(version, ".".join(numbers[:count])) for count in range(1, len(numbers) + 1))


@given(NUMBERS, NUMBERS)
def test_versions_are_the_same_exactly_if_their_first_three_numbers_are_as_far_as_both_name_them(
    one: list[int], other: list[int]
) -> None:
    shorter = min(len(one), len(other), 3)
    same = one[:shorter] == other[:shorter]
    assert same_tensorrt(".".join(map(str, one)), ".".join(map(str, other))) == same


@pytest.mark.parametrize(
    ("here", "differs"),
    [
        (Platform("NVIDIA-L4-SHARED", "8.9", "11.2.1.7"), None),
        (Platform(None, None, None), None),
        (Platform("NVIDIA-L40S", "8.9", "11.2.1"), Aspect.GPU_PRODUCT),
        (Platform("NVIDIA-L4", "9.0", "11.2.1"), Aspect.COMPUTE_CAPABILITY),
        (Platform("NVIDIA-L4", "8.9", "11.2.10"), Aspect.TENSORRT),
        (Platform("NVIDIA-L40S", "9.0", "10.6.0"), Aspect.GPU_PRODUCT),
    ],
)
def test_the_first_difference_between_a_plan_and_a_platform_is_named(here: Platform, differs: Aspect | None) -> None:
    assert difference(PLAN, here) is differs


def test_a_plan_has_to_name_its_gpu_and_its_tensorrt() -> None:
    assert missing(PLAN) is missing(Platform("NVIDIA-L4", None, "11.2")) is None
    assert missing(Platform(None, "8.9", "11.2.1")) is Aspect.GPU_PRODUCT
    assert missing(Platform("NVIDIA-L4", "8.9", None)) is Aspect.TENSORRT


@pytest.mark.parametrize(
    ("version", "wanted", "is_one"),
    [("11.2.1", "11.2", True), ("11.2.1", "11.2.1", True), ("11.2", "11.2.1", False), ("11.20.1", "11.2", False)],
)
def test_a_version_is_one_of_the_wanted_if_it_has_all_its_numbers(version: str, wanted: str, *, is_one: bool) -> None:
    assert is_version_of(version, wanted) is is_one


@pytest.mark.parametrize("wanted", ["11.2", "11.2.1", "11.2.1.7"])
@pytest.mark.parametrize("image", ["11.2.1", "11.2.1.9", "11.2.10.1", "11.2", "10.6.0", None])
def test_the_shell_in_pods_accepts_the_images_that_the_rule_accepts(
    image: str | None, wanted: str, tmp_path: Path
) -> None:
    script = deployment.CHECK_TENSORRT.replace(pods.TERMINATION_LOG, str(tmp_path / "log"))
    variables = {"EXPECTED_TENSORRT": release(wanted)} | ({"TRT_VERSION": image} if image else {})
    code = subprocess.run(["/bin/sh", "-c", script], env=variables, check=False, capture_output=True).returncode
    accepted = image is not None and is_version_of(image, release(wanted))
    assert code == (0 if accepted else IncompatiblePlanError.exit_code)


def built() -> Manifest:
    """The manifest of the plan."""
    product, capability, tensorrt = BUILT
    target = PlanTarget(onnx_repository="0" * 64, gpu_product=product, compute_capability=capability, tensorrt=tensorrt)
    changed = recipe().model_copy(update={"engine": Engine.TENSORRT, "plan": target})
    return manifest("english_stt/config.pbtxt").model_copy(update={"recipe": changed})


HERE = st.builds(
    Platform,
    st.sampled_from(["NVIDIA-L4", "NVIDIA-L4-SHARED", "NVIDIA-L40S"]),
    st.sampled_from(["8.9", "9.0"]),
    st.sampled_from(["11.2", "11.2.1", "11.2.1.7", "11.2.2", "10.6.0"]),
)


@given(HERE)
def test_fetch_refuses_what_the_rule_refuses(here: Platform) -> None:
    refused = False
    try:
        artifact_store.check_plan(built(), here.gpu_product, here.compute_capability, here.tensorrt)
    except IncompatiblePlanError:
        refused = True
    assert refused == (difference(PLAN, here) is not None)


@given(HERE)
def test_the_operator_gives_a_plan_to_no_pool_that_the_rule_refuses(here: Platform) -> None:
    body = example()
    gpu = {"product": here.gpu_product, "computeCapability": here.compute_capability}
    image = {
        "triton": "registry.example.com/t:1",
        "tensorrt": here.tensorrt,
        "builder": "registry.example.com/b:1",
    }
    spec = body["spec"] | {"pools": [{"name": "l4", "gpu": gpu}], "image": image}
    found = context(body | {"spec": spec})
    artifact = plan_for(*BUILT)
    refused = incompatibility(found, found.spec.pools[0], artifact) is not None
    assert refused == (difference(PLAN, here) is not None)


@given(HERE)
def test_a_plan_is_shown_as_published_for_the_pools_that_the_rule_gives_it_to(here: Platform) -> None:
    gpu = {"product": here.gpu_product, "computeCapability": here.compute_capability}
    resource = resource_of("speech", pools=[{"name": "l4", "gpu": gpu}], image={"tensorrt": here.tensorrt})
    resource["status"] = {"artifacts": [plan_for(*BUILT).as_json()]}
    (shown,) = plans(Snapshot(resource))
    assert (shown.state is State.PUBLISHED) == (difference(PLAN, here) is None)


def test_the_operator_gives_no_pool_a_plan_that_does_not_name_its_tensorrt() -> None:
    found = context()
    pool = next(pool for pool in found.spec.pools if pool.gpu is not None)
    assert pool.gpu is not None
    plan = plan_for(pool.gpu.product, pool.gpu.compute_capability, found.triton.tensorrt)
    assert incompatibility(found, pool, plan) is None
    unnamed: api.Artifact = plan.model_copy(update={"tensorrt": None})
    assert "is a plan of TensorRT None" in str(incompatibility(found, pool, unnamed))


@pytest.mark.parametrize("product", ["NVIDIA-L4", "NVIDIA-L4-SHARED"])
@pytest.mark.parametrize("capability", ["8.9", None])
def test_the_gpu_of_a_pod_is_the_expected_one(product: str, capability: str | None) -> None:
    driver.check(product, capability, ("NVIDIA-L4", "8.9"))


@pytest.mark.parametrize("expected", [("NVIDIA-L40S", "8.9"), ("NVIDIA-L4", "9.0")])
def test_another_gpu_than_the_expected_one_is_refused(expected: tuple[str, str]) -> None:
    with pytest.raises(IncompatiblePlanError, match=r"this GPU is NVIDIA-L4 with compute capability 8\.9"):
        driver.check(*expected, ("NVIDIA-L4", "8.9"))
