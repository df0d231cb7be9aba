"""What the API server would refuse of a resource's children: known before anything is built."""

import json
import time
from typing import Any

import pytest

from tests.operator.test_reconcile import writes
from tests.support.operator import Acting, manifest
from tools.testcluster.cluster import ApiServer
from tools.testcluster.machine import until

MORE_THAN_ALLOWED = {"requests": {"memory": "4Gi"}, "limits": {"memory": "2Gi"}}
TOKEN_TWICE = {
    "name": "m",
    "source": {"huggingFace": {"repository": "o/r", "tokenSecretRef": {"name": "hf", "key": "token"}}},
}

pytestmark = pytest.mark.usefixtures("running")


def stalled(acting: Acting) -> str:
    (found,) = (item for item in acting.status()["conditions"] if item["type"] == "Stalled")
    return str(found["message"])


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"pools": [{"name": "cpu", "resources": MORE_THAN_ALLOWED}]}, "resources.requests"),
        (
            {"pools": [{"name": "cpu", "env": [{"name": "A", "value": "b", "valueFrom": {"fieldRef": {}}}]}]},
            "env[",
        ),
        (
            {"pools": [{"name": "cpu", "tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}]},
            "tolerations[0]",
        ),
        ({"pools": [{"name": "cpu", "podLabels": {"a/b/c": "x"}}]}, "labels"),
        ({"model": TOKEN_TWICE, "build": {"env": [{"name": "HF_TOKEN", "value": "x"}]}}, "HF_TOKEN"),
        ({"networkPolicy": {"from": [{}]}}, "ingress[0].from[0]"),
        ({"service": {"annotations": {"a b": "x"}}}, "annotations"),
        ({"build": {"resources": MORE_THAN_ALLOWED}}, "resources.requests"),
    ],
    ids=[
        "requests",
        "environment",
        "toleration",
        "pod label",
        "twice a variable",
        "network policy",
        "service annotation",
        "build",
    ],
)
def test_a_child_that_is_refused_stalls_the_resource_before_anything_is_built(
    api: ApiServer, acting: Acting, spec: dict[str, Any], field: str
) -> None:
    api.apply(manifest(acting.namespace, **spec))
    acting.until("Stalled", ("True", "Refused"))
    assert field in stalled(acting)
    assert acting.find("jobs") == []


def test_what_serves_goes_on_and_is_repaired_while_the_next_generation_is_refused(
    api: ApiServer, acting: Acting
) -> None:
    api.apply(manifest(acting.namespace))
    acting.publish(acting.job("onnx"))
    acting.serve()
    acting.until("Ready", ("True", "Serving"))
    before = acting.get("deployment", "english-cpu")["spec"]["template"]
    refused: dict[str, Any] = {"audio": {"maxSeconds": 90}, "pools": [{"name": "cpu", "resources": MORE_THAN_ALLOWED}]}
    api.apply(manifest(acting.namespace, **refused))
    acting.until("Stalled", ("True", "Refused"))
    assert acting.condition("Serving") == ("True", "Serving")
    api.kubectl("delete", "service", "english", "-n", acting.namespace)
    until(lambda: "english" in {item["metadata"]["name"] for item in acting.find("services")}, "the Service")
    assert acting.get("deployment", "english-cpu")["spec"]["template"] == before


def test_children_are_asked_about_once_for_a_generation(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    job = acting.job("onnx")
    asked = [item for item in writes(api, acting.namespace) if "dryRun" in item["requestURI"]]
    assert {item["objectRef"]["resource"] for item in asked} >= {"deployments", "services", "jobs"}
    api.kubectl("annotate", "asr", "english", "-n", acting.namespace, "team=speech")
    acting.publish(job)
    acting.serve()
    acting.until("Ready", ("True", "Serving"))
    time.sleep(6)  # more than one resync
    again = [item["objectRef"] for item in writes(api, acting.namespace) if "dryRun" in item["requestURI"]]
    assert len(again) == len(asked), json.dumps(again)
