"""Children of one example, as files that one can read: `tests/golden/operator/`; and what holds for every resource.

`python -m tests.unit.test_operator_render` writes the files anew.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from asr_operator import compare, crd, names
from asr_operator.api import v1alpha1 as api
from asr_operator.cluster import KINDS
from asr_operator.decide import decide
from asr_operator.errors import StalledError
from asr_operator.observe import Observation
from asr_operator.render import jobs
from asr_operator.render.children import desired
from asr_operator.render.context import Context, same_tensorrt, triton_image
from asr_operator.render.deployment import Drain
from tests.support.operator_examples import GOLDEN, ONNX, SETTINGS, context, example, plan_for, resources

Object = dict[str, Any]


def children(found: Context) -> list[Object]:
    """All that a resource has once its builds are there: Jobs first."""
    onnx = jobs.onnx(found)
    known = {onnx.name: ONNX}
    decision = decide(found, known, Observation())
    for need in decision.needs[1:]:
        arguments = dict(
            item.removeprefix("--").split("=", 1)
            for item in need.build.job["spec"]["template"]["spec"]["containers"][0]["args"]
            if "=" in item
        )
        known[need.build.name] = plan_for(
            arguments["gpu-product"], arguments["compute-capability"], arguments["serving-tensorrt"]
        )
    decision = decide(found, known, Observation())
    serving = [(item.pool, item.serving) for item in decision.pools]
    return [*(need.build.job for need in decision.needs), *desired(found, serving, KINDS)]


def file_name(body: Object) -> str:
    kind = body["kind"].lower()
    if kind == "job":
        return "job-" + ("plan" if "plan" in body["metadata"]["name"] else "onnx")
    return f"{kind}-{body['metadata']['name']}"


def golden() -> dict[str, str]:
    found: dict[str, str] = {}
    for body in children(context()):
        # The second plan differs in the GPU alone.
        found.setdefault(file_name(body), crd.dump(body))
    return found


@pytest.mark.parametrize("file", sorted(path.stem for path in GOLDEN.glob("*.yaml") if path.stem != "example"))
def test_a_child_is_the_golden_one(file: str) -> None:
    assert golden()[file] == (GOLDEN / f"{file}.yaml").read_text()


def test_every_child_has_a_golden_file() -> None:
    assert set(golden()) == {path.stem for path in GOLDEN.glob("*.yaml")} - {"example"}


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(resources)
def test_every_valid_resource_renders_the_same_each_time_and_needs_no_second_write(body: Object) -> None:
    first, second = children(context(body)), children(context(body))
    assert first == second
    for child in first:
        assert compare.difference(child, child) is None
        assert len(child["metadata"]["name"]) <= 63
        if child["kind"] != "Job":
            owner = child["metadata"]["ownerReferences"][0]
            assert (owner["uid"], owner["controller"]) == ("1-2-3", True)


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(resources)
def test_pods_keep_to_the_restricted_standard_and_get_no_token(body: Object) -> None:
    for child in children(context(body)):
        if child["kind"] not in {"Job", "Deployment"}:
            continue
        pod = child["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert all(
            set(volume) - {"name"} <= {"emptyDir", "secret", "configMap", "persistentVolumeClaim"}
            for volume in pod["volumes"]
        )


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(resources)
def test_replicas_are_not_written_where_an_autoscaler_owns_them(body: Object) -> None:
    found = context(body)
    scaled = {names.deployment(found.name, pool.name) for pool in found.spec.pools if pool.autoscaling is not None}
    for child in children(found):
        if child["kind"] == "Deployment":
            assert ("replicas" in child["spec"]) != (child["metadata"]["name"] in scaled)


def test_pending_requests_are_those_in_the_scheduler_and_before_it_not_the_batches_of_the_acoustic_model() -> None:
    scaling = {"maxReplicas": 4, "target": {"pendingRequests": 8}, "provider": "KEDA"}
    found = context(changed(pools=[{"name": "cpu", "autoscaling": scaling}]))
    (scaled,) = [child for child in children(found) if child["kind"] == "ScaledObject"]
    (trigger,) = scaled["spec"]["triggers"]
    assert '__name__=~"asr_pending_utterances|nv_inference_pending_request_count"' in trigger["metadata"]["query"]
    assert f'model="{found.spec.model.name}"' in trigger["metadata"]["query"]


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(resources)
def test_a_plan_reaches_only_pods_with_its_gpu_and_its_tensorrt(body: Object) -> None:
    found = context(body)
    pools = {pool.name: pool for pool in found.spec.pools}
    for child in children(found):
        if child["kind"] == "Deployment":
            annotations = child["spec"]["template"]["metadata"]["annotations"]
            if annotations[names.ENGINE_ANNOTATION] == "TensorRT":
                gpu = pools[child["metadata"]["labels"][names.POOL_LABEL]].gpu
                assert gpu is not None
                assert gpu.product.removesuffix("-SHARED") == annotations[names.PRODUCT_ANNOTATION]
                assert same_tensorrt(annotations[names.TENSORRT_ANNOTATION], found.triton.tensorrt)


def changed(**spec: Any) -> Object:  # noqa: ANN401 (any part of a manifest)
    body = example()
    return body | {"spec": body["spec"] | spec}


@pytest.mark.parametrize(
    "change",
    [
        {"build": {"resources": {"limits": {"memory": "64Gi"}}}},
        {"service": {"type": "NodePort"}},
        {"rollout": {"strategy": "Recreate"}},
        {"build": {"tolerations": [{"key": "spot", "operator": "Exists"}]}},
    ],
)
def test_what_does_not_concern_the_artifact_asks_for_no_other_build(change: Object) -> None:
    assert jobs.onnx(context(changed(**change))).name == jobs.onnx(context()).name


@pytest.mark.parametrize(
    "change",
    [
        {"audio": {"maxSeconds": 30}},
        {"acceptance": {"maxWerIncreasePermille": 1}},
        {"storage": {"uri": "s3://elsewhere"}},
        {"engine": {"maxBatchSize": 8}},
    ],
)
def test_what_concerns_the_artifact_asks_for_another_build(change: Object) -> None:
    assert jobs.onnx(context(changed(**change))).name != jobs.onnx(context()).name


def test_another_image_of_the_operator_asks_for_no_other_build_but_another_job() -> None:
    newer = SETTINGS.model_copy(update={"builder_image": "registry.example.com/asr-builder:2.0"})
    body = example()
    before, after = jobs.onnx(context()), jobs.onnx(Context.of(body, api.parse(body).spec, newer))
    assert before.name == after.name
    assert before.job_name != after.job_name


def test_the_triton_image_is_found_by_the_version_of_tensorrt() -> None:
    assert triton_image(api.Image(tensorrt="10.7"), SETTINGS).image.endswith("24.12-py3")
    assert triton_image(api.Image(), SETTINGS).image.endswith("24.10-py3")
    with pytest.raises(StalledError, match=r"no Triton image with TensorRT 10\.70, only 10\.5\.0, 10\.7\.0"):
        triton_image(api.Image(tensorrt="10.70"), SETTINGS)


@pytest.mark.parametrize("grace", [30, 31, 60, 90, 3600])
def test_a_pod_has_time_to_leave_and_time_to_end(grace: int) -> None:
    drain = Drain.within(grace)
    assert 0 < drain.age < drain.stay
    assert drain.stay + drain.exit < grace


@pytest.mark.parametrize("grace", [90, 91, 300, 3600])
def test_a_client_that_looks_for_pods_every_30_s_has_left_before_a_pod_ends(grace: int) -> None:
    drain = Drain.within(grace)
    assert 1.1 * drain.age + 30 < drain.stay


if __name__ == "__main__":
    for stem, text in golden().items():
        (GOLDEN / f"{stem}.yaml").write_text(text)
