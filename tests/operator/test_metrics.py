"""What the operator tells Prometheus of resources on a real API server."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.support.operator import Acting, Operator, gpu_pool, manifest
from tools.testcluster.cluster import ApiServer
from tools.testcluster.machine import until


def told(operator: Operator, namespace: str) -> dict[tuple[str, ...], float]:
    """Of the resources of a namespace: values by name of the metric and the other labels' values."""
    with urllib.request.urlopen(f"http://127.0.0.1:{operator.metrics}/metrics", timeout=10) as response:
        families = text_string_to_metric_families(response.read().decode())
    return {
        (sample.name, *sorted(value for name, value in sample.labels.items() if name != "namespace")): sample.value
        for family in families
        for sample in family.samples
        if sample.labels.get("namespace") == namespace
    }


def test_a_resource_is_told_of_while_it_is_there(api: ApiServer, acting: Acting, running: Operator) -> None:
    scaling = {"maxReplicas": 3, "target": {"audioSecondsPerSecond": 8000}}
    api.apply(manifest(acting.namespace, pools=[gpu_pool(autoscaling=scaling)]))
    acting.publish(acting.job("onnx"))
    acting.serve("l4")
    acting.until("Degraded", ("True", "PlanNotReady"))
    expected = {
        ("asr_deployment_condition", "Serving", "english"): 1,
        ("asr_deployment_condition", "Degraded", "english"): 1,
        ("asr_deployment_condition", "Stalled", "english"): 0,
        ("asr_deployment_problem", "Degraded", "PlanNotReady", "english"): 1,
        ("asr_pool_wanted_replicas", "english", "l4"): 1,
        ("asr_pool_ready_replicas", "english", "l4"): 1,
        ("asr_pool_max_replicas", "english", "l4"): 3,
        ("asr_pool_target", "audioSecondsPerSecond", "english", "l4"): 8000,
    }
    until(lambda: expected.items() <= told(running, acting.namespace).items(), "its metrics", seconds=30)
    api.kubectl("delete", "asr", "english", "-n", acting.namespace)
    until(lambda: told(running, acting.namespace) == {}, "its metrics to be gone", seconds=30)
