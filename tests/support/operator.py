"""The operator as a process, and a kubelet's part of the work acted: what a pod's status says of it."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tools.testcluster.cluster import ApiServer
from tools.testcluster.machine import free_ports, until

SETTINGS = {
    "triton": {"images": [{"image": "registry.test/triton:1", "tensorrt": "10.6.0"}]},
    "builderImage": "registry.test/builder:1",
    "operatorImage": "registry.test/operator:1",
    "resyncSeconds": 5,
    "jobs": {"retrySeconds": 3, "backoffLimit": 0},
    "jsonLog": False,
}


def manifest(namespace: str, name: str = "english", **spec: object) -> dict[str, Any]:
    """A small AsrDeployment: one pool on CPU, unless told otherwise."""
    return {
        "apiVersion": "asr-operator.dev/v1alpha1",
        "kind": "AsrDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"name": "english_stt", "source": {"objectStore": {"uri": "s3://models/english.nemo"}}},
            "storage": {"uri": "s3://asr-models/prod"},
            "pools": [{"name": "cpu"}],
        }
        | spec,
    }


def gpu_pool(name: str = "l4", **more: object) -> dict[str, Any]:
    """A pool on L4 GPUs."""
    return {"name": name, "gpu": {"product": "NVIDIA-L4", "computeCapability": "8.9"}} | more


class Operator:
    """`asr-operator run` over one API server, by its kubeconfig or another one."""

    def __init__(self, server: ApiServer, folder: Path, *, kubeconfig: Path | None = None, **settings: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._environment = server.environment | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})
        ports = free_ports(["health", "metrics"])
        self.health, self.metrics = ports["health"], ports["metrics"]
        self._settings = folder / "settings.yaml"
        own = {"healthPort": self.health, "metricsPort": self.metrics}
        self._settings.write_text(yaml.safe_dump(SETTINGS | own | settings))
        self.log = folder / "operator.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it is up when its watches are."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "asr_operator", "run"],
                env=os.environ | self._environment | {"ASR_OPERATOR_SETTINGS": str(self._settings)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """As a node that fails does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """As Kubernetes does; returns its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)


class Acting:
    """Acts the kubelet and looks on, in one namespace."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server = server
        self.namespace = namespace

    def find(self, kind: str, *options: str) -> list[dict[str, Any]]:
        """Objects of the namespace."""
        return list(self.server.get(kind, "-n", self.namespace, *options)["items"])

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object."""
        return self.server.get(kind, name, "-n", self.namespace)

    def status(self, name: str = "english") -> dict[str, Any]:
        """Status of a resource; empty before there is one."""
        return dict(self.get("asr", name).get("status", {}))

    def condition(self, kind: str, name: str = "english") -> tuple[str, str] | None:
        """Status and reason of a condition."""
        for item in self.status(name).get("conditions", ()):
            if item["type"] == kind:
                return item["status"], item["reason"]
        return None

    def until(self, kind: str, expected: tuple[str, str] | None, name: str = "english", *, seconds: float = 30) -> None:
        """Wait for a condition of this generation."""

        def there() -> bool:
            resource = self.get("asr", name)
            status = resource.get("status", {})
            return (
                status.get("observedGeneration") == resource["metadata"]["generation"]
                and self.condition(kind, name) == expected
            )

        until(there, f"{kind} {expected} of {name}: {self.status(name)}", seconds=seconds)

    def job(self, kind: str, *, other_than: str = "") -> dict[str, Any]:
        """The Job of a build (`build` or `onnx`, `plan`) whose pod is there."""

        def there() -> dict[str, Any] | None:
            for job in self.find("jobs"):
                name = job["metadata"]["name"]
                if name.startswith(f"asr-{kind}-") and job["metadata"]["uid"] != other_than and self.pods(name):
                    return job
            return None

        found = until(there, f"a Job that builds {kind}", seconds=30)
        assert found is not None
        return found

    def pods(self, job: str) -> list[dict[str, Any]]:
        """Pods of a Job."""
        return self.find("pods", "-l", f"batch.kubernetes.io/job-name={job}")

    def end(self, job: dict[str, Any], code: int, message: dict[str, Any]) -> None:
        """The pod of a Job ends, as a kubelet would tell it."""
        for pod in self.pods(job["metadata"]["name"]):
            ended = {"exitCode": code, "reason": "Error" if code else "Completed", "message": json.dumps(message)}
            ended["finishedAt"] = now()
            self._patch(
                pod,
                {
                    "phase": "Failed" if code else "Succeeded",
                    "containerStatuses": [container("build", {"terminated": ended}, ready=False)],
                },
            )

    def publish(self, job: dict[str, Any], digest: str = "a" * 64, **more: object) -> None:
        """A build ends well, and says what it has published."""
        plan = job["metadata"]["name"].startswith("asr-plan")
        told: dict[str, Any] = {"engine": "TensorRT" if plan else "OnnxRuntime", "manifestSha256": digest}
        told |= {"uri": f"s3://asr-models/prod/english_stt/{digest}", "werPermille": 9, "bytes": 9_000_000}
        if plan:
            told |= {"gpuProduct": "NVIDIA-L4", "computeCapability": "8.9", "tensorrt": "10.6.0"}
        self.end(job, 0, told | more)

    def serve(self, pool: str = "cpu", count: int = 1, *, revision: str | None = None) -> None:
        """The pods of a pool get ready."""
        for pod in self.servers(pool, count, revision=revision):
            self._patch(
                pod,
                {
                    "phase": "Running",
                    "conditions": [
                        {"type": kind, "status": "True", "lastTransitionTime": now()}
                        for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
                    ],
                    "containerStatuses": [container("triton", {"running": {}}, ready=True)],
                },
            )

    def servers(self, pool: str, count: int, *, revision: str | None = None) -> list[dict[str, Any]]:
        """The serving pods of a pool, of its newest template."""

        def there() -> list[dict[str, Any]]:
            name = f"english-{pool}"
            deployments = [item for item in self.find("deployments") if item["metadata"]["name"] == name]
            if not deployments:
                return []
            wanted = revision or revision_of(deployments[0]["spec"]["template"])
            pods = self.find("pods", "-l", f"asr-operator.dev/pool={pool}")
            found = [pod for pod in pods if revision_of(pod) == wanted and "deletionTimestamp" not in pod["metadata"]]
            return found if len(found) >= count else []

        return until(there, f"{count} pods of pool {pool}", seconds=30)

    def fail_fetch(self, pool: str, code: int, message: str) -> None:
        """The init container of the pods of a pool ends with an error."""
        ended = {
            "exitCode": code,
            "reason": "Error",
            "message": json.dumps({"reason": "X", "message": message}),
            "finishedAt": now(),
        }
        for pod in self.servers(pool, 1):
            state = {"waiting": {"reason": "CrashLoopBackOff"}}
            status = container("fetch", state, ready=False) | {"lastState": {"terminated": ended}}
            conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]
            self._patch(pod, {"phase": "Pending", "conditions": conditions, "initContainerStatuses": [status]})

    def _patch(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        patch = json.dumps({"status": status})
        self.server.kubectl(
            "patch", "pod", name, "-n", self.namespace, "--subresource=status", "--type=merge", "--patch", patch
        )


def now() -> str:
    """As Kubernetes writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def container(name: str, state: dict[str, Any], *, ready: bool) -> dict[str, Any]:
    """Status of a container."""
    return {"name": name, "image": "x", "imageID": "x", "restartCount": 0, "ready": ready, "state": state}


def revision_of(template: dict[str, Any]) -> str:
    """What tells one pod template of the operator from another."""
    return str(template["metadata"]["annotations"]["asr-operator.dev/revision"])
