"""Jobs of builds that other controllers keep from starting or from ending."""

import json
from typing import Any

import pytest

from tests.operator.test_faults import no_room_for_pods
from tests.support.operator import Acting, container, gpu_pool, manifest, now
from tools.testcluster.cluster import ApiServer
from tools.testcluster.machine import until


def end_beside_a_sidecar(acting: Acting, job: dict[str, Any], code: int, message: dict[str, Any]) -> None:
    """The build ends, and a container that a service mesh has added to its pod runs on."""
    (pod,) = acting.pods(job["metadata"]["name"])
    ended = {"exitCode": code, "reason": "Completed", "message": json.dumps(message), "finishedAt": now()}
    statuses = [
        container("build", {"terminated": ended}, ready=False),
        container("istio-proxy", {"running": {}}, ready=True),
    ]
    patch = json.dumps({"status": {"phase": "Running", "containerStatuses": statuses}})
    where = (pod["metadata"]["name"], "-n", acting.namespace, "--subresource=status", "--type=merge")
    acting.server.kubectl("patch", "pod", *where, "--patch", patch)


@pytest.mark.usefixtures("running")
def test_a_build_beside_a_sidecar_that_never_ends_is_seen_to_be_done(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    published = {"engine": "OnnxRuntime", "manifestSha256": "a" * 64, "uri": "s3://asr-models/prod/english_stt/a"}
    end_beside_a_sidecar(acting, acting.job("onnx"), 0, published)
    acting.until("Built", ("True", "Built"))
    acting.serve()
    acting.until("Ready", ("True", "Serving"))


@pytest.mark.usefixtures("running")
def test_a_build_that_is_rejected_beside_a_sidecar_is_seen_to_have_failed(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    told = {"reason": "Rejected", "message": "WER 12 %", "transient": False}
    end_beside_a_sidecar(acting, acting.job("onnx"), 20, told)
    acting.until("Stalled", ("True", "Rejected"))


@pytest.mark.usefixtures("running")
def test_why_the_pod_of_a_build_cannot_be_created_is_in_the_status(api: ApiServer, acting: Acting) -> None:
    no_room_for_pods(acting)
    api.apply(manifest(acting.namespace))
    until(lambda: "exceeded quota: none" in str(acting.status()), "the cause", seconds=60)
    assert "no pod can be created" in str(acting.status()["conditions"])


@pytest.mark.usefixtures("running")
def test_a_plan_that_found_no_gpu_before_its_deadline_is_built_when_there_is_one(
    api: ApiServer, acting: Acting
) -> None:
    pool = gpu_pool(nodeSelector={"gpus": "later"})
    api.apply(manifest(acting.namespace, pools=[pool]))
    acting.publish(acting.job("onnx"))
    first = acting.job("plan")
    acting.until("Degraded", ("True", "InsufficientGPU"))
    name = first["metadata"]["name"]
    deadline = json.dumps({"spec": {"activeDeadlineSeconds": 1}})  # the shortest that the resource may have is a minute
    api.kubectl("patch", "job", name, "-n", acting.namespace, "--patch", deadline)
    again = acting.job("plan", other_than=first["metadata"]["uid"])
    assert again["metadata"]["name"] == name
    assert acting.condition("Stalled") is None
    acting.publish(again, "b" * 64)
    until(lambda: acting.status()["artifacts"][-1]["runtime"] == "TensorRT", "the plan")
