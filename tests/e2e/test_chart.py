"""The chart on a cluster that runs its pod."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asr_operator import crd
from tests.support.chart import CHART
from tools.testcluster.cluster import Cluster
from tools.testcluster.machine import until

FULL = "asr-asr-operator"


@pytest.fixture
def release(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """Arguments of helm for a release that looks after its own namespace."""
    name, _, tag = cluster.use_image("operator").rpartition(":")
    values = {
        "image": {"repository": name, "tag": tag},
        "builderImage": {"repository": "registry.test/never-pulled"},
        "triton": {"images": [{"image": "registry.test/never-pulled:1", "tensorrt": "10.6"}]},
        # Others on this cluster have an operator of their own, and the CRD belongs to one release.
        "namespaces": [namespace],
        "crds": {"enabled": not cluster.kubectl("get", "crd", crd.NAME, "--ignore-not-found"), "keep": False},
        "rbac": {"aggregate": False},
        "networkPolicy": {"enabled": True},
    }
    path = tmp_path / "values.yaml"
    path.write_text(json.dumps(values))
    yield ("asr", str(CHART), "-n", namespace, "--values", str(path), "--wait", "--timeout", "2m")
    cluster.helm("uninstall", "asr", "-n", namespace, "--ignore-not-found", "--wait")


def test_the_operator_gets_ready_answers_and_follows_upgrade_and_rollback(
    cluster: Cluster, namespace: str, release: tuple[str, ...]
) -> None:
    cluster.helm("install", *release, seconds=150)
    first = pod(cluster, namespace)
    assert page(first, 8080, "/healthz")
    assert "asr_operator_last_sync_timestamp_seconds" in page(first, 9090, "/metrics")
    # Its probes found it well from the start: nothing was restarted.
    assert first["status"]["containerStatuses"][0]["restartCount"] == 0
    service = cluster.get("endpointslices", "-n", namespace, "-l", f"kubernetes.io/service-name={FULL}-metrics")
    assert [item["addresses"] for item in service["items"][0]["endpoints"]] == [[first["status"]["podIP"]]]

    cluster.helm("upgrade", *release, "--set", "settings.workers=8", seconds=150)
    second = pod(cluster, namespace)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    cluster.helm("rollback", "asr", "1", "-n", namespace, "--wait", seconds=150)
    third = pod(cluster, namespace)
    assert third["spec"] | {"volumes": 0, "containers": 0} == first["spec"] | {"volumes": 0, "containers": 0}
    assert page(third, 8080, "/healthz")


def test_an_asrdeployment_of_its_namespace_is_looked_after(
    cluster: Cluster, namespace: str, release: tuple[str, ...]
) -> None:
    cluster.helm("install", *release, seconds=150)
    source = {"objectStore": {"uri": "s3://models/english.nemo"}}
    spec = {
        "model": {"name": "english_stt", "source": source},
        "storage": {"uri": "s3://asr-models/prod"},
        "pools": [{"name": "cpu"}],
    }
    metadata = {"name": "english", "namespace": namespace}
    cluster.apply(
        {"apiVersion": "asr-operator.dev/v1alpha1", "kind": "AsrDeployment", "metadata": metadata, "spec": spec}
    )
    until(lambda: cluster.get("jobs", "-n", namespace)["items"], "the build's Job", seconds=60)
    status = until(lambda: cluster.get("asr", "english", "-n", namespace).get("status"), "a status", seconds=30) or {}
    assert {item["type"]: item["reason"] for item in status["conditions"]}["Ready"] == "Building"
    cluster.kubectl("delete", "asr", "english", "-n", namespace)


def pod(cluster: Cluster, namespace: str) -> dict[str, Any]:
    """The operator's only pod, which is ready."""

    def there() -> dict[str, Any] | None:
        selector = "app.kubernetes.io/name=asr-operator"
        found = [
            item
            for item in cluster.get("pods", "-n", namespace, "-l", selector)["items"]
            if "deletionTimestamp" not in item["metadata"]
        ]
        ready = [
            item
            for item in found
            if any(each["type"] == "Ready" and each["status"] == "True" for each in item["status"]["conditions"])
        ]
        return ready[0] if len(found) == len(ready) == 1 else None

    found = until(there, "one operator's pod to be ready", seconds=60)
    assert found is not None
    return found


def page(found: dict[str, Any], port: int, path: str) -> str:
    """What a pod answers to the host."""
    with urllib.request.urlopen(f"http://{found['status']['podIP']}:{port}{path}", timeout=10) as response:
        return str(response.read().decode())
