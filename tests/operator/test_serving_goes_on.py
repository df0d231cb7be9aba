"""Edits of a resource that serves, and builds that fail: neither takes its pods away."""

import json
import time
from typing import Any

import pytest

from tests.support.operator import Acting, gpu_pool, manifest
from tools.testcluster.cluster import ApiServer
from tools.testcluster.machine import until

NEWER = {"name": "english_stt", "source": {"objectStore": {"uri": "s3://models/newer.nemo"}}}
OTHER_STORAGE = {"uri": "s3://asr-models/prod", "endpoint": "http://elsewhere:9000", "secretRef": {"name": "b"}}
RECREATE: dict[str, Any] = {"rollout": {"strategy": "Recreate"}}
A_PASS = 3
"""Seconds in which the operator has certainly looked at a change."""

pytestmark = pytest.mark.usefixtures("running")


def deployment(acting: Acting, name: str = "english-cpu") -> dict[str, Any] | None:
    return next((item for item in acting.find("deployments") if item["metadata"]["name"] == name), None)


def template(acting: Acting, name: str = "english-cpu") -> dict[str, Any]:
    found = deployment(acting, name)
    assert found is not None
    return dict(found["spec"]["template"])


def serve(api: ApiServer, acting: Acting, **spec: Any) -> str:  # noqa: ANN401 (any part of a spec)
    """Until it is Ready; returns the uid of the Job that built it."""
    api.apply(manifest(acting.namespace, **spec))
    job = acting.job("onnx")
    acting.publish(job)
    acting.serve("cpu")
    acting.until("Ready", ("True", "Serving"))
    return str(job["metadata"]["uid"])


@pytest.mark.parametrize(
    "change",
    [{"storage": OTHER_STORAGE}, {"audio": {"maxSeconds": 120}}, {"runtime": {"maxBatchSize": 128}}],
    ids=["storage", "longest audio", "batch size"],
)
@pytest.mark.parametrize("strategy", ["Surge", "Recreate"])
def test_pods_stay_as_they_are_until_what_an_edit_needs_is_built(
    api: ApiServer, acting: Acting, change: dict[str, Any], strategy: str
) -> None:
    rollout: dict[str, Any] = {"rollout": {"strategy": strategy}}
    first = serve(api, acting, **rollout)
    before = template(acting)
    api.apply(manifest(acting.namespace, **rollout, **change))
    acting.until("Ready", ("False", "Building"))
    time.sleep(A_PASS)
    assert template(acting) == before
    acting.publish(acting.job("onnx", other_than=first), "b" * 64)
    until(lambda: template(acting) != before, "the roll-out of what was built")


def test_with_recreate_a_renamed_pool_serves_until_its_successor_can(api: ApiServer, acting: Acting) -> None:
    first = serve(api, acting, **RECREATE)
    api.apply(manifest(acting.namespace, pools=[{"name": "other"}], model=NEWER, **RECREATE))
    acting.until("Ready", ("False", "Building"))
    time.sleep(A_PASS)
    assert deployment(acting) is not None
    acting.publish(acting.job("onnx", other_than=first), "b" * 64)
    until(lambda: deployment(acting) is None and deployment(acting, "english-other") is not None, "the successor")


@pytest.mark.parametrize("next_one", [{"runtime": {"precision": "BF16"}}, {"model": NEWER}], ids=["precision", "model"])
def test_a_plan_serves_on_when_the_next_one_is_rejected(
    api: ApiServer, acting: Acting, next_one: dict[str, Any]
) -> None:
    pools = [gpu_pool()]
    api.apply(manifest(acting.namespace, pools=pools))
    model = acting.job("onnx")
    acting.publish(model)
    acting.serve("l4")
    plan = acting.job("plan")
    acting.publish(plan, "b" * 64)
    runtime = "asr-operator.dev/engine"
    until(lambda: template(acting, "english-l4")["metadata"]["annotations"][runtime] == "TensorRT", "the plan's pods")
    acting.serve("l4")
    acting.until("Ready", ("True", "Serving"))
    before = template(acting, "english-l4")["metadata"]["annotations"]
    api.apply(manifest(acting.namespace, pools=pools, **next_one))
    if "model" in next_one:
        acting.publish(acting.job("onnx", other_than=model["metadata"]["uid"]), "c" * 64)
    rejected = acting.job("plan", other_than=plan["metadata"]["uid"])
    acting.end(rejected, 20, {"reason": "Rejected", "message": "WER 12 %", "transient": False})
    acting.until("Degraded", ("True", "PlanFailed"))
    assert template(acting, "english-l4")["metadata"]["annotations"] == before
    assert acting.condition("Ready") == ("False", "Rejected")


def test_http_stays_open_until_pods_serve_with_tls(api: ApiServer, acting: Acting) -> None:
    serve(api, acting)
    api.apply(manifest(acting.namespace, service={"tlsSecretRef": {"name": "missing"}}))
    acting.until("Ready", ("False", "RollingOut"))
    time.sleep(A_PASS)
    assert "http" in {port["name"] for port in acting.get("service", "english")["spec"]["ports"]}
    assert acting.status()["endpoints"]["http"]
    (ready,) = (item for item in acting.status()["conditions"] if item["type"] == "Ready")
    assert "Secret missing" in ready["message"]


def test_endpoints_name_the_former_model_until_another_answers(api: ApiServer, acting: Acting) -> None:
    serve(api, acting)
    api.apply(manifest(acting.namespace, model=NEWER | {"name": "other_stt"}))
    acting.until("Ready", ("False", "Building"))
    assert acting.status()["endpoints"]["model"] == "english_stt"


def test_a_refused_child_keeps_no_other_from_being_repaired(api: ApiServer, acting: Acting) -> None:
    serve(api, acting)
    api.apply(manifest(acting.namespace, networkPolicy={"from": [{}]}, pools=[{"name": "cpu", "replicas": 2}]))
    acting.until("Stalled", ("True", "Refused"))
    for child in ("service/english", "deployment/english-cpu"):
        api.kubectl("delete", child, "-n", acting.namespace)
    until(lambda: {"english"} <= {item["metadata"]["name"] for item in acting.find("services")}, "the Service")
    until(lambda: deployment(acting) is not None, "the Deployment")
    assert json.dumps(acting.get("deployment", "english-cpu")["spec"]["replicas"]) == "2"
