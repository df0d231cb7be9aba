"""`asr doctor asr/NAME` and `asr plans`: what they say of resources whose status the operator wrote."""

import json
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from asr_operator.diagnose.explain import HINTS, WELL
from asr_operator.events import Reason
from tests.support.operator import Acting, gpu_pool, manifest
from tools.testcluster.cluster import ApiServer
from tools.testcluster.machine import until

pytestmark = pytest.mark.usefixtures("running")


def asr(api: ApiServer, *arguments: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | api.environment | {"COLUMNS": "300", "NO_COLOR": "1"}
    environment |= {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}
    command = [sys.executable, "-m", "asr_cli.main", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)


def doctor(api: ApiServer, acting: Acting, *, codes: Collection[int]) -> dict[str, dict[str, str]]:
    """Findings by check, the worst of each; the exit code is one of those expected."""
    done = asr(api, "doctor", "asr/english", "-n", acting.namespace, "--json")
    assert done.returncode in codes, done.stdout + done.stderr
    found: dict[str, dict[str, str]] = {}
    order = ["ok", "warning", "failed"]
    for line in done.stdout.splitlines():
        finding = json.loads(line)
        known = found.get(finding["check"])
        if known is None or order.index(finding["outcome"]) > order.index(known["outcome"]):
            found[finding["check"]] = finding
    return found


def plans(api: ApiServer, acting: Acting, *, code: int = 0) -> dict[str, dict[str, str | None]]:
    """Plans by pool."""
    done = asr(api, "plans", "-n", acting.namespace, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return {plan["pool"]: plan for plan in map(json.loads, done.stdout.splitlines())}


def test_a_resource_that_serves_is_well(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    acting.publish(acting.job("onnx"))
    acting.serve()
    acting.until("Ready", ("True", "Serving"))
    found = doctor(api, acting, codes={0})
    assert {finding["outcome"] for finding in found.values()} == {"ok"}
    assert "WER 0.9 %" in found["built"]["message"]
    assert found["pool cpu"]["message"] == "1 of 1 pods are ready; they serve the ONNX model"
    assert "service/english 8001" in found["endpoint"]["hint"]


def test_a_build_is_told_with_how_to_follow_it(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    job = acting.job("onnx")["metadata"]["name"]
    acting.until("Reconciling", ("True", "Building"))
    found = doctor(api, acting, codes={0})
    assert found["ready"]["outcome"] == "warning"
    assert f"kubectl logs -f -n {acting.namespace} job/{job}" in found["ready"]["hint"]
    assert f"Job {job} builds for" in found["build"]["message"]


def test_a_rejected_build_is_told_with_the_builders_words_and_what_still_serves(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    first = acting.job("onnx")
    acting.publish(first)
    acting.serve()
    acting.until("Ready", ("True", "Serving"))
    newer = {"name": "english_stt", "source": {"objectStore": {"uri": "s3://models/newer.nemo"}}}
    api.apply(manifest(acting.namespace, model=newer))
    second = acting.job("onnx", other_than=first["metadata"]["uid"])
    acting.end(second, 20, {"reason": "Rejected", "message": "WER 12 %", "transient": False})
    acting.until("Stalled", ("True", "Rejected"))
    found = doctor(api, acting, codes={1})
    assert "waiting does not help: Rejected: WER 12 %" in found["ready"]["message"]
    assert "does not transcribe like the checkpoint" in found["ready"]["hint"]
    assert found["serving"]["message"].startswith("still serving: ")


def test_missing_references_are_named_with_their_field(api: ApiServer, acting: Acting) -> None:
    storage = {"uri": "s3://asr-models/prod", "secretRef": {"name": "s3"}}
    api.apply(manifest(acting.namespace, storage=storage))
    acting.until("Reconciling", ("True", "Building"))
    found = doctor(api, acting, codes={1})
    assert f"Secret s3 (spec.storage.secretRef) is not in namespace {acting.namespace}" in found["reference"]["message"]
    assert "kubectl create secret generic" in found["reference"]["hint"]
    api.kubectl("create", "secret", "generic", "s3", "-n", acting.namespace, "--from-literal=AWS_ACCESS_KEY_ID=x")
    assert "reference" not in doctor(api, acting, codes={0})


def test_a_pool_that_no_node_satisfies_is_told_with_the_products_there_are(api: ApiServer, acting: Acting) -> None:
    pool = {"name": "typo", "gpu": {"product": "NVIDIA-L40", "computeCapability": "8.9"}}
    api.apply(manifest(acting.namespace, pools=[pool]))
    acting.publish(acting.job("onnx"))
    until(lambda: "didn't match" in str(acting.status()), "the scheduler's word")
    # Whether waiting helps is not known: an autoscaler may make such nodes.
    found = doctor(api, acting, codes={0, 1})
    assert "no node has the label nvidia.com/gpu.product=NVIDIA-L40; nodes have" in found["pool typo"]["message"]
    assert "NVIDIA-L4 (1)" in found["pool typo"]["message"]
    assert found["pool typo"]["hint"].startswith("Correct gpu.product")
    plan = plans(api, acting)["typo"]
    assert plan["state"] == "waiting"
    assert plan["serves"] is None


def test_pods_that_cannot_fetch_are_told_with_their_own_words(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace))
    acting.publish(acting.job("onnx"))
    acting.fail_fetch("cpu", 30, "s3://asr-models/prod: access denied")
    until(lambda: "access denied" in str(acting.status()), "the operator to see it")
    found = doctor(api, acting, codes={0})
    assert "access denied" in found["pool cpu"]["message"]
    assert found["pool cpu"]["hint"].startswith("Check spec.storage")


def test_an_autoscaler_that_knows_no_load_is_told_with_what_it_lacks(api: ApiServer, acting: Acting) -> None:
    pool = {"name": "cpu", "resources": {"requests": {"cpu": 1}}, "autoscaling": {"maxReplicas": 3}}
    api.apply(manifest(acting.namespace, pools=[pool]))
    acting.publish(acting.job("onnx"))
    acting.serve()
    acting.until("Ready", ("True", "Serving"))
    # There is no Metrics Server here.
    until(lambda: "FailedGetResourceMetric" in str(acting.find("hpa")), "the autoscaler's word")
    found = doctor(api, acting, codes={0})["autoscaler cpu"]
    assert found["outcome"] == "warning"
    assert "FailedGetResourceMetric" in found["message"]
    assert "Metrics Server" in found["hint"]


def test_plans_say_how_far_each_pool_is(api: ApiServer, acting: Acting) -> None:
    other = gpu_pool(
        "off", gpu={"product": "NVIDIA-L4-SHARED", "computeCapability": "8.9", "nodeSelection": "NodeSelectorOnly"}
    )
    api.apply(manifest(acting.namespace, pools=[gpu_pool("l4"), {"name": "cpu"}, other]))
    acting.job("onnx")
    acting.until("Reconciling", ("True", "Building"))
    found = plans(api, acting)
    assert found["l4"]["state"] == "missing"
    assert "built from the ONNX model" in str(found["l4"]["note"])
    assert found["cpu"]["state"] == "not needed"
    acting.publish(acting.job("onnx"))
    job = acting.job("plan")
    until(lambda: plans(api, acting)["l4"]["state"] == "building", "the plan to be built")
    found = plans(api, acting)
    assert found["l4"]["tensorrt"] == "10.6.0"
    assert found["off"]["state"] == "building"  # slices of a GPU share its plan
    acting.publish(job, "b" * 64, audioSecondsPerSecond=42_000)
    until(lambda: plans(api, acting)["l4"]["state"] == "published", "the plan to be published")
    assert "42000 audio seconds a second" in str(plans(api, acting)["l4"]["note"])
    table = asr(api, "plans", "english", "-n", acting.namespace).stdout
    assert "NVIDIA-L4" in table
    assert "published" in table


def test_a_plan_that_failed_is_told_and_gives_an_exit_code(api: ApiServer, acting: Acting) -> None:
    api.apply(manifest(acting.namespace, pools=[gpu_pool("l4")]))
    acting.publish(acting.job("onnx"))
    acting.serve("l4")
    acting.end(acting.job("plan"), 20, {"reason": "Rejected", "message": "tokens differ", "transient": False})
    acting.until("Degraded", ("True", "PlanFailed"))
    plan = plans(api, acting, code=1)["l4"]
    assert (plan["state"], plan["serves"]) == ("failed", "OnnxRuntime")
    assert "Rejected: tokens differ" in str(plan["note"])


def test_what_cannot_be_asked_is_told_in_one_line(api: ApiServer, acting: Acting, tmp_path: Path) -> None:
    api.apply(manifest(acting.namespace))
    done = asr(api, "doctor", "asr/german", "-n", acting.namespace)
    assert done.returncode == 1
    assert f"there is no AsrDeployment german in namespace {acting.namespace}, only english" in done.stdout
    assert asr(api, "doctor", "pod/english").returncode == 2
    assert "--url localhost:8001" in asr(api, "doctor", "localhost:8001").stderr
    gone = tmp_path / "gone"
    gone.write_text(api.kubeconfig.read_text().replace(api.url, "https://127.0.0.1:1"))
    done = asr(api, "plans", kubeconfig=gone)
    assert done.returncode == 1
    assert "the API server https://127.0.0.1:1 does not answer" in done.stderr
    done = asr(api, "plans", kubeconfig=tmp_path / "none")
    assert done.returncode == 1
    assert "set KUBECONFIG" in done.stderr


def test_who_may_see_the_resource_alone_is_told_what_is_left_out(
    api: ApiServer, acting: Acting, tmp_path: Path
) -> None:
    api.apply(manifest(acting.namespace))
    acting.job("onnx")
    acting.until("Reconciling", ("True", "Building"))
    create = ("create", "-n", acting.namespace)
    api.kubectl(*create, "serviceaccount", "guest")
    api.kubectl(*create, "role", "guest", "--verb=get,list", "--resource=asrdeployments.asr-operator.dev")
    api.kubectl(*create, "rolebinding", "guest", "--role=guest", f"--serviceaccount={acting.namespace}:guest")
    token = api.kubectl("create", "token", "guest", "-n", acting.namespace).strip()
    kubeconfig: dict[str, Any] = json.loads(api.kubeconfig.read_text())
    path = tmp_path / "guest"
    path.write_text(json.dumps(kubeconfig | {"users": [{"name": "asr-test", "user": {"token": token}}]}))
    done = asr(api, "doctor", "english", "-n", acting.namespace, kubeconfig=path)
    assert done.returncode == 0, done.stdout
    assert "you may not read jobs, deployments, pods, events" in done.stdout
    assert "not Ready yet: Building" in done.stdout


def test_every_reason_of_the_operator_has_its_advice() -> None:
    assert {reason.value for reason in Reason} - set(WELL) <= set(HINTS)
