"""Small pods for tests of clusters."""

from typing import Any

from tools.testcluster.cluster import Cluster
from tools.testcluster.machine import until


def pod_spec(image: str, *command: str, cpu: str = "10m") -> dict[str, Any]:
    """A pod that restricted Pod Security admits."""
    return {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "main",
                "image": image,
                "command": list(command),
                "workingDir": "/usr/lib",
                "resources": {"requests": {"cpu": cpu}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }


def pod(name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A Pod with the label `app`."""
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def service(name: str, namespace: str, *, app: str) -> dict[str, Any]:
    """A Service whose port 80 leads to port 8080 of the pods with that label."""
    spec = {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": 8080}]}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def await_ready(cluster: Cluster, namespace: str, name: str, *, seconds: int = 60) -> None:
    """Wait until a pod is ready."""
    waited = f"--timeout={seconds}s"
    cluster.kubectl("wait", "-n", namespace, "--for=condition=Ready", f"pod/{name}", waited, seconds=seconds + 10)


def run_to_end(cluster: Cluster, namespace: str, name: str, spec: dict[str, Any]) -> str:
    """Run a pod until its containers have ended well, two minutes at most; returns the log.

    Raises:
        AssertionError: It failed; with the log.
    """
    cluster.apply(pod(name, namespace, spec | {"restartPolicy": "Never"}))

    def ended() -> str:
        phase: str = cluster.get("pod", name, "-n", namespace)["status"]["phase"]
        return phase if phase in {"Succeeded", "Failed"} else ""

    phase = until(ended, f"pod {name} to end")
    log = cluster.kubectl("logs", "-n", namespace, name)
    assert phase == "Succeeded", log
    return log
