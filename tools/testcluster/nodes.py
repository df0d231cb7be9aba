"""Acted GPU nodes: what the scheduler sees of a GPU, without one. See README.md in this folder."""

import json
from typing import Any

from tools.testcluster.cluster import ApiServer
from tools.testcluster.components import NODE

GPU = "nvidia.com/gpu"


def gpu_labels(product: str, capability: str, *, memory_mib: int = 0) -> dict[str, str]:
    """Labels that NVIDIA's GPU feature discovery gives a node.

    Args:
        product: As in `nvidia.com/gpu.product`: `NVIDIA-L4`, `NVIDIA-A100-SXM4-80GB-MIG-1g.10gb`.
        capability: Compute capability, such as `8.9`.
        memory_mib: Of one GPU.
    """
    major, minor = capability.split(".")
    return {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.compute.major": major,
        "nvidia.com/gpu.compute.minor": minor,
        "nvidia.com/gpu.memory": str(memory_mib),
    }


def node(name: str, *, gpus: int = 0, resource: str = GPU, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """A ready Node of 32 CPUs that no kubelet is behind: pods are placed there, and never run."""
    capacity = {"cpu": "32", "memory": "128Gi", "pods": "110", "ephemeral-storage": "500Gi"}
    capacity |= {resource: str(gpus)} if gpus else {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name} | (labels or {})},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Acted"}],
        },
    }


def add_nodes(server: ApiServer, *nodes: dict[str, Any]) -> None:
    """Create Nodes as `node` makes them, and report their status as a kubelet would."""
    server.apply(*nodes)
    for each in nodes:
        name = each["metadata"]["name"]
        _patch(server, name, {"status": each["status"]}, "--subresource=status")
        # Admission taints every new node until its first report.
        _patch(server, name, {"spec": {"taints": None}})


def act_gpus(server: ApiServer, gpus: int, labels: dict[str, str], *, resource: str = GPU, name: str = NODE) -> None:
    """Give the real node GPUs that do not exist: pods that ask for them run there. 0 takes them away again.

    Labels that are given as an empty text are removed.
    """
    _patch(server, name, {"metadata": {"labels": {key: value or None for key, value in labels.items()}}})
    amount = {resource: str(gpus) if gpus else None}
    _patch(server, name, {"status": {"capacity": amount, "allocatable": amount}}, "--subresource=status")


def _patch(server: ApiServer, name: str, patch: dict[str, Any], *options: str) -> None:
    server.kubectl("patch", "node", name, "--type=merge", "--patch", json.dumps(patch), *options)
