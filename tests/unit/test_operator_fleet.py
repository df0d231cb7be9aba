"""What the operator tells Prometheus of its resources, their builds and their pods."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from asr_operator import metrics
from asr_operator.api import v1alpha1 as api
from asr_operator.fleet import Fleet
from asr_operator.lifetime import End, Start, build_of, end_of, start_of
from asr_operator.render.autoscaler import horizontalpodautoscaler, scaledobject
from asr_operator.store import Store
from tests.support.operator_examples import context, example

Object = dict[str, Any]
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = {"app.kubernetes.io/instance": "english", "asr-operator.dev/pool": "l4"}


def at(seconds: float) -> str:
    return (BEGAN + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def server(*, began: float = 0, **state: Object) -> Object:
    """A serving pod: it has a node after 1 s, fetches from 4 to 10 s, is ready after 30 s."""
    ended = {"startedAt": at(began + 4), "finishedAt": at(began + 10), "exitCode": 0}
    return {
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "n",
            "uid": "p",
            "resourceVersion": "1",
            "creationTimestamp": at(began),
            "labels": LABELS,
        },
        "status": {
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(began + 1)},
                {"type": "Ready", "status": "True", "lastTransitionTime": at(began + 30)},
            ],
            "initContainerStatuses": [{"name": "fetch", "restartCount": 0, "state": {"terminated": ended}}],
            "containerStatuses": [{"name": "triton", "restartCount": 0, "state": state or {"running": {}}}],
        },
    }


def ended(code: int, *, reason: str = "Error", seconds: float = 100) -> Object:
    return {"exitCode": code, "reason": reason, "finishedAt": at(seconds)}


def draining(pod: Object, *, asked: float = 60, grace: int = 90) -> Object:
    deletion = {"deletionTimestamp": at(asked + grace), "deletionGracePeriodSeconds": grace}
    return pod | {"metadata": pod["metadata"] | deletion}


def test_the_parts_of_a_start_add_up() -> None:
    found = start_of(server())
    assert found == {Start.SCHEDULE: 1, Start.PREPARE: 3, Start.FETCH: 6, Start.LOAD: 20, Start.TOTAL: 30}


def test_a_pod_that_is_not_ready_has_not_started() -> None:
    pod = server()
    pod["status"]["conditions"][1]["status"] = "False"
    assert start_of(pod) is None


@pytest.mark.parametrize("kind", ["containerStatuses", "initContainerStatuses"])
def test_of_a_container_that_was_started_again_only_the_last_attempt_is_told_which_is_no_start(kind: str) -> None:
    pod = server()
    pod["status"][kind][0]["restartCount"] = 1
    assert start_of(pod) is None


@pytest.mark.parametrize(
    ("pod", "gone", "end"),
    [
        (server(), False, None),
        (draining(server()), False, None),
        (draining(server(terminated=ended(0))), True, None),
        (draining(server(terminated=ended(143))), True, None),
        (draining(server(terminated=ended(137))), False, End.KILLED),
        (server(terminated=ended(137)), False, End.KILLED),
        (server(terminated=ended(137, reason="OOMKilled")), False, End.OUT_OF_MEMORY),
        (draining(server(terminated=ended(1))), True, End.FAILED),
        (server(terminated=ended(1)), False, None),
        (draining(server(terminated=ended(1, seconds=50)), asked=60), True, None),
        (server(), True, End.GONE),
        (server(waiting={"reason": "ContainerCreating"}), True, None),
        (server(terminated=ended(137, seconds=-5)), False, None),
    ],
    ids=[
        "it runs",
        "it drains",
        "drained",
        "told to end before it served",
        "its grace period was over",
        "killed where it was",
        "out of memory",
        "failed while it drained",
        "failed by itself: the resource's conditions tell of that",
        "failed before it was told to end",
        "deleted by force",
        "deleted before it ran",
        "ended before the operator began",
    ],
)
def test_a_server_that_ended_drained_or_not(pod: Object, gone: bool, end: End | None) -> None:
    assert end_of(pod, gone=gone, since=BEGAN) == end


def test_a_server_that_was_started_again_after_it_ran_out_of_memory_has_not_drained() -> None:
    pod = server()
    pod["status"]["containerStatuses"][0]["lastState"] = {"terminated": ended(137, reason="OOMKilled")}
    assert end_of(pod, gone=False, since=BEGAN) is End.OUT_OF_MEMORY


def job(kind: str, *, uid: str = "j", took: float = 90, began: float = 0) -> Object:
    done = {"type": kind, "status": "True", "lastTransitionTime": at(began + took)}
    return {
        "kind": "Job",
        "metadata": {"name": uid, "namespace": "n", "uid": uid},
        "status": {"startTime": at(began), "conditions": [done]},
    }


def test_a_builds_outcome_and_time() -> None:
    assert build_of(job("Complete"), since=BEGAN) == (True, 90)
    assert build_of(job("Failed", took=20), since=BEGAN) == (False, 20)
    assert build_of(job("FailureTarget"), since=BEGAN) is None


def test_a_build_that_ended_before_the_operator_began_is_not_counted() -> None:
    assert build_of(job("Failed", began=-100), since=BEGAN) is None


def resource(name: str = "english", **conditions: str) -> Object:
    told = [
        {"type": kind, "status": status, "reason": reason}
        for kind, (status, reason) in ((kind, value.split(" ")) for kind, value in conditions.items())
    ]
    return {
        "kind": api.KIND,
        "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1"},
        "spec": {"pools": [{"name": "l4"}]},
        "status": {"conditions": told},
    }


class Seen:
    """A fleet, what it has seen, and what Prometheus would read of it."""

    def __init__(self, *resources: Object) -> None:
        self.store = Store()
        for body in resources:
            self.store.put(api.KIND, body)
        self.fleet = Fleet(self.store)
        self.fleet._since = BEGAN
        self.registry = CollectorRegistry()
        self.registry.register(self.fleet)

    def value(self, metric: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(metric, {"namespace": "n", "name": "english"} | labels)

    def names(self) -> set[str]:
        return {sample.labels["name"] for family in self.registry.collect() for sample in family.samples}


def test_each_condition_is_one_or_zero_and_what_is_wrong_has_its_reason() -> None:
    seen = Seen(resource(Ready="True Serving", Serving="True Serving", Built="False PlanFailed", Degraded="True X"))
    assert {kind: seen.value("asr_deployment_condition", type=kind) for kind in ("Ready", "Built", "Degraded")} == {
        "Ready": 1,
        "Built": 0,
        "Degraded": 1,
    }
    assert seen.value("asr_deployment_condition", type="Stalled") == 0
    assert seen.value("asr_deployment_problem", type="Built", reason="PlanFailed") == 1
    assert seen.value("asr_deployment_problem", type="Degraded", reason="X") == 1
    assert seen.value("asr_deployment_problem", type="Ready", reason="Serving") is None


def test_work_that_goes_on_is_no_problem() -> None:
    seen = Seen(resource(Ready="True Serving", Reconciling="True RollingOut"))
    assert seen.value("asr_deployment_condition", type="Reconciling") == 1
    assert seen.value("asr_deployment_problem", type="Reconciling", reason="RollingOut") is None


def test_a_resource_that_is_gone_has_no_metrics() -> None:
    seen = Seen(resource(), resource("german"))
    assert seen.names() == {"english", "german"}
    seen.store.drop(api.KIND, resource())
    assert seen.names() == {"german"}


def child(kind: str, spec: Object, status: Object | None = None) -> Object:
    metadata = {"name": "english-l4", "namespace": "n", "uid": kind, "resourceVersion": "1", "labels": LABELS}
    return {"kind": kind, "metadata": metadata, "spec": spec, "status": status or {}}


def test_a_pools_replicas_are_those_of_its_deployment() -> None:
    seen = Seen(resource())
    seen.store.put("Deployment", child("Deployment", {"replicas": 3}, {"readyReplicas": 2}))
    assert seen.value("asr_pool_wanted_replicas", pool="l4") == 3
    assert seen.value("asr_pool_ready_replicas", pool="l4") == 2
    assert seen.value("asr_pool_max_replicas", pool="l4") is None


@pytest.mark.parametrize("provider", ["HPA", "KEDA"])
@pytest.mark.parametrize(
    ("signal", "value"), [("pendingRequests", 8), ("audioSecondsPerSecond", 8000), ("cpuUtilizationPercent", 70)]
)
def test_what_a_pool_is_scaled_by_is_read_of_its_autoscaler(provider: str, signal: str, value: int) -> None:
    body = example()
    scaling = {"minReplicas": 1, "maxReplicas": 4, "target": {signal: value}, "provider": provider}
    body["spec"]["pools"] = [{"name": "l4", "autoscaling": scaling}]
    found = context(body)
    (pool,) = found.spec.pools
    seen = Seen(resource())
    for rendered in (horizontalpodautoscaler(found, pool, None), scaledobject(found, pool, None)):
        if rendered is not None:
            text = json.dumps(rendered["spec"]).replace('"8000"', '"8k"' if provider == "HPA" else '"8000"')
            seen.store.put(rendered["kind"], child(rendered["kind"], json.loads(text)))  # as the API server writes it
    assert seen.value("asr_pool_max_replicas", pool="l4") == 4
    assert seen.value("asr_pool_target", pool="l4", signal=signal) == value


def keda_autoscaler() -> Object:
    """As KEDA makes it of our ScaledObject, whose labels it copies."""
    metric = {"type": "External", "external": {"metric": {"name": "s0-prometheus"}, "target": {"averageValue": "8"}}}
    found = child("HorizontalPodAutoscaler", {"maxReplicas": 4, "metrics": [metric]})
    owner = {"kind": "ScaledObject", "name": "english-l4", "uid": "ScaledObject", "controller": True}
    return found | {"metadata": found["metadata"] | {"name": "keda-hpa-english-l4", "ownerReferences": [owner]}}


def test_an_autoscaler_that_keda_has_made_is_none_of_ours() -> None:
    store = Store()
    assert not store.put("HorizontalPodAutoscaler", keda_autoscaler())
    assert store.keys("HorizontalPodAutoscaler") == []


def test_an_autoscaler_that_somebody_edits_has_no_target_and_breaks_no_scrape() -> None:
    seen = Seen(resource())
    edited = keda_autoscaler()
    del edited["metadata"]["ownerReferences"]
    seen.store.put("HorizontalPodAutoscaler", edited)
    assert seen.value("asr_pool_max_replicas", pool="l4") == 4
    assert seen.value("asr_pool_target", pool="l4", signal="pendingRequests") is None


def test_a_pod_that_was_killed_counts_once_for_its_resource() -> None:
    seen = Seen(resource())
    assert seen.value("asr_deployment_undrained_pods_total") == 0
    killed = draining(server(terminated=ended(137)))
    seen.fleet.see("Pod", killed, gone=False)
    seen.fleet.see("Pod", killed, gone=False)
    assert seen.value("asr_deployment_undrained_pods_total") == 1


def observed(histogram: str, **labels: str) -> tuple[float, float]:
    """Number and sum of what a histogram of the operator has observed."""
    families = {family.name: family for family in (*metrics.BUILDS.collect(), *metrics.STARTS.collect())}
    samples = {
        sample.name.removeprefix(histogram): sample.value
        for sample in families[histogram].samples
        if sample.labels == labels
    }
    return samples["_count"], samples["_sum"]


def test_each_pods_start_is_observed_once_and_not_that_of_pods_before_the_operator() -> None:
    seen = Seen(resource())
    count, total = observed("asr_pod_start_seconds", phase="load")
    for _ in range(2):
        seen.fleet.see("Pod", server(), gone=False)
    seen.fleet.see("Pod", server(began=-10), gone=False)
    assert observed("asr_pod_start_seconds", phase="load") == (count + 1, total + 20)


def test_each_build_is_observed_once_by_its_outcome() -> None:
    seen = Seen(resource())
    count, total = observed("asr_build_seconds", outcome="error")
    for _ in range(2):
        seen.fleet.see("Job", job("Failed"), gone=False)
    assert observed("asr_build_seconds", outcome="error") == (count + 1, total + 90)


def test_objects_of_other_kinds_and_without_labels_are_no_error() -> None:
    seen = Seen(resource())
    bare = {"kind": "Pod", "metadata": {"name": "x", "namespace": "n", "uid": "x"}}
    for kind in ("Pod", "Job", "Service"):
        seen.fleet.see(kind, json.loads(json.dumps(bare)), gone=True)
    assert seen.value("asr_deployment_undrained_pods_total") == 0
