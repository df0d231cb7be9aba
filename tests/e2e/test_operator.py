"""From an AsrDeployment to text, with everything real: the operator, NeMo, Triton, S3, Kubernetes."""

import base64
import json
import os
import secrets
import subprocess
import time
from pathlib import Path
from typing import Any

import obstore
import pytest

from asr_client.transcription import TranscriptionError, transcribe_all
from tests.support import monitoring, platform
from tests.support.load import steady, utterances
from tests.support.platform import Speech
from tests.support.programs import program
from tools.testcluster.machine import ClusterError, until
from tools.testcluster.services import Prometheus

NAME = "english"
MOST_ERRORS = 0.02
DRAINED_SECONDS = 150
SERVERS = "app.kubernetes.io/component=server,app.kubernetes.io/instance"
GPU_PANELS = {"GPU A"}
"""Panels that show nothing on a machine without a GPU."""
BUILDS = "app.kubernetes.io/component=build"


@pytest.fixture(scope="module")
def english(speech: Speech) -> Speech:
    """The demo's AsrDeployment, served."""
    speech.apply(NAME)
    speech.ready(NAME, seconds=600)
    return speech


def test_what_is_ready_answers_at_once_with_the_right_text(english: Speech) -> None:
    assert english.errors(NAME).rate <= MOST_ERRORS
    status = english.status(NAME)
    assert status["readySummary"] == "1/1"
    (artifact,) = status["artifacts"]
    assert artifact["werPermille"] <= 20
    assert artifact["tokenAgreementPermille"] >= 990


NOT_ON_CPU = {"GPU memory", "throughput", "latency", "class_count english_stt", "class_count ensemble_english_stt"}
"""Conformance checks that do not apply: no GPU, no plan, and a Triton that `class_count` on texts would end."""


def conformance(record: str) -> dict[str, dict[str, Any]]:
    """Checks of a conformance record by name."""
    return {check["check"]: check for server in json.loads(record)["servers"] for check in server["checks"]}


def outcomes(checks: dict[str, dict[str, Any]], outcome: str) -> set[str]:
    return {name for name, check in checks.items() if check["outcome"] == outcome}


def test_helm_test_finds_that_the_demo_model_conforms(english: Speech) -> None:
    named = ("--set", f"conformance.resource={NAME}", "--set", f"conformance.namespace={english.namespace}")
    english.cluster.helm(*platform.INSTALL, "--reuse-values", *named, seconds=200)
    where = ("-n", platform.OPERATOR_NAMESPACE)
    logs = ("logs", "asr-operator-conform", *where)
    try:
        english.cluster.helm("test", platform.RELEASE, *where, "--timeout", "8m", seconds=500)
    except ClusterError as error:
        raise AssertionError(english.cluster.kubectl(*logs)) from error
    log = english.cluster.kubectl(*logs)
    checks = conformance(log[log.index("\n{\n") :])
    assert outcomes(checks, "skipped") == NOT_ON_CPU
    assert outcomes(checks, "pass") == set(checks) - NOT_ON_CPU
    assert checks["versions"]["figures"]["image"].startswith("asr-triton:test")
    assert checks["memory"]["figures"]["peak_bytes"] > 0
    # Its rights end with it.
    assert (
        english.cluster.get("roles", "-n", english.namespace, "-l", "app.kubernetes.io/component=conformance")["items"]
        == []
    )


@pytest.fixture
def scaled(english: Speech, prometheus: Prometheus) -> Speech:
    """It has an autoscaler, as Prometheus knows."""
    scaling = {"minReplicas": 1, "maxReplicas": 1, "target": {"pendingRequests": 64}}
    english.apply(NAME, pools=[{"name": "cpu", "autoscaling": scaling}])
    until(lambda: prometheus.query("asr_pool_max_replicas"), "the autoscaler to be told", seconds=60)
    return english


def test_no_rule_no_panel_and_no_metric_of_the_adapter_is_empty_under_load(
    scaled: Speech, prometheus: Prometheus
) -> None:
    scaled.apply("wrong", image={"tensorrt": "1.0"})  # there is no such image, and so there is a problem to show
    asked = {rule["record"]: rule["record"] for rule in monitoring.rules("record")} | monitoring.queries()
    asked |= monitoring.adapter_queries(scaled.namespace)
    empty = set(asked)

    def none_empty() -> bool:
        for name in sorted(empty):
            if any(item["value"][1] != "NaN" for item in prometheus.query(asked[name])):
                empty.discard(name)
        return empty <= GPU_PANELS

    try:
        with steady(platform.address(scaled.cluster, scaled.namespace, NAME), "english_stt"):
            until(none_empty, "every panel and rule to have values", seconds=120)
    finally:
        assert empty == GPU_PANELS
        scaled.delete("wrong")


def test_every_alert_can_be_evaluated_on_series_that_exist(scaled: Speech, prometheus: Prometheus) -> None:
    assert scaled.condition(NAME, "Ready")["status"] == "True"
    evaluated = {rule["name"]: rule for rule in prometheus.rules()}
    assert {name: rule.get("lastError", "") for name, rule in evaluated.items() if rule["health"] != "ok"} == {}
    for rule in monitoring.rules():
        assert rule["alert"] in evaluated
        for selector in monitoring.selectors(rule["expr"]):
            assert prometheus.query(selector), f"{rule['alert']}: {selector}"


def test_new_batching_is_rolled_out_without_a_failed_request_and_without_a_build(english: Speech) -> None:
    jobs = [job["metadata"]["uid"] for job in english.find("jobs", BUILDS)]
    (old,) = english.find("pods", f"{SERVERS}={NAME}")
    with steady(platform.address(english.cluster, english.namespace, NAME), "english_stt") as answers:
        until(lambda: answers.good > 10, "answers", seconds=60)
        english.apply(NAME, pools=[{"name": "cpu", "batching": {"maxBatchSize": 4, "instances": 1}}])
        english.ready(NAME, seconds=120)
        seen = answers.good
        until(lambda: not exists(english, old["metadata"]["name"]), "the old pod to be gone", seconds=DRAINED_SECONDS)
        until(lambda: answers.good > seen + 10, "answers by the new pod", seconds=60)
    assert answers.errors == []
    (new,) = english.find("pods", f"{SERVERS}={NAME}")
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert [job["metadata"]["uid"] for job in english.find("jobs", BUILDS)] == jobs
    assert english.errors(NAME).rate <= MOST_ERRORS


def exists(speech: Speech, pod: str) -> bool:
    return bool(speech.cluster.kubectl("get", "pod", pod, "-n", speech.namespace, "--ignore-not-found"))


AUTOSCALED = {
    "name": "cpu",
    # So little that also a busy machine gives them more; idle ones take 2m.
    "resources": {"requests": {"cpu": "50m"}},
    "terminationGracePeriodSeconds": 30,
    "autoscaling": {
        "maxReplicas": 2,
        # Faster than anybody would want it, so that the test is short.
        "behavior": {
            "scaleDown": {
                "stabilizationWindowSeconds": 20,
                "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}],
            }
        },
    },
}


def test_replicas_follow_the_load_up_and_down_and_no_request_fails_or_is_answered_wrong(english: Speech) -> None:
    url = platform.address(english.cluster, english.namespace, NAME)
    signals = utterances(16, seed=11, shortest=2, longest=6)
    said = transcribe_all(url, "english_stt", signals, concurrency=1)
    alone = [item.text for item in said if not isinstance(item, TranscriptionError)]
    assert len(alone) == len(signals)
    english.apply(NAME, pools=[AUTOSCALED])
    english.ready(NAME, seconds=120)
    with steady(url, "english_stt", in_flight=1, pause=4.0, signals=signals) as trickle:
        until(lambda: idle(english), "the start to be over", seconds=240)
        with steady(url, "english_stt", in_flight=8, signals=signals) as crowd:
            until(lambda: english.status(NAME)["readySummary"] == "2/2", "a second pod", seconds=240)
        until(lambda: len(english.find("pods", f"{SERVERS}={NAME}")) == 1, "one pod to be left", seconds=240)
        until(lambda: len(servers(english)) == 1, "the other to have ended", seconds=60)
    assert trickle.errors + crowd.errors == []
    assert trickle.wrong(alone) + crowd.wrong(alone) == []
    assert english.status(NAME)["readySummary"] == "1/1"


def idle(speech: Speech) -> bool:
    """Whether the autoscaler sees one pod that has little to do."""
    status = speech.get("hpa", f"{NAME}-cpu").get("status", {})
    metrics = [item["resource"]["current"] for item in status.get("currentMetrics", ()) if "resource" in item]
    seen = [item["averageUtilization"] for item in metrics if "averageUtilization" in item]
    return bool(seen) and max(seen) < 70 and status.get("currentReplicas") == 1 and len(servers(speech)) == 1


def servers(speech: Speech) -> list[dict[str, Any]]:
    """All serving pods, those that end, too."""
    found: list[dict[str, Any]] = speech.cluster.get("pods", "-n", speech.namespace, "-l", f"{SERVERS}={NAME}")["items"]
    return found


def test_a_second_resource_with_the_same_model_is_served_without_another_build(english: Speech) -> None:
    jobs = [job["metadata"]["uid"] for job in english.find("jobs", BUILDS)]
    english.apply("twin")
    try:
        english.ready("twin", seconds=120)
        assert english.errors("twin").rate <= MOST_ERRORS
        assert [job["metadata"]["uid"] for job in english.find("jobs", BUILDS)] == jobs
    finally:
        english.delete("twin")


def test_an_artifact_that_was_altered_is_not_served_and_the_resource_says_so(english: Speech) -> None:
    (artifact,) = english.status(NAME)["artifacts"]
    bucket = platform.bucket(english.s3)
    folder = artifact["uri"].removeprefix(f"{english.s3.uri}/")
    files = [item for page in obstore.list(bucket, prefix=folder) for item in page]
    path = max(files, key=lambda item: item["size"])["path"]
    good = bytes(obstore.get(bucket, path).bytes())
    obstore.put(bucket, path, good[:-1] + bytes([good[-1] ^ 1]))
    try:
        english.apply("altered")
        until(
            lambda: english.condition("altered", "Stalled").get("reason") == "ArtifactInvalid",
            "the resource to be stalled",
            seconds=180,
        )
        assert path.rpartition("/")[2] in english.condition("altered", "Stalled")["message"]
        assert english.condition("altered", "Serving")["status"] == "False"
        assert english.condition(NAME, "Serving")["status"] == "True"
        # Mended, it goes on by itself when the Job is run again, as the message says.
        obstore.put(bucket, path, good)
        (job,) = english.find("jobs", BUILDS)
        assert job["metadata"]["name"] in english.condition("altered", "Stalled")["message"]
        english.cluster.kubectl("delete", "job", job["metadata"]["name"], "-n", english.namespace)
        english.ready("altered", seconds=180)
    finally:
        obstore.put(bucket, path, good)
        english.delete("altered")


def test_an_operator_that_was_killed_goes_on_and_an_idle_one_writes_nothing(english: Speech) -> None:
    pods = ("-n", platform.OPERATOR_NAMESPACE, "-l", "app.kubernetes.io/name=asr-operator")
    english.cluster.kubectl("delete", "pod", *pods, "--grace-period=0", "--force")
    english.apply(NAME, pools=[{"name": "cpu", "replicas": 2}])
    english.ready(NAME, seconds=180)
    # A pod counts as available some seconds after it is ready: only then is there nothing more to tell.
    until(lambda: english.condition(NAME, "Ready")["message"].endswith("available: 2"), "two pods", seconds=60)
    assert english.status(NAME)["readySummary"] == "2/2"
    before = len(written(english))
    assert before
    time.sleep(15)
    assert written(english)[before:] == []


def test_a_pod_that_is_deleted_by_force_is_counted_as_one_that_did_not_drain(
    english: Speech, prometheus: Prometheus
) -> None:
    def undrained() -> float:
        counter = f'asr_deployment_undrained_pods_total{{namespace="{english.namespace}", name="{NAME}"}}'
        (found,) = prometheus.query(f"sum({counter})")
        return float(found["value"][1])

    assert undrained() == 0
    pod = english.find("pods", f"{SERVERS}={NAME}")[0]["metadata"]["name"]
    english.cluster.kubectl("delete", "pod", pod, "-n", english.namespace, "--grace-period=0", "--force")
    until(lambda: undrained() == 1, "the pod to be counted", seconds=60)


def test_asr_conform_kills_what_it_may_and_no_answer_is_wrong(english: Speech, tmp_path: Path) -> None:
    english.apply(NAME, pools=[{"name": "cpu", "replicas": 2}])
    english.ready(NAME, seconds=180)
    until(lambda: english.status(NAME)["readySummary"] == "2/2", "two pods", seconds=120)
    record = tmp_path / "conformance.json"
    done = subprocess.run(
        [program("asr"), "conform", f"asr/{NAME}", "-n", english.namespace, "--kill", "--output", str(record)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | english.cluster.environment,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    checks = conformance(record.read_text())
    assert outcomes(checks, "skipped") == NOT_ON_CPU
    assert {"death of a Python process", "SIGTERM", "pod deletion"} <= outcomes(checks, "pass")


def written(speech: Speech) -> list[str]:
    """What the operator has changed."""
    account = f"system:serviceaccount:{platform.OPERATOR_NAMESPACE}:asr-operator"
    return [
        f"{item['verb']} {item['objectRef'].get('resource')}/{item['objectRef'].get('name')}"
        for item in speech.cluster.writes()
        if item["user"]["username"] == account
    ]


def test_wrong_keys_of_the_storage_are_told_in_its_words(english: Speech) -> None:
    keys = {name: base64.b64decode(value).decode() for name, value in english.get("secret", "s3")["data"].items()}
    keys["AWS_SECRET_ACCESS_KEY"] = secrets.token_urlsafe(24)
    metadata = {"name": "wrong", "namespace": english.namespace}
    english.cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys})
    english.apply("locked", storage={"uri": f"{english.s3.uri}/prod", "secretRef": {"name": "wrong"}})
    try:
        failure = until(lambda: english.status("locked").get("lastFailure"), "the failure", seconds=240)
        assert failure is not None
        assert failure["message"]
        assert english.condition("locked", "Ready")["status"] == "False"
    finally:
        english.delete("locked")
