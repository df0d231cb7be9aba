"""Pods that share a volume: one of them downloads, and the others start from what is there, also without storage."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.platform import Speech
from tools.testcluster.machine import ClusterError, until

NAME = "cached"
CLAIM = "models"
FOLDER = "/var/tmp/asr-models"  # noqa: S108 (the node's)
SERVERS = f"app.kubernetes.io/component=server,app.kubernetes.io/instance={NAME}"
MOST_ERRORS = 0.02


@pytest.fixture
def claim(speech: Speech) -> Iterator[str]:
    """A claim that is bound by hand: the cluster has nothing that provides volumes."""
    speech.cluster.node("mkdir", "-p", FOLDER)
    speech.cluster.node("chmod", "777", FOLDER)  # a hostPath does not follow fsGroup
    common = {"storageClassName": "", "accessModes": ["ReadWriteMany"], "volumeMode": "Filesystem"}
    where = {"claimRef": {"name": CLAIM, "namespace": speech.namespace}, "hostPath": {"path": FOLDER}}
    speech.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": CLAIM},
            "spec": common | where | {"capacity": {"storage": "1Gi"}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": CLAIM, "namespace": speech.namespace},
            "spec": common | {"volumeName": CLAIM, "resources": {"requests": {"storage": "1Gi"}}},
        },
    )
    yield CLAIM
    speech.delete(NAME)
    speech.cluster.kubectl("delete", "pod", "-n", speech.namespace, "-l", SERVERS, "--grace-period=0", "--force")
    speech.cluster.kubectl("delete", "pvc", CLAIM, "-n", speech.namespace)
    speech.cluster.kubectl("delete", "pv", CLAIM)
    speech.cluster.node("rm", "-rf", FOLDER)


def downloads(speech: Speech) -> int:
    """Pods that have downloaded, of those that are there."""
    logs = [
        speech.cluster.kubectl("logs", pod["metadata"]["name"], "-n", speech.namespace, "-c", "fetch")
        for pod in speech.find("pods", SERVERS)
    ]
    return sum('"message": "finished", "task": "fetch"' in log for log in logs)


def held(speech: Speech, lock: str) -> bool:
    """Whether some process holds it."""
    try:
        speech.cluster.node("flock", "--nonblock", "--exclusive", f"{FOLDER}/{lock}", "true")
    except ClusterError:
        return True
    return False


def test_pods_that_share_a_volume_download_once_and_start_without_storage(speech: Speech, claim: str) -> None:
    pool = {"name": "cpu", "replicas": 2, "modelVolume": {"claimName": claim, "sizeLimit": "512Mi"}}
    speech.apply(NAME, pools=[pool])
    speech.ready(NAME, seconds=600)
    until(lambda: speech.status(NAME)["readySummary"] == "2/2", "two pods", seconds=120)
    assert downloads(speech) == 1
    (artifact,) = speech.status(NAME)["artifacts"]
    lock = f"{artifact['manifestSha256'][:16]}.lock"
    assert held(speech, lock)

    with storage_away(speech):
        old = [pod["metadata"]["name"] for pod in speech.find("pods", SERVERS)]
        speech.cluster.kubectl("delete", "pod", *old, "-n", speech.namespace, "--grace-period=0", "--force")
        until(lambda: len(ready(speech) - set(old)) == 2, "pods that started without storage", seconds=180)
    assert downloads(speech) == 0
    assert held(speech, lock)
    assert speech.errors(NAME).rate <= MOST_ERRORS


def ready(speech: Speech) -> set[str]:
    """Names of the pods that serve."""
    return {
        pod["metadata"]["name"]
        for pod in speech.find("pods", SERVERS)
        if any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"].get("conditions", ()))
    }


@contextmanager
def storage_away(speech: Speech) -> Iterator[None]:
    """Nobody reaches the S3 server while the block runs; its objects are not lost."""

    def point_to(name: str) -> None:
        patch = json.dumps({"spec": {"selector": {"app.kubernetes.io/name": name}}})
        speech.cluster.kubectl("patch", "service", "s3", "-n", speech.namespace, "--patch", patch)

    point_to("nobody")
    try:
        yield
    finally:
        point_to("s3")
