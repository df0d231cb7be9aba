"""The operator against a real API server with real controllers; pods do what the test says they do."""

import functools
import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from asr_operator.api.v1alpha1 import MAX_NAME
from asr_operator.names import OPERATOR
from asr_operator.render.autoscaler import pods_of
from tests.support.operator import Acting, Operator, gpu_pool, manifest
from tools.testcluster.cluster import ApiServer
from tools.testcluster.machine import until
from tools.testcluster.nodes import add_nodes, gpu_labels, node

DIGESTS = {name: name[0] * 64 for name in ("a", "b", "c")}


def served(acting: Acting, pool: str = "cpu") -> None:
    acting.publish(acting.job("onnx"))
    acting.serve(pool)
    acting.until("Ready", ("True", "Serving"))


@pytest.mark.usefixtures("running")
def test_from_apply_to_ready(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    acting.until("Ready", ("False", "Building"))
    assert acting.condition("Reconciling") == ("True", "Building")
    acting.publish(acting.job("onnx"))
    acting.until("Ready", ("False", "RollingOut"))
    assert acting.condition("Built") == ("True", "Built")
    acting.serve()
    api.kubectl("wait", "--for=condition=Ready", "asr/english", "-n", acting.namespace, "--timeout=30s")
    status = acting.status()
    assert {item["type"] for item in status["conditions"]} == {"Ready", "Built", "Serving"}
    assert status["runtime"] == "OnnxRuntime"
    assert status["readySummary"] == "1/1"
    assert status["endpoints"]["grpc"] == f"english.{acting.namespace}.svc.cluster.local:8001"
    assert status["pools"][0]["active"] == status["pools"][0]["target"] == status["artifacts"][0]["uri"]
    events = [
        event["reason"] for event in acting.find("events.events.k8s.io") if event["regarding"]["name"] == "english"
    ]
    assert {"Building", "Built", "RollingOut", "Serving"} <= set(events)


@pytest.mark.usefixtures("running")
def test_a_settled_resource_causes_no_write(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    served(acting)
    time.sleep(1)
    before = len(writes(api, acting.namespace))
    assert before
    api.kubectl("label", "asr", "english", "-n", acting.namespace, "team=speech")
    time.sleep(6)  # more than one resync
    assert [item["objectRef"] for item in writes(api, acting.namespace)[before:]] == []


def writes(api: ApiServer, namespace: str) -> list[dict[str, Any]]:
    """What the operator has changed in a namespace."""
    return [
        item
        for item in api.writes()
        if item["objectRef"].get("namespace") == namespace and item.get("userAgent") == OPERATOR
    ]


@pytest.mark.usefixtures("running")
def test_what_was_edited_by_hand_is_repaired(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    served(acting)
    patch = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 100}}}}
    api.kubectl("patch", "deployment", "english-cpu", "-n", acting.namespace, "--patch", json.dumps(patch))
    until(
        lambda: (
            acting.get("deployment", "english-cpu")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 90
        ),
        "the repair",
        seconds=20,
    )


def test_a_repair_names_the_changed_field_in_an_event_and_in_the_log(
    api: ApiServer, acting: Acting, running: Operator
) -> None:
    api.apply(manifest(acting.namespace))
    served(acting)
    patch = json.dumps({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 100}}}})
    for _ in range(2):
        api.kubectl("patch", "deployment", "english-cpu", "-n", acting.namespace, "-p", patch)
        until(
            lambda: (
                acting.get("deployment", "english-cpu")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 7
            ),
            "the repair",
            seconds=20,
        )
    path = ".spec.template.spec.terminationGracePeriodSeconds"
    until(
        lambda: (
            [
                path in event["note"]
                for event in acting.find("events.events.k8s.io")
                if event["reason"] == "DriftRepaired"
            ]
            == [True]
        ),
        "one event for both repairs",
    )
    repairs = [
        line for line in running.log.read_text().splitlines() if f"repair Deployment {acting.namespace}/" in line
    ]
    assert len(repairs) == 2
    assert all(line.endswith(f"somebody else has changed it at {path}") for line in repairs)


@pytest.mark.usefixtures("running")
def test_each_object_that_the_operator_creates_is_one_line_of_its_log(
    api: ApiServer, acting: Acting, running: Operator
) -> None:
    api.apply(manifest(acting.namespace))
    served(acting)
    created = [
        f"create {kind} {acting.namespace}/{item['metadata']['name']}:"
        for kind, plural in (("Deployment", "deployments"), ("Service", "services"), ("Job", "jobs"))
        for item in acting.find(plural)
    ]
    log = running.log.read_text()
    assert created
    assert {line: log.count(line) for line in created} == dict.fromkeys(created, 1)


@pytest.mark.parametrize("child", ["deployment/english-cpu", "service/english", "poddisruptionbudget/english-cpu"])
@pytest.mark.usefixtures("running")
def test_what_was_deleted_by_hand_comes_back(api: ApiServer, acting: Acting, child: str) -> None:
    api.apply(manifest(acting.namespace))
    served(acting)
    kind, _, name = child.partition("/")
    uid = acting.get(kind, name)["metadata"]["uid"]
    api.kubectl("delete", child, "-n", acting.namespace)
    until(
        lambda: any(item["metadata"]["name"] == name and item["metadata"]["uid"] != uid for item in acting.find(kind)),
        f"another {child}",
        seconds=20,
    )


@pytest.mark.usefixtures("running")
def test_two_resources_share_a_build_and_one_goes(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace), manifest(acting.namespace, "other"))
    job = acting.job("onnx")
    until(lambda: len(acting.get("job", job["metadata"]["name"])["metadata"]["ownerReferences"]) == 2, "two owners")
    api.kubectl("delete", "asr", "other", "-n", acting.namespace)
    until(
        lambda: (
            [owner["name"] for owner in acting.get("job", job["metadata"]["name"])["metadata"]["ownerReferences"]]
            == ["english"]
        ),
        "one owner",
        seconds=30,
    )
    served(acting)


@pytest.mark.usefixtures("running")
def test_whoever_made_a_shared_build_leaves_it_to_the_other(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    job = acting.job("onnx")
    api.apply(manifest(acting.namespace, "other"))
    name = job["metadata"]["name"]
    until(lambda: len(acting.get("job", name)["metadata"]["ownerReferences"]) == 2, "two owners")
    newer = {"name": "english_stt", "source": {"objectStore": {"uri": "s3://models/newer.nemo"}}}
    api.apply(manifest(acting.namespace, model=newer))
    acting.job("onnx", other_than=job["metadata"]["uid"])
    until(
        lambda: [owner["name"] for owner in acting.get("job", name)["metadata"]["ownerReferences"]] == ["other"],
        "one owner",
    )
    assert acting.condition("Stalled") is None
    assert acting.get("job", name)["spec"] == job["spec"]


@pytest.mark.usefixtures("running")
def test_everything_goes_with_the_resource_in_the_middle_of_a_build(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    acting.job("onnx")
    api.kubectl("delete", "asr", "english", "-n", acting.namespace)
    until(
        lambda: not any(acting.find(kind) for kind in ("jobs", "services", "poddisruptionbudgets")),
        "an empty namespace",
        seconds=30,
    )


@pytest.mark.usefixtures("running")
def test_a_rejected_build_stalls_with_the_builders_words(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    acting.end(acting.job("onnx"), 20, {"reason": "Rejected", "message": "WER 12 %", "transient": False})
    acting.until("Stalled", ("True", "Rejected"))
    assert acting.condition("Ready") == ("False", "Rejected")
    assert acting.condition("Reconciling") is None
    assert acting.status()["lastFailure"]["message"] == "WER 12 %"


@pytest.mark.usefixtures("running")
def test_a_long_message_in_any_language_has_its_event(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    acting.end(acting.job("onnx"), 20, {"reason": "Rejected", "message": "ж" * 900, "transient": False})
    acting.until("Stalled", ("True", "Rejected"))
    notes = until(
        lambda: [item["note"] for item in acting.find("events.events.k8s.io") if item["reason"] == "Rejected"],
        "the event",
    )
    assert notes[0].startswith("ж" * 500)


@pytest.mark.usefixtures("running")
def test_a_build_that_storage_failed_is_run_again(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    first = acting.job("onnx")
    acting.end(first, 30, {"reason": "StorageUnavailable", "message": "down", "transient": True})
    acting.until("Reconciling", ("True", "BuildRetried"))
    acting.publish(acting.job("onnx", other_than=first["metadata"]["uid"]))
    acting.serve()
    acting.until("Ready", ("True", "Serving"))


@pytest.mark.usefixtures("running")
def test_the_old_model_serves_while_a_new_one_is_built_and_when_it_is_rejected(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    served(acting)
    old = acting.get("deployment", "english-cpu")
    first = acting.job("onnx")
    newer = {"name": "english_stt", "source": {"objectStore": {"uri": "s3://models/newer.nemo"}}}
    api.apply(manifest(acting.namespace, model=newer))
    acting.until("Ready", ("False", "Building"))
    assert acting.condition("Serving") == ("True", "Serving")
    assert acting.get("deployment", "english-cpu")["spec"] == old["spec"]
    second = acting.job("onnx", other_than=first["metadata"]["uid"])
    acting.end(second, 20, {"reason": "Rejected", "message": "WER 12 %", "transient": False})
    acting.until("Stalled", ("True", "Rejected"))
    assert acting.condition("Serving") == ("True", "Serving")
    assert acting.get("deployment", "english-cpu")["spec"] == old["spec"]


@pytest.mark.usefixtures("running")
def test_a_gpu_pool_serves_onnx_until_its_plan_is_there(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace, pools=[gpu_pool()]))
    acting.publish(acting.job("onnx"))
    acting.serve("l4")
    acting.until("Ready", ("True", "Serving"))
    assert acting.condition("Degraded") == ("True", "PlanNotReady")
    assert acting.condition("Reconciling") is None
    plan = acting.job("plan")
    assert plan["spec"]["template"]["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    acting.publish(plan, "b" * 64)
    acting.until("Ready", ("False", "RollingOut"))
    acting.serve("l4")
    acting.until("Ready", ("True", "Serving"))
    assert acting.condition("Degraded") is None
    assert acting.status()["runtime"] == "TensorRT"


@pytest.mark.usefixtures("running")
def test_a_plan_of_another_gpu_reaches_no_pod(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace, pools=[gpu_pool()]))
    acting.publish(acting.job("onnx"))
    acting.serve("l4")
    acting.publish(acting.job("plan"), "b" * 64, gpuProduct="NVIDIA-L40S")
    acting.until("Degraded", ("True", "PlanFailed"))
    template = acting.get("deployment", "english-l4")["spec"]["template"]
    assert template["metadata"]["annotations"]["asr-operator.dev/engine"] == "OnnxRuntime"


@pytest.mark.usefixtures("running")
def test_fallback_pods_yield_a_gpu_that_the_plan_needs(api: ApiServer, acting: Acting) -> None:
    add_nodes(api, node("small", gpus=2, labels=gpu_labels("NVIDIA-A10", "8.6")))
    pool = {"name": "a10", "replicas": 2, "gpu": {"product": "NVIDIA-A10", "computeCapability": "8.6"}}
    api.apply(manifest(acting.namespace, pools=[pool], runtime={"preferred": "OnnxRuntime"}))
    acting.publish(acting.job("onnx"))
    acting.serve("a10", 2)
    acting.until("Ready", ("True", "Serving"))
    api.apply(manifest(acting.namespace, pools=[pool]))
    until(
        lambda: acting.get("deployment", "english-a10")["spec"]["replicas"] == 1,
        "one replica less",
        seconds=40,
    )
    acting.until("Degraded", ("True", "InsufficientGPU"))


@pytest.mark.usefixtures("running")
def test_an_artifact_that_pods_cannot_fetch_whole_is_looked_at_again(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    first = acting.job("onnx")
    acting.publish(first)
    acting.servers("cpu", 1)
    time.sleep(1.1)  # times of Kubernetes are whole seconds, and the failure is later than the build
    acting.fail_fetch("cpu", 31, "model.onnx was altered")
    again = acting.job("onnx", other_than=first["metadata"]["uid"])
    acting.end(again, 31, {"reason": "ArtifactInvalid", "message": "model.onnx was altered", "transient": False})
    acting.until("Stalled", ("True", "ArtifactInvalid"))


@pytest.mark.usefixtures("running")
def test_overrides_that_do_not_fit_are_told(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace, pools=[{"name": "cpu", "batching": {"maxBatchSize": 512}}]))
    acting.publish(acting.job("onnx"))
    acting.fail_fetch("cpu", 34, "maxBatchSize 512 is more than 32")
    acting.until("Stalled", ("True", "BatchingInvalid"))


@pytest.mark.usefixtures("running")
def test_a_name_that_is_taken_is_not_taken_away(api: ApiServer, acting: Acting) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "english", "namespace": acting.namespace}}
    api.apply(service | {"spec": {"ports": [{"port": 80}]}})
    api.apply(manifest(acting.namespace))
    acting.until("Stalled", ("True", "NameTaken"))
    assert acting.get("service", "english")["spec"]["ports"][0]["port"] == 80


@pytest.mark.usefixtures("running")
def test_the_longest_names_fit_and_pods_are_found_by_theirs(api: ApiServer, acting: Acting) -> None:
    name, model = "n" * MAX_NAME, "Stt_en.m-" + "m" * 87
    source = {"objectStore": {"uri": "s3://models/english.nemo"}}
    scaling = {"maxReplicas": 2, "target": {"pendingRequests": 8}}
    pools = [gpu_pool(pool, autoscaling=scaling) for pool in ("p" * 20, "p" * 17, "p")]
    api.apply(manifest(acting.namespace, name, pools=pools, model={"name": model, "source": source}))
    acting.publish(acting.job("onnx"))
    assert len(acting.job("plan")["metadata"]["name"]) <= 63
    for pool in pools:
        selector = f"asr-operator.dev/pool={pool['name']},app.kubernetes.io/instance={name}"
        (pod,) = until(functools.partial(acting.find, "pods", "-l", selector), "a pod", seconds=30)
        assert re.fullmatch(pods_of(f"{name}-{pool['name']}"), pod["metadata"]["name"])
    acting.until("Ready", ("False", "RollingOut"), name)


@pytest.mark.usefixtures("running")
def test_what_the_api_server_refuses_is_told_in_its_words(api: ApiServer, acting: Acting) -> None:
    pool = {"name": "cpu", "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": "x"}}}
    api.apply(manifest(acting.namespace, pools=[pool]))
    acting.until("Stalled", ("True", "Refused"))


@pytest.mark.usefixtures("running")
def test_pods_that_go_while_the_resource_is_stalled_are_told(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    served(acting)
    api.apply(manifest(acting.namespace, image={"tensorrt": "9.9"}))
    acting.until("Stalled", ("True", "NoTritonImage"))
    assert acting.condition("Serving") == ("True", "Serving")
    assert acting.status()["readySummary"] == "1/1"
    (pod,) = acting.servers("cpu", 1)
    api.kubectl("delete", "pod", pod["metadata"]["name"], "-n", acting.namespace, "--force", "--grace-period=0")
    acting.until("Serving", ("False", "ReplicasMissing"))
    status = acting.status()
    assert status["readySummary"] == "0/1"
    assert status["pools"][0]["readyReplicas"] == status["readyReplicas"] == 0
    assert acting.condition("Stalled") == ("True", "NoTritonImage")
    assert acting.condition("Built") == ("True", "Built")


@pytest.mark.usefixtures("running")
def test_a_pool_that_keda_is_to_scale_is_told_that_there_is_none(api: ApiServer, acting: Acting) -> None:
    scaling = {"maxReplicas": 4, "target": {"pendingRequests": 8}, "provider": "KEDA"}
    api.apply(manifest(acting.namespace, pools=[{"name": "cpu", "autoscaling": scaling}]))
    acting.until("Stalled", ("True", "KedaMissing"))
    api.apply(manifest(acting.namespace, pools=[{"name": "cpu", "autoscaling": scaling | {"provider": "HPA"}}]))
    served(acting)


@pytest.mark.usefixtures("running")
def test_a_pool_that_is_no_longer_wanted_serves_until_the_others_do(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    served(acting)
    api.apply(manifest(acting.namespace, pools=[{"name": "other"}]))
    acting.until("Ready", ("False", "RollingOut"))
    assert acting.get("deployment", "english-cpu")
    acting.serve("other")
    acting.until("Ready", ("True", "Serving"))
    until(lambda: [item["metadata"]["name"] for item in acting.find("deployments")] == ["english-other"], "one pool")


def test_an_operator_that_is_killed_and_started_again_goes_on(
    alone: ApiServer, acting_alone: Acting, folder: Path
) -> None:
    operator = Operator(alone, folder, namespaces=[acting_alone.namespace])
    operator.start()
    alone.apply(manifest(acting_alone.namespace))
    job = acting_alone.job("onnx")
    operator.kill()
    acting_alone.publish(job)
    operator.start()
    acting_alone.serve()
    operator.kill()
    operator.start()
    acting_alone.until("Ready", ("True", "Serving"))
    time.sleep(1)
    before = len(writes(alone, acting_alone.namespace))
    assert before
    operator.kill()
    operator.start()
    until(lambda: "asr_operator_last_sync" in _metrics(operator), "the sync", seconds=20)
    time.sleep(3)
    assert writes(alone, acting_alone.namespace)[before:] == []
    assert operator.stop() == 0


def _metrics(operator: Operator) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{operator.metrics}/metrics", timeout=5) as response:
            return str(response.read().decode())
    except (urllib.error.URLError, OSError):
        return ""
