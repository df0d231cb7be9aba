"""What goes wrong around the operator, for real: the API server, other writers, nodes."""

import functools
import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asr_operator import crd
from tests.support import definitions
from tests.support.chart import service_account
from tests.support.operator import Acting, Operator, manifest
from tests.support.refusing_api import refusing
from tools.testcluster.cluster import ApiServer
from tools.testcluster.machine import ClusterError, until
from tools.testcluster.nodes import add_nodes, node

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@contextmanager
def running(operator: Operator) -> Iterator[Operator]:
    operator.start()
    try:
        yield operator
    finally:
        assert operator.stop() == 0, operator.log.read_text()[-3000:]


def served(acting: Acting, digest: str = "a" * 64) -> None:
    acting.publish(acting.job("onnx"), digest)
    acting.serve()
    acting.until("Ready", ("True", "Serving"))


@pytest.mark.parametrize("code", [409, 429, 500, 503])
def test_a_change_that_the_api_server_cannot_make_now_is_made_later(
    alone: ApiServer, acting_alone: Acting, folder: Path, tmp_path: Path, code: int
) -> None:
    namespace = acting_alone.namespace
    with (
        refusing(alone, tmp_path) as refusals,
        running(Operator(alone, folder, kubeconfig=refusals.kubeconfig, namespaces=[namespace])),
    ):
        refusals.codes += [code] * 3
        alone.apply(manifest(namespace))
        served(acting_alone)
        assert len(refusals.refused) == 3


@pytest.mark.parametrize(("code", "reason"), [(500, "ApiServerError"), (200, "OperatorError")])
def test_a_change_that_fails_again_and_again_is_told_until_it_succeeds(
    alone: ApiServer, acting_alone: Acting, folder: Path, tmp_path: Path, *, code: int, reason: str
) -> None:
    """An answer with 200 that is not the object is one that the operator is not made for."""
    with (
        refusing(alone, tmp_path) as refusals,
        running(Operator(alone, folder, kubeconfig=refusals.kubeconfig, namespaces=[acting_alone.namespace])),
    ):
        refusals.only = "/jobs/"
        refusals.codes += [code] * 4
        alone.apply(manifest(acting_alone.namespace))
        acting_alone.until("Reconciling", ("True", reason), seconds=60)
        assert acting_alone.condition("Ready") == ("False", reason)
        served(acting_alone)
        assert acting_alone.condition("Reconciling") is None


def test_an_api_server_that_hangs_and_one_that_is_killed(tmp_path: Path, folder: Path) -> None:
    with ApiServer(tmp_path / "server") as api:
        api.kubectl("apply", "--server-side", "-f", "-", stdin=crd.to_yaml())
        api.wait_for_definitions()
        add_nodes(api, node("acted"))
        api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "speech", "labels": RESTRICTED}})
        acting = Acting(api, "speech")
        with running(Operator(api, folder)) as operator:
            api.apply(manifest("speech"))
            acting.publish(acting.job("onnx"))
            os.kill(api.pid("kube-apiserver"), signal.SIGSTOP)
            time.sleep(15)
            os.kill(api.pid("kube-apiserver"), signal.SIGCONT)
            acting.serve()
            acting.until("Ready", ("True", "Serving"))
            killed = api.pid("kube-apiserver")
            os.kill(killed, signal.SIGKILL)
            until(lambda: answers(api), "the API server to be back", seconds=60)
            # What was missed and what comes are both seen: watches are begun anew.
            patch = {"spec": {"pools": [{"name": "cpu", "replicas": 2}]}}
            api.kubectl("patch", "asr", "english", "-n", "speech", "--type=merge", "--patch", json.dumps(patch))
            acting.serve(count=2)
            until(lambda: acting.status()["readySummary"] == "2/2", "two pods", seconds=60)
            assert operator.process is not None
            assert operator.process.poll() is None


def test_a_namespace_that_is_deleted_leaves_the_others_served_and_may_come_back(
    alone: ApiServer, acting_alone: Acting, folder: Path, tmp_path: Path
) -> None:
    stays, goes = acting_alone.namespace, f"{acting_alone.namespace}-goes"
    both: dict[str, object] = {"namespaces": [goes, stays]}
    other = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": goes, "labels": RESTRICTED}}
    alone.apply(other)
    operator = Operator(alone, folder, kubeconfig=service_account(alone, tmp_path, both), **both)
    with running(operator):
        alone.apply(manifest(stays))
        acting_alone.publish(acting_alone.job("onnx"))
        acting_alone.serve()
        alone.kubectl("delete", "namespace", goes)
        time.sleep(6)  # more than one resync
        assert healthy(operator)
    with running(operator):
        acting_alone.until("Ready", ("True", "Serving"))
        alone.apply(manifest(stays, pools=[{"name": "cpu", "replicas": 2}]))
        acting_alone.serve(count=2)
        until(lambda: acting_alone.status()["readySummary"] == "2/2", "two pods", seconds=30)
        alone.apply(other)
        service_account(alone, tmp_path, both)
        alone.apply(manifest(goes))
        assert Acting(alone, goes).job("onnx")
        assert healthy(operator)


def healthy(operator: Operator) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{operator.health}/healthz", timeout=10):
            return True
    except OSError:
        return False


def answers(api: ApiServer) -> bool:
    try:
        return bool(api.kubectl("get", "--raw", "/readyz"))
    except ClusterError:
        return False


@pytest.mark.usefixtures("running")
def test_an_evicted_build_is_not_a_failed_one(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    job = acting.job("onnx")
    (first,) = acting.pods(job["metadata"]["name"])
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": first["metadata"]["name"], "namespace": acting.namespace},
        "deleteOptions": {"gracePeriodSeconds": 0},
    }
    path = f"/api/v1/namespaces/{acting.namespace}/pods/{first['metadata']['name']}/eviction"
    api.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    acting.end(job, 143, {"reason": "Interrupted", "message": "interrupted", "transient": True})
    until(
        lambda: [
            pod
            for pod in acting.pods(job["metadata"]["name"])
            if pod["metadata"]["uid"] != first["metadata"]["uid"] and "deletionTimestamp" not in pod["metadata"]
        ],
        "another pod of the same Job",
        seconds=60,
    )
    assert acting.get("job", job["metadata"]["name"])["metadata"]["uid"] == job["metadata"]["uid"]
    assert acting.condition("Reconciling") == ("True", "Building")


def no_room_for_pods(acting: Acting) -> None:
    metadata = {"name": "none", "namespace": acting.namespace}
    acting.server.apply(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {"pods": 0}}}
    )
    until(lambda: acting.get("resourcequota", "none").get("status", {}).get("hard"), "the quota")


@pytest.mark.usefixtures("running")
def test_why_a_pools_pods_cannot_be_created_is_told(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    job = acting.job("onnx")
    no_room_for_pods(acting)
    acting.publish(job)
    acting.until("Reconciling", ("True", "PodsFail"))
    assert "exceeded quota: none" in str(acting.status()["conditions"])


@pytest.mark.usefixtures("running")
def test_that_a_build_gets_no_pod_is_told(api: ApiServer, acting: Acting) -> None:
    no_room_for_pods(acting)
    api.apply(manifest(acting.namespace))
    until(lambda: "kubectl describe job asr-onnx-" in str(acting.status()), "to be told where to look", seconds=60)


@pytest.mark.usefixtures("running")
def test_replicas_stay_as_an_autoscaler_has_set_them(api: ApiServer, acting: Acting) -> None:
    scaling = {"minReplicas": 1, "maxReplicas": 5, "target": {"cpuUtilizationPercent": 50}}
    pool = {"name": "cpu", "autoscaling": scaling, "resources": {"requests": {"cpu": 1}}}
    api.apply(manifest(acting.namespace, pools=[pool]))
    served(acting)
    assert acting.get("hpa", "english-cpu")["spec"]["scaleTargetRef"]["name"] == "english-cpu"
    api.kubectl("scale", "deployment", "english-cpu", "-n", acting.namespace, "--replicas=3")
    acting.serve(count=3)
    until(lambda: acting.status()["readySummary"] == "3/3", "three pods", seconds=30)
    # Also when the pods change, and after a resync.
    api.apply(manifest(acting.namespace, pools=[pool | {"podLabels": {"team": "speech"}}]))
    time.sleep(6)
    assert acting.get("deployment", "english-cpu")["spec"]["replicas"] == 3


@pytest.mark.usefixtures("running")
def test_replicas_that_somebody_scales_by_hand_come_back(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    served(acting)
    api.kubectl("scale", "deployment", "english-cpu", "-n", acting.namespace, "--replicas=3")
    until(lambda: acting.get("deployment", "english-cpu")["spec"]["replicas"] == 1, "one replica", seconds=30)


@pytest.mark.usefixtures("running")
def test_pods_of_a_new_generation_that_never_get_ready_leave_the_old_ones_serving(
    api: ApiServer, acting: Acting
) -> None:
    rollout = {"deadlineSeconds": 60}
    api.apply(manifest(acting.namespace, rollout=rollout))
    served(acting)
    api.apply(manifest(acting.namespace, rollout=rollout, pools=[{"name": "cpu", "podLabels": {"new": "yes"}}]))
    acting.until("Reconciling", ("True", "RollingOut"))
    acting.until("Stalled", ("True", "RolloutFailed"), seconds=100)
    assert acting.condition("Ready") == ("False", "RolloutFailed")
    assert acting.condition("Serving") == ("True", "Serving")
    assert acting.status()["readyReplicas"] == 1
    api.apply(manifest(acting.namespace, rollout=rollout))
    acting.until("Ready", ("True", "Serving"))


@pytest.mark.usefixtures("running")
def test_a_change_in_the_middle_of_a_roll_out_wins(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    served(acting)
    for number in range(3):
        pools = [{"name": "cpu", "podLabels": {"number": str(number)}}]
        api.apply(manifest(acting.namespace, pools=pools))
        acting.until("Ready", ("False", "RollingOut"))
    acting.serve()
    acting.until("Ready", ("True", "Serving"))
    (pod,) = [
        pod
        for pod in acting.find("pods", "-l", "asr-operator.dev/pool=cpu")
        if "deletionTimestamp" not in pod["metadata"]
    ]
    assert pod["metadata"]["labels"]["number"] == "2"


def test_who_waits_for_keda_goes_on_soon_after_it_was_installed(tmp_path: Path, folder: Path) -> None:
    with ApiServer(tmp_path / "server") as api:
        api.kubectl("apply", "--server-side", "-f", "-", stdin=crd.to_yaml())
        api.wait_for_definitions()
        api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "speech", "labels": RESTRICTED}})
        acting = Acting(api, "speech")
        with running(Operator(api, folder, resyncSeconds=3600)):
            scaling = {"maxReplicas": 4, "target": {"pendingRequests": 8}, "provider": "KEDA"}
            api.apply(manifest("speech", pools=[{"name": "cpu", "autoscaling": scaling}]))
            acting.until("Stalled", ("True", "KedaMissing"))
            definitions.install(api, "keda.sh_scaledobjects")
            acting.until("Reconciling", ("True", "Building"), seconds=60)
            acting.publish(acting.job("onnx"))
            (found,) = until(functools.partial(acting.find, "scaledobjects"), "a ScaledObject", seconds=30)
            assert found["metadata"]["name"] == "english-cpu"
