"""The chart, rendered by helm; and who it makes the operator be."""

import json
from pathlib import Path
from typing import Any

import yaml

from tools.testcluster import machine
from tools.testcluster.cluster import HELM, PROJECT, ApiServer

CHART = PROJECT / "charts" / "asr-operator"
KUBERNETES = "1.34.2"
"""Helm itself would ask the cluster."""
IMAGES = {
    "image": {"repository": "registry.test/asr-operator"},
    "builderImage": {"repository": "registry.test/builder"},
}
"""The least that installs."""
OPTIONAL = {
    "metrics": {"podMonitor": {"enabled": True}},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
    "networkPolicy": {"enabled": True},
}
"""All that is off by default."""
Object = dict[str, Any]


def merged(*values: Object) -> Object:
    """Values as helm lays them over one another."""
    found: Object = {}
    for each in values:
        for key, value in each.items():
            both = isinstance(value, dict) and isinstance(found.get(key), dict)
            found[key] = merged(found[key], value) if both else value
    return found


def render(*values: Object, release: str = "asr", namespace: str = "speech", images: bool = True) -> list[Object]:
    """The objects of the chart.

    Raises:
        ClusterError: Helm refuses the values; in its words.
    """
    text = json.dumps(merged(IMAGES if images else {}, *values))
    command = [str(HELM), "template", release, str(CHART), "--namespace", namespace, "--values", "-"]
    printed = machine.run([*command, "--kube-version", KUBERNETES], environment={}, stdin=text)
    return [found for found in yaml.safe_load_all(printed) if found]


def one(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """The only object of a kind, or of that name."""
    (found,) = [item for item in objects if item["kind"] == kind and name in {None, item["metadata"]["name"]}]
    return found


def service_account(server: ApiServer, folder: Path, *values: Object, namespace: str = "asr-operator") -> Path:
    """Give an API server the chart's ServiceAccount with its rights; returns a kubeconfig of who it is.

    Args:
        server: The API server.
        folder: For the kubeconfig.
        values: Of the chart.
        namespace: Of the ServiceAccount.
    """
    server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    kinds = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    server.apply(*(item for item in render(*values, namespace=namespace) if item["kind"] in kinds))
    token = server.kubectl("create", "token", "asr-asr-operator", "-n", namespace, "--duration=2h").strip()
    admin = json.loads(server.kubeconfig.read_text())
    path = folder / "kubeconfig"
    path.write_text(json.dumps(admin | {"users": [{"name": "asr-test", "user": {"token": token}}]}))
    return path
