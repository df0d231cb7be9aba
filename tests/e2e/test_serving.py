"""A published artifact is served in a pod: fetched from S3 by the operator's image, by the Triton of the cluster."""

import json
from pathlib import Path
from typing import Any

import pytest

from model_builder.audio_set import SHIPPED, TRANSCRIPTS
from tests.support.programs import program
from tools.testcluster import machine, services
from tools.testcluster.cluster import PROJECT, Cluster
from tools.testcluster.pods import await_ready, pod, pod_spec
from tools.testcluster.services import S3

NAME = "english_stt"
SECONDS = 300
SPOKEN = ("flite_awb_0013.wav", "en_us_nyc_david_0003.wav")


@pytest.fixture
def storage(cluster: Cluster, namespace: str) -> S3:
    return services.start_s3(cluster, namespace)


@pytest.fixture
def artifact(storage: S3, tmp_path: Path) -> str:
    """The demo checkpoint, built on the host and published into the cluster; its URI."""
    source = ("--source", str(PROJECT / "demo/english_stt.nemo"), "--name", NAME)
    command = [program("model-builder"), "build", *source, "--storage", storage.uri, "--work", str(tmp_path / "work")]
    return machine.run(command, environment=storage.environment, seconds=SECONDS).splitlines()[-1]


def server(cluster: Cluster, storage: S3, artifact: str) -> dict[str, Any]:
    """A pod as the operator makes it: an init container fetches, Triton serves, the file system is read-only."""
    spec = pod_spec(
        cluster.use_image("triton"),
        *("tritonserver", f"--model-repository=/models/{NAME}", "--strict-readiness=true", "--exit-on-error=true"),
        *("--disable-auto-complete-config", "--backend-config=python,shm-default-byte-size=16777216"),
    )
    (triton,) = spec["containers"]
    fetch = triton | {
        "name": "fetch",
        "image": cluster.use_image("operator"),
        "command": ["model-builder", "fetch", artifact, f"/models/{NAME}"],
        "envFrom": [{"secretRef": {"name": storage.secret}}],
        "volumeMounts": [{"name": "models", "mountPath": "/models"}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - a pod's own
    }
    triton |= {
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8000}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "models", "mountPath": "/models", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }
    spec["securityContext"]["fsGroup"] = 65532
    volumes = [{"name": "models", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}}
    return spec | {"initContainers": [fetch], "volumes": [*volumes, shm]}


def test_a_published_artifact_is_served_in_a_restricted_pod(
    cluster: Cluster, namespace: str, storage: S3, artifact: str
) -> None:
    cluster.apply(pod("stt", namespace, server(cluster, storage, artifact)))
    await_ready(cluster, namespace, "stt", seconds=SECONDS)
    address = cluster.get("pod", "stt", "-n", namespace)["status"]["podIP"]
    files = [str(SHIPPED / name) for name in SPOKEN]
    said = machine.run(
        [program("asr"), "transcribe", "--json", "--url", f"{address}:8001", "--model", NAME, *files],
        environment={"NO_PROXY": address, "no_proxy": address},
        seconds=SECONDS,
    )
    spoken = json.loads((SHIPPED / TRANSCRIPTS).read_text())
    assert [json.loads(line)["text"] for line in said.splitlines()] == [spoken[name]["text"] for name in SPOKEN]
