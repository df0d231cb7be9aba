"""Whose the number of replicas is: on a real API server, which knows what each writer owns."""

import json
from typing import Any

import pytest

from tests.support.operator import Acting, manifest
from tools.testcluster.cluster import ApiServer
from tools.testcluster.machine import until

HANDOVER = "asr-operator-handover"
OPERATOR = "asr-operator"
REQUESTS = {"resources": {"requests": {"cpu": 1}}}


def fixed(replicas: int | None = None) -> list[dict[str, Any]]:
    return [{"name": "cpu"} | REQUESTS | ({} if replicas is None else {"replicas": replicas})]


def scaled(least: int, most: int = 9) -> list[dict[str, Any]]:
    return [{"name": "cpu", "autoscaling": {"minReplicas": least, "maxReplicas": most}} | REQUESTS]


def owners(acting: Acting) -> dict[str, int]:
    """Who owns the replicas of the pool's Deployment, each with their number."""
    shown = json.loads(
        acting.server.kubectl(
            "get", "deployment", "english-cpu", "-n", acting.namespace, "-o", "json", "--show-managed-fields"
        )
    )
    managed = shown["metadata"]["managedFields"]
    count: int = shown["spec"]["replicas"]
    return {item["manager"]: count for item in managed if "f:replicas" in item["fieldsV1"].get("f:spec", {})}


def served(acting: Acting, count: int) -> None:
    acting.publish(acting.job("onnx"))
    acting.serve(count=count)
    acting.until("Ready", ("True", "Serving"))


@pytest.mark.usefixtures("running")
def test_an_autoscaled_pool_starts_with_its_fewest_pods_and_then_nobody_but_its_autoscaler_sets_them(
    api: ApiServer, acting: Acting
) -> None:
    api.apply(manifest(acting.namespace, pools=scaled(2)))
    served(acting, 2)
    # Not by the autoscaler: it has written nothing, since there is no metric here.
    until(lambda: owners(acting) == {HANDOVER: 2}, "the replicas to be nobody's")


@pytest.mark.usefixtures("running")
def test_a_pool_that_becomes_autoscaled_keeps_its_pods(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace, pools=fixed(3)))
    served(acting, 3)
    assert owners(acting) == {OPERATOR: 3}
    api.apply(manifest(acting.namespace, pools=scaled(1)))
    until(lambda: owners(acting) == {HANDOVER: 3}, "the replicas to be left to the autoscaler")
    assert acting.get("hpa", "english-cpu")["spec"]["minReplicas"] == 1
    # What the autoscaler sets is its own, whatever changes after that.
    api.kubectl("scale", "deployment", "english-cpu", "-n", acting.namespace, "--replicas=5")
    api.apply(manifest(acting.namespace, pools=[scaled(1)[0] | {"podLabels": {"team": "speech"}}]))
    until(lambda: acting.servers("cpu", 1), "pods of the new template")
    found = owners(acting)
    assert set(found.values()) == {5}
    assert not {OPERATOR, HANDOVER} & set(found)


@pytest.mark.usefixtures("running")
def test_a_pool_without_pods_that_becomes_autoscaled_gets_its_fewest_and_is_paused_by_hand_alone(
    api: ApiServer, acting: Acting
) -> None:
    api.apply(manifest(acting.namespace, pools=fixed(0)))
    acting.publish(acting.job("onnx"))
    acting.until("Ready", ("False", "ScaledToZero"))
    api.apply(manifest(acting.namespace, pools=scaled(2)))
    until(lambda: owners(acting) == {HANDOVER: 2}, "two pods, left to the autoscaler")
    api.kubectl("scale", "deployment", "english-cpu", "-n", acting.namespace, "--replicas=0")
    api.apply(manifest(acting.namespace, pools=[scaled(2)[0] | {"podLabels": {"team": "speech"}}]))
    acting.until("Ready", ("False", "ScaledToZero"))
    assert acting.get("deployment", "english-cpu")["spec"]["replicas"] == 0


@pytest.mark.usefixtures("running")
def test_a_pool_whose_autoscaler_is_taken_away_keeps_its_pods(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace, pools=scaled(1)))
    served(acting, 1)
    api.kubectl("scale", "deployment", "english-cpu", "-n", acting.namespace, "--replicas=4")
    acting.serve(count=4)
    until(lambda: acting.status()["readySummary"] == "4/4", "four pods")
    api.apply(manifest(acting.namespace, pools=fixed()))
    until(lambda: not acting.find("hpa"), "the autoscaler to go")
    until(lambda: owners(acting).get(OPERATOR) == 4, "the operator to keep the four")
    acting.until("Ready", ("True", "Serving"))
    # Now it is the operator's number, so that a hand's change of it is undone,
    api.kubectl("scale", "deployment", "english-cpu", "-n", acting.namespace, "--replicas=6")
    until(lambda: owners(acting) == {OPERATOR: 4}, "four again")
    # and what the user writes counts more.
    api.apply(manifest(acting.namespace, pools=fixed(2)))
    until(lambda: owners(acting) == {OPERATOR: 2}, "two pods")
    api.apply(manifest(acting.namespace, pools=fixed()))
    until(lambda: owners(acting) == {OPERATOR: 1}, "one pod, the default")


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("change", ["app.kubernetes.io/managed-by=Helm", "asr-operator.dev/pool-"])
def test_an_autoscaled_pool_that_loses_a_label_gets_it_back_and_keeps_its_pods(
    api: ApiServer, acting: Acting, change: str
) -> None:
    api.apply(manifest(acting.namespace, pools=scaled(1)))
    served(acting, 1)
    api.kubectl("scale", "deployment", "english-cpu", "-n", acting.namespace, "--replicas=3")
    acting.serve(count=3)
    until(lambda: acting.status()["readySummary"] == "3/3", "three pods")
    before = acting.get("deployment", "english-cpu")["metadata"]
    api.kubectl("label", "deployment", "english-cpu", "-n", acting.namespace, "--overwrite", change)
    until(lambda: acting.get("deployment", "english-cpu")["metadata"]["labels"] == before["labels"], "the label")
    after = acting.get("deployment", "english-cpu")
    assert (after["metadata"]["generation"], after["spec"]["replicas"]) == (before["generation"], 3)
    # It is looked at as before.
    api.kubectl("scale", "deployment", "english-cpu", "-n", acting.namespace, "--replicas=4")
    acting.serve(count=4)
    until(lambda: acting.status()["readySummary"] == "4/4", "four pods")


def notes(acting: Acting, reason: str) -> list[str]:
    return [event["note"] for event in acting.find("events.events.k8s.io") if event["reason"] == reason]


@pytest.mark.usefixtures("running")
def test_a_users_own_autoscaler_is_left_alone_and_named_until_it_goes(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace, pools=fixed()))
    served(acting, 1)
    own = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "mine", "namespace": acting.namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "english-cpu"},
            "minReplicas": 3,
            "maxReplicas": 5,
        },
    }
    api.apply(own)
    until(lambda: owners(acting) == {"kube-controller-manager": 3}, "the autoscaler to ask for three", seconds=60)
    until(lambda: notes(acting, "ReplicasLeftAlone"), "the event")
    assert "HorizontalPodAutoscaler mine sets the replicas of pool cpu" in notes(acting, "ReplicasLeftAlone")[0]
    acting.serve(count=3)
    until(lambda: acting.status()["readySummary"] == "3/3", "three pods")
    api.apply(manifest(acting.namespace, pools=fixed(), service={"annotations": {"a": "b"}}))
    until(lambda: acting.get("service", "english")["metadata"].get("annotations", {}).get("a"), "another pass")
    assert owners(acting) == {"kube-controller-manager": 3}
    # Once it is gone, what the user writes counts.
    api.kubectl("delete", "hpa", "mine", "-n", acting.namespace)
    api.apply(manifest(acting.namespace, pools=fixed(2)))
    until(lambda: owners(acting) == {OPERATOR: 2}, "two pods")


@pytest.mark.usefixtures("running")
def test_an_autoscaler_that_is_no_hpa_is_known_by_how_it_writes(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace, pools=fixed()))
    served(acting, 1)
    scale = ("patch", "deployment", "english-cpu", "-n", acting.namespace, "--subresource=scale", "--type=merge")
    api.kubectl(*scale, "-p", '{"spec": {"replicas": 4}}', "--field-manager=night-scaler")
    until(lambda: notes(acting, "ReplicasLeftAlone"), "the event")
    assert owners(acting) == {"night-scaler": 4}


@pytest.mark.usefixtures("running")
def test_a_pool_with_an_external_autoscaler_starts_with_its_fewest_pods_and_is_then_left_alone(
    api: ApiServer, acting: Acting
) -> None:
    api.apply(
        manifest(acting.namespace, pools=[{"name": "cpu", "autoscaling": {"provider": "External", "minReplicas": 2}}])
    )
    served(acting, 2)
    until(lambda: owners(acting) == {HANDOVER: 2}, "the replicas to be nobody's")
    api.kubectl("scale", "deployment", "english-cpu", "-n", acting.namespace, "--replicas=0")
    acting.until("Ready", ("False", "ScaledToZero"))
    assert acting.find("hpa") == []
    assert acting.get("deployment", "english-cpu")["spec"]["replicas"] == 0
