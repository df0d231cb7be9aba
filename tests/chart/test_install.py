"""The chart on a real API server: what it accepts, and helm's install, upgrade, rollback and uninstall."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from asr_operator import crd
from tests.support.chart import CHART, IMAGES, OPTIONAL, merged, render
from tests.support.operator import manifest
from tools.testcluster.cluster import ApiServer
from tools.testcluster.machine import ClusterError

EVERYTHING: dict[str, Any] = {
    "imagePullSecrets": [{"name": "registry"}],
    "commonLabels": {"team": "speech"},
    "commonAnnotations": {"owner": "speech"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "infra", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "system-cluster-critical",
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "networkPolicy": {
        "enabled": True,
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "egress": [{"ports": [{"protocol": "TCP", "port": 6443}]}],
    },
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}, "data": {"a": "b"}}
    ],
}


@pytest.mark.parametrize(
    "values",
    [
        {},
        OPTIONAL,
        merged(OPTIONAL, EVERYTHING),
        {"namespaces": ["default", "kube-public"]},
        {"image": {"digest": "sha256:" + "a" * 64}, "settings": {"jobs": {"keepSeconds": 1_000_000}}},
        {"metrics": {"enabled": False}},
    ],
    ids=["default", "optional", "everything", "namespaces", "digest", "no metrics"],
)
def test_the_api_server_accepts_all_that_is_rendered(server: ApiServer, space: str, values: dict[str, Any]) -> None:
    # Warnings, such as those of Pod Security, are errors.
    options = ("--server-side", "--dry-run=server", "--warnings-as-errors")
    listed = {"apiVersion": "v1", "kind": "List", "items": render(values, namespace=space)}
    server.kubectl("apply", *options, "-f", "-", stdin=json.dumps(listed))


@pytest.fixture
def no_crd(server: ApiServer) -> None:
    """The server does not know AsrDeployments."""
    server.kubectl("delete", "crd", crd.NAME, "--ignore-not-found", "--timeout=60s", seconds=70)


@pytest.mark.usefixtures("no_crd")
def test_install_upgrade_rollback_and_uninstall(server: ApiServer, space: str, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps(merged(IMAGES, OPTIONAL)))
    release = (str(CHART), "-n", space, "--values", str(values))
    told = server.helm("install", "asr", *release)
    assert "asr-asr-operator manages AsrDeployments in all namespaces" in told
    assert "WARNING" not in told
    server.apply(manifest(space))

    server.helm("upgrade", "asr", *release, "--set", "settings.workers=8")
    assert settings(server, space)["workers"] == 8
    server.helm("rollback", "asr", "1", "-n", space)
    assert settings(server, space)["workers"] == 4

    server.helm("uninstall", "asr", "-n", space)
    kinds = "deployments,configmaps,serviceaccounts,services,podmonitors,prometheusrules,networkpolicies"
    left = [item["metadata"]["name"] for item in server.get(kinds, "-n", space)["items"]]
    assert not [name for name in left if name.startswith("asr")]
    cluster_wide = server.get("clusterroles,clusterrolebindings")["items"]
    assert not [item for item in cluster_wide if space in item["metadata"]["name"]]
    # The CRD is kept, and with it what users made.
    assert server.get("asr", "english", "-n", space)["spec"]["model"]["name"] == "english_stt"
    # A new installation finds the CRD to be its own.
    server.helm("install", "asr", *release)
    server.helm("uninstall", "asr", "-n", space)


@pytest.mark.usefixtures("no_crd")
def test_a_crd_that_another_release_left_is_taken_over_when_told_so(server: ApiServer, space: str) -> None:
    values = [f"--set={key}.repository=registry.test/{key.lower()}" for key in IMAGES]
    other = f"{space}-other"
    release = ("install", "asr", str(CHART), "--create-namespace", *values)
    server.helm(*release, "-n", space)
    server.helm("uninstall", "asr", "-n", space)
    with pytest.raises(ClusterError, match="exists and cannot be imported into the current release"):
        server.helm(*release, "-n", other)
    server.helm(*release, "-n", other, "--take-ownership")
    server.helm("uninstall", "asr", "-n", other)


def settings(server: ApiServer, space: str) -> dict[str, Any]:
    data = server.get("configmap", "asr-asr-operator", "-n", space)["data"]
    found: dict[str, Any] = yaml.safe_load(data["settings.yaml"])
    return found
