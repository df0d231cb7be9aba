"""Children of one example, as files that one can read: `tests/golden/operator/`; and what holds for every resource.

`python -m tests.unit.test_operator_render` writes the files anew.
"""

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from pydantic import ValidationError

from asr_contract.compatibility import Platform, difference
from asr_operator import compare, crd, names, observe
from asr_operator.api import v1alpha1 as api
from asr_operator.cluster import KINDS
from asr_operator.decide import decide
from asr_operator.errors import StalledError
from asr_operator.render import autoscaler, deployment, jobs, pods
from asr_operator.render.children import desired
from asr_operator.render.context import Context, triton_image
from asr_operator.render.deployment import Drain
from asr_operator.render.preview import preview
from asr_operator.settings import Keda
from tests.support.operator_examples import GOLDEN, ONNX, SETTINGS, context, example, plan_for, resources

Object = dict[str, Any]


def children(found: Context, seen: observe.Observation = observe.Observation()) -> list[Object]:  # noqa: B008 (frozen)
    """All that a resource has once its builds are there: Jobs first."""
    onnx = jobs.onnx(found)
    known = {onnx.name: ONNX}
    decision = decide(found, known, observe.Observation())
    for need in decision.needs[1:]:
        arguments = dict(
            item.removeprefix("--").split("=", 1)
            for item in need.build.job["spec"]["template"]["spec"]["containers"][0]["args"]
            if "=" in item
        )
        known[need.build.name] = plan_for(
            arguments["gpu-product"], arguments["compute-capability"], arguments["serving-tensorrt"]
        )
    decision = decide(found, known, seen)
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
def test_a_quota_on_cpu_or_memory_lets_in_pods_of_pools_that_say_what_they_take(body: Object) -> None:
    found = context(body)
    wanted = {names.deployment(found.name, pool.name): pool.resources.as_json() for pool in found.spec.pools}
    for child in children(found):
        if child["kind"] == "Deployment":
            pod = child["spec"]["template"]["spec"]
            for container in [*pod["initContainers"], *pod["containers"]]:
                for kind, amounts in wanted[child["metadata"]["name"]].items():
                    assert amounts.items() <= container.get("resources", {}).get(kind, {}).items()


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(resources)
def test_replicas_are_not_written_where_an_autoscaler_owns_them_but_for_the_first_ones(body: Object) -> None:
    found = context(body)
    scaled = {
        names.deployment(found.name, pool.name): pool.autoscaling.min_replicas
        for pool in found.spec.pools
        if pool.autoscaling is not None
    }
    first = [child for child in children(found) if child["kind"] == "Deployment"]
    for child in first:
        name = child["metadata"]["name"]
        assert name not in scaled or child["spec"]["replicas"] == scaled[name]
    seen = observe.observe([], first, [])
    for child in children(found, seen):
        if child["kind"] == "Deployment":
            assert ("replicas" in child["spec"]) != (child["metadata"]["name"] in scaled)


def test_an_autoscaler_comes_with_its_deployment_and_stays_as_long() -> None:
    found = context()
    waiting = [(pool, None) for pool in found.spec.pools]

    def scalers(existing: set[str]) -> set[str]:
        kinds = {"HorizontalPodAutoscaler", "ScaledObject"}
        children = desired(found, waiting, KINDS, existing)
        return {item["metadata"]["name"] for item in children if item["kind"] in kinds}

    assert scalers(set()) == set()
    assert scalers({"l4"}) == {"english-l4"}


def autoscaler_of(pool: Object, artifact: api.Artifact | None = None, **settings: Any) -> Object:  # noqa: ANN401
    """Spec of what scales the only pool."""
    body = changed(pools=[pool])
    more = SETTINGS.model_copy(update=settings)
    found = Context.of(body, api.parse(body).spec, more)
    (only,) = found.spec.pools
    scaler = autoscaler.scaledobject(found, only, artifact) or autoscaler.horizontalpodautoscaler(found, only, artifact)
    assert scaler is not None
    spec: Object = scaler["spec"]
    return spec


L4 = {"name": "l4", "gpu": {"product": "NVIDIA-L4", "computeCapability": "8.9"}}
MEASURED = plan_for().model_copy(update={"audio_seconds_per_second": 50_001})


@pytest.mark.parametrize(
    ("pool", "artifact", "metric", "value"),
    [
        (L4, MEASURED, "asr_audio_seconds_per_second", "20000"),
        (L4, plan_for(), "asr_pending_requests", "32"),
        (L4, None, "asr_pending_requests", "32"),
        (L4 | {"batching": {"maxBatchSize": 8}}, ONNX, "asr_pending_requests", "8"),
    ],
)
def test_without_a_target_a_gpu_pool_has_what_its_build_measured_or_one_full_batch(
    pool: Object, artifact: api.Artifact | None, metric: str, value: str
) -> None:
    (found,) = autoscaler_of(pool | {"autoscaling": {"maxReplicas": 3}}, artifact)["metrics"]
    assert found["pods"]["metric"]["name"] == metric
    assert found["pods"]["target"]["averageValue"] == value


def test_what_the_build_measured_counts_also_while_a_former_plan_is_kept() -> None:
    body = changed(pools=[L4 | {"autoscaling": {"maxReplicas": 3, "provider": "KEDA"}}])
    found = context(body)
    old = MEASURED.model_copy(update={"build": "plan-old", "uri": "s3://old"})
    (pool,) = found.spec.pools
    live = deployment.deployment(found, pool, deployment.Serving(old, None, "fetch:1"))
    seen = observe.observe([], [live | {"status": {"availableReplicas": 1}}], [])
    known = {jobs.onnx(found).name: ONNX, old.build: old}
    (decision,) = decide(found, known, seen).pools
    assert decision.serving is not None
    assert decision.serving.artifact == old


def test_a_pool_without_gpu_is_scaled_by_cpu_unless_told_otherwise() -> None:
    pool = {"name": "cpu", "autoscaling": {"maxReplicas": 3, "provider": "KEDA"}}
    found = autoscaler_of(pool)
    assert [item["type"] for item in found["triggers"]] == ["cpu"]
    assert "fallback" not in found, "KEDA refuses one for CPU alone"


def test_triggers_of_the_user_stand_beside_ours_and_wake_a_pool_that_has_no_pods() -> None:
    cron = {"type": "cron", "metadata": {"timezone": "UTC", "start": "0 8 * * *", "end": "0 18 * * *"}}
    scaling = {"minReplicas": 0, "maxReplicas": 3, "provider": "KEDA", "triggers": [cron]}
    found = autoscaler_of(L4 | {"autoscaling": scaling})
    assert found["minReplicaCount"] == 0
    assert found["triggers"][1:] == [cron]
    assert found["fallback"]["replicas"] == 1


def test_credentials_for_prometheus_are_those_of_a_clustertriggerauthentication() -> None:
    keda = Keda(cluster_trigger_authentication="prometheus", auth_modes="bearer,tls")
    (trigger,) = autoscaler_of(L4 | {"autoscaling": {"maxReplicas": 3, "provider": "KEDA"}}, keda=keda)["triggers"]
    assert trigger["authenticationRef"] == {"name": "prometheus", "kind": "ClusterTriggerAuthentication"}
    assert trigger["metadata"]["authModes"] == "bearer,tls"


def pods_named(deployment: str) -> list[str]:
    """As Kubernetes names them, with hashes of usual and of unusual lengths."""
    return [f"{deployment}-{'7b9d5f8c64'[:length]}-"[:58] + "x2k4z" for length in (1, 6, 8, 9, 10)]


@pytest.mark.parametrize("length", range(40, 62))
def test_the_pattern_of_a_pools_pods_finds_them_however_long_their_names_are(length: int) -> None:
    name = "n" * length
    assert [pod for pod in pods_named(name) if not re.fullmatch(autoscaler.pods_of(name), pod)] == []


@pytest.mark.parametrize("length", range(40, 62))
@pytest.mark.parametrize("more", ["-2", "-spot", "-2-b", "x", "-seventeen-longer"])
def test_the_pattern_finds_no_pods_of_a_pool_whose_name_begins_alike_or_the_two_are_refused(
    length: int, more: str
) -> None:
    name, other = "n" * length, "n" * length + more
    for one, two in ((name, other), (other, name)):
        found = [pod for pod in pods_named(two) if re.fullmatch(autoscaler.pods_of(one), pod)]
        assert not found or autoscaler.mistaken(two, one)
        assert not autoscaler.mistaken(two, one) or len(other) > 56, "only where the names are cut to nothing else"


def test_pools_whose_pods_keda_cannot_tell_apart_are_refused() -> None:
    scaling = {"maxReplicas": 3, "provider": "KEDA"}
    pools = [L4 | {"name": f"{'p' * 18}{end}", "autoscaling": scaling} for end in "ab"]
    body = changed(pools=pools)
    body["metadata"] |= {"name": "n" * 40}
    with pytest.raises(StalledError, match="KEDA cannot distinguish the pods of"):
        children(context(body))


@pytest.mark.parametrize(("interval", "seconds"), [("15s", 60), ("500ms", 60), ("30s", 120), ("2m", 480)])
def test_a_rate_is_computed_over_several_scrapes(interval: str, seconds: int) -> None:
    assert autoscaler.window(interval) == seconds


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
                here = Platform(gpu.product, gpu.compute_capability, found.triton.tensorrt)
                named = (names.PRODUCT_ANNOTATION, names.CAPABILITY_ANNOTATION, names.TENSORRT_ANNOTATION)
                assert difference(Platform(*(annotations[name] for name in named)), here) is None


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
        {"runtime": {"maxBatchSize": 8}},
    ],
)
def test_what_concerns_the_artifact_asks_for_another_build(change: Object) -> None:
    assert jobs.onnx(context(changed(**change))).name != jobs.onnx(context()).name


def test_another_builder_image_of_the_operator_leaves_a_running_job_alone() -> None:
    newer = SETTINGS.model_copy(update={"builder_image": "registry.example.com/asr-builder:2.0"})
    body = example()
    before, after = jobs.onnx(context()), jobs.onnx(Context.of(body, api.parse(body).spec, newer))
    assert before.name == after.name
    assert before.job_name == after.job_name


@pytest.mark.parametrize(
    "change",
    [
        {"build": {"nodeSelector": {"disk": "fast"}}},
        {"build": {"deadlineSeconds": 600}},
        {"build": {"podLabels": {"team": "speech"}}},
        {"build": {"podAnnotations": {"sidecar.istio.io/inject": "false"}}},
        {"image": {"builder": "registry.example.com/own-builder:1"}},
    ],
)
def test_a_change_to_the_pod_of_a_build_asks_for_another_job_of_the_same_build(change: Object) -> None:
    before, after = jobs.onnx(context()), jobs.onnx(context(changed(**change)))
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


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(resources)
def test_a_preview_has_every_child_that_the_resource_gets_once_all_is_built(body: Object) -> None:
    def named(item: Object) -> tuple[str, str]:
        # The name of a plan's Job goes by the digest of the model, which nobody knows before.
        name = item["metadata"]["name"]
        return item["kind"], name.rpartition("-")[0] if name.startswith("asr-plan-") else name

    kinds = {*KINDS, "Job"}
    found = context(body)
    assert {named(item) for item in preview(found, kinds)} == {named(item) for item in children(found)}


def test_a_preview_has_as_many_pods_as_the_pool_asks_for_and_its_plan() -> None:
    found = {file_name(item): item for item in preview(context(), {*KINDS, "Job"})}
    annotations = found["deployment-english-l4"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["asr-operator.dev/engine"] == "TensorRT"
    assert found["deployment-english-cpu"]["spec"]["replicas"] >= 1


def test_the_pods_of_a_build_have_the_labels_and_annotations_that_the_resource_adds() -> None:
    more = {"podLabels": {"team": "speech"}, "podAnnotations": {"sidecar.istio.io/inject": "false"}}
    metadata = jobs.onnx(context(changed(build=more))).job["spec"]["template"]["metadata"]
    ours = jobs.onnx(context()).job["spec"]["template"]["metadata"]
    assert metadata == {"labels": ours["labels"] | more["podLabels"], "annotations": more["podAnnotations"]}


def of_size(quantity: object) -> Object:
    return changed(pools=[{"name": "cpu", "modelVolume": {"claimName": "c", "sizeLimit": quantity}}])


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("8388608Ki", 8 << 30),
        ("8Gi", 8 << 30),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1500m", 1),
        (4096, 4096),
        ("1E", 10**18),
    ],
)
def test_a_size_is_any_quantity_that_kubernetes_writes(quantity: object, expected: int) -> None:
    bodies = {file_name(item): item for item in children(context(of_size(quantity)))}
    (fetch,) = bodies["deployment-english-cpu"]["spec"]["template"]["spec"]["initContainers"]
    assert f"--size-limit={expected}" in fetch["args"]


@pytest.mark.parametrize("quantity", ["8ki", "1e", "1e999999999", "-1", -1, "", "Gi", "8 Gi", "9" * 40, 0.5])
def test_a_size_that_is_no_quantity_is_refused_before_it_is_rendered(quantity: object) -> None:
    with pytest.raises(ValidationError) as error:
        api.parse(of_size(quantity))
    location = error.value.errors()[0]["loc"]
    assert location[:5] == ("spec", "pools", 0, "modelVolume", "sizeLimit")


if __name__ == "__main__":
    for stem, text in golden().items():
        (GOLDEN / f"{stem}.yaml").write_text(text)


@pytest.mark.parametrize(
    ("selection", "selector"),
    [
        (None, {"zone": "b", "nvidia.com/gpu.product": "NVIDIA-L4"}),
        ("ByProductLabel", {"zone": "b", "nvidia.com/gpu.product": "NVIDIA-L4"}),
        ("NodeSelectorOnly", {"zone": "b"}),
    ],
)
def test_pods_select_nodes_by_the_product_label_unless_their_selector_is_enough(
    selection: str | None, selector: dict[str, str]
) -> None:
    gpu = {"product": "NVIDIA-L4", "computeCapability": "8.9"} | ({"nodeSelection": selection} if selection else {})
    pool = api.Pool.model_validate({"name": "l4", "gpu": gpu, "nodeSelector": {"zone": "b"}})
    assert pods.placement(pool)["nodeSelector"] == selector


@pytest.mark.parametrize(
    ("audio", "options"),
    [
        ({"encoding": "FLOAT32"}, {"--wire=float32", "--frontend=numpy"}),
        ({"featureExtractor": "NeMo"}, {"--wire=pcm16", "--frontend=nemo"}),
    ],
)
def test_the_settings_of_the_audio_reach_the_builder_under_its_own_names(audio: Object, options: set[str]) -> None:
    job = jobs.onnx(context(changed(audio=audio))).job
    assert options <= set(job["spec"]["template"]["spec"]["containers"][0]["args"])
