"""The rights that the chart gives are those that the operator needs, and no others."""

import json
import secrets
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.chart.conftest import RESTRICTED
from tests.support.chart import one, render, service_account
from tests.support.operator import Acting, Operator, gpu_pool, manifest
from tools.testcluster.cluster import ApiServer
from tools.testcluster.machine import ClusterError, until

WRITES = {"create", "patch", "update", "delete"}
SCALED = {
    "cpu": {"maxReplicas": 3, "target": {"cpuUtilizationPercent": 50}},
    "l4": {"maxReplicas": 3, "target": {"pendingRequests": 8}, "provider": "KEDA"},
}


def full(namespace: str) -> dict[str, Any]:
    """A resource with a child of every kind."""
    cpu = {"name": "cpu", "autoscaling": SCALED["cpu"], "resources": {"requests": {"cpu": 1}}}
    pools = [cpu, gpu_pool("l4", autoscaling=SCALED["l4"])]
    return manifest(namespace, pools=pools, networkPolicy={"from": [{"podSelector": {}}]})


def bare(namespace: str) -> dict[str, Any]:
    """What is left when one pool, the autoscalers and the policy go, and the monitor by hand."""
    return manifest(namespace, pools=[gpu_pool("l4")])


def forbidden(operator: Operator) -> list[str]:
    """What the API server refused the operator, by its metrics and by its log."""
    with urllib.request.urlopen(f"http://127.0.0.1:{operator.metrics}/metrics", timeout=5) as response:
        counted = [line for line in response.read().decode().splitlines() if 'code="403"' in line]
    return counted + [line for line in operator.log.read_text().splitlines() if "orbidden" in line or " 403" in line]


def live_through(api: ApiServer, acting: Acting) -> None:
    """Build, serve, roll to a plan, change, remove."""
    api.apply(full(acting.namespace))
    acting.publish(acting.job("onnx"))
    acting.serve("cpu")
    acting.serve("l4")
    acting.until("Ready", ("True", "Serving"))
    acting.publish(acting.job("plan"), "b" * 64)
    acting.until("Ready", ("False", "RollingOut"))
    acting.serve("l4")
    acting.until("Ready", ("True", "Serving"))
    kinds = "deployments,services,pdb,networkpolicies,hpa,podmonitors,scaledobjects,jobs"
    found = {item["kind"] for item in acting.find(kinds)}
    assert len(found) == 8, found
    api.kubectl("delete", "podmonitor", "english", "-n", acting.namespace)
    until(lambda: acting.find("podmonitors"), "the PodMonitor to come back")
    api.apply(bare(acting.namespace))
    gone = "hpa,scaledobjects,networkpolicies"
    until(lambda: not acting.find(gone), "autoscalers and policy to go", seconds=60)
    acting.serve("l4")
    until(lambda: len(acting.find("deployments")) == 1, "the former pool to go", seconds=60)
    acting.until("Ready", ("True", "Serving"))


def test_with_the_charts_rights_the_operator_is_refused_nothing(api: ApiServer, space: str, tmp_path: Path) -> None:
    kubeconfig = service_account(api, tmp_path, namespace=f"{space}-operator")
    operator = Operator(api, tmp_path / "operator", kubeconfig=kubeconfig)
    operator.start()
    live_through(api, Acting(api, space))
    assert forbidden(operator) == []
    assert operator.stop() == 0
    user = f"system:serviceaccount:{space}-operator:asr-asr-operator"
    written = [item for item in api.writes() if item["user"]["username"] == user]
    assert not [item for item in written if item["responseStatus"]["code"] == 403]
    # And no kind is among the rights that it never writes to.
    kinds = {item["objectRef"]["resource"] for item in written}
    rules = one(render(), "ClusterRole", "speech:asr-asr-operator")["rules"]
    granted = {rule["resources"][0] for rule in rules if WRITES & set(rule["verbs"])}
    assert {item.partition("/")[0] for item in granted} == kinds


def test_with_namespaces_it_works_there_and_can_do_nothing_elsewhere(
    api: ApiServer, space: str, tmp_path: Path
) -> None:
    other = f"test-{secrets.token_hex(4)}"
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other, "labels": RESTRICTED}})
    kubeconfig = service_account(api, tmp_path, {"namespaces": [space]}, namespace=f"{space}-operator")
    operator = Operator(api, tmp_path / "operator", kubeconfig=kubeconfig, namespaces=[space])
    operator.start()
    api.apply(manifest(other))
    live_through(api, Acting(api, space))
    assert forbidden(operator) == []
    assert operator.stop() == 0
    assert Acting(api, other).status() == {}
    assert "Forbidden" in attempt(api, kubeconfig, "get", "pods", "-n", other)
    assert "Forbidden" in attempt(api, kubeconfig, "get", "asr", "--all-namespaces")


@pytest.fixture(scope="module")
def account(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kubeconfig of a ServiceAccount in namespace `rights`, where there is something to take away."""
    kubeconfig = service_account(api, tmp_path_factory.mktemp("rights"), namespace="rights")
    api.apply(manifest("rights"))
    return kubeconfig


@pytest.mark.parametrize(
    "asked",
    [
        "get secrets",
        "get configmaps",
        "get namespaces",
        "get nodes",
        "get crds",
        "get roles",
        "create token asr-asr-operator",
        "delete asr english",
        "annotate asr english a=b",
        "delete pods english",
        "get --raw /api/v1/namespaces/rights/pods/english/log",
        "run other --image=x",
    ],
)
def test_other_requests_are_refused(api: ApiServer, account: Path, asked: str) -> None:
    assert "orbidden" in attempt(api, account, *asked.split(), "-n", "rights")


def attempt(api: ApiServer, kubeconfig: Path, *arguments: str) -> str:
    """What kubectl says when it fails, as whom the kubeconfig says."""
    with pytest.raises(ClusterError) as error:
        api.kubectl(f"--kubeconfig={kubeconfig}", *arguments)
    return str(error.value)


def test_no_rule_has_a_wildcard_and_both_modes_have_the_same_rules() -> None:
    cluster = one(render(), "ClusterRole", "speech:asr-asr-operator")["rules"]
    assert "*" not in json.dumps(cluster)
    roles = [item for item in render({"namespaces": ["a", "b"]}) if item["kind"] == "Role"]
    assert [item["metadata"]["namespace"] for item in roles] == ["a", "b"]
    assert all(item["rules"] == cluster for item in roles)
    bindings = [item for item in render({"namespaces": ["a", "b"]}) if item["kind"] == "ClusterRoleBinding"]
    assert bindings == []
