"""What `asr doctor asr/NAME` says of what a cluster holds."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from asr_contract.findings import Finding, Outcome
from asr_operator.diagnose.explain import examine
from asr_operator.diagnose.snapshot import Snapshot
from tests.support.operator import container, manifest

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
Object = dict[str, Any]


def told(check: str, **there: Any) -> list[Finding]:  # noqa: ANN401
    """Findings of one check, of a resource with these children."""
    resource = manifest("speech")
    resource["metadata"] |= {"generation": 1, "uid": "english"}
    return [finding for finding in examine(Snapshot(resource, **there), NOW) if finding.check == check]


def job(**status: object) -> Object:
    metadata = {"name": "j", "creationTimestamp": "2026-01-01T11:59:00Z"}
    return {"metadata": metadata, "status": status}


def ended_build(name: str, created: str, message: str) -> Object:
    said = json.dumps({"reason": "StorageUnavailable", "message": message, "transient": True})
    ended = container("build", {"terminated": {"exitCode": 30, "message": said}}, ready=False)
    metadata = {"name": name, "creationTimestamp": created, "labels": {"batch.kubernetes.io/job-name": "j"}}
    return {"metadata": metadata, "status": {"phase": "Failed", "containerStatuses": [ended]}}


def test_a_build_whose_pods_failed_is_told_with_the_attempt_and_the_last_ones_words() -> None:
    pods = [
        ended_build("b", "2026-01-01T11:59:30Z", "access denied"),
        ended_build("a", "2026-01-01T11:59:00Z", "no answer"),
    ]
    (found,) = told("build", jobs=[job(failed=2)], pods=pods)
    assert found.outcome is Outcome.WARNING
    assert found.message == "Job j makes attempt 3; the last one failed: StorageUnavailable: access denied"
    assert found.hint.startswith("Check spec.storage")


def test_a_build_without_failed_pods_is_well() -> None:
    (found,) = told("build", jobs=[job(active=1)])
    assert found.outcome is Outcome.OK
    assert found.message == "Job j builds for 1 min"


def deployment() -> Object:
    labels = {"asr-operator.dev/pool": "cpu"}
    template = {"metadata": {"annotations": REVISION, "labels": labels}, "spec": {}}
    return {"metadata": {"name": "english-cpu"}, "spec": {"selector": {"matchLabels": labels}, "template": template}}


REVISION = {"asr-operator.dev/revision": "r"}
ERROR = {"terminated": {"exitCode": 1, "message": "no room"}}


def pod(**status: object) -> Object:
    labels = {"asr-operator.dev/pool": "cpu"}
    return {"metadata": {"name": "english-cpu-x", "labels": labels, "annotations": REVISION}, "status": status}


@pytest.mark.parametrize(
    ("status", "look"),
    [
        (
            {"initContainerStatuses": [container("fetch", ERROR, ready=False)]},
            "kubectl logs -n speech english-cpu-x -c fetch",
        ),
        (
            {"containerStatuses": [container("triton", {"waiting": {}}, ready=False) | {"lastState": ERROR}]},
            "kubectl logs -n speech english-cpu-x -c triton",
        ),
        (
            {"containerStatuses": [container("triton", {"waiting": {"reason": "ImagePullBackOff"}}, ready=False)]},
            "kubectl describe pod -n speech english-cpu-x",
        ),
    ],
)
def test_pods_that_fail_come_with_the_command_that_shows_their_words(status: Object, look: str) -> None:
    (found,) = told("pool cpu", deployments=[deployment()], pods=[pod(**status)])
    assert f" {look} shows more." in found.hint


def warning(at: str) -> Object:
    about = {"kind": "Pod", "name": "english-cpu-x"}
    return {"involvedObject": about, "reason": "Unhealthy", "lastTimestamp": at, "message": "refused", "metadata": {}}


def test_of_a_ready_pod_only_later_events_are_told() -> None:
    started = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T11:30:00Z"}
    pods = [pod(conditions=[started])]
    assert told("event", pods=pods, warnings=[warning("2026-01-01T11:29:00Z")]) == []
    (found,) = told("event", pods=pods, warnings=[warning("2026-01-01T11:31:00Z")])
    assert found.message == "2026-01-01T11:31:00Z Pod english-cpu-x: Unhealthy: refused"


def test_events_of_a_pod_that_is_not_ready_are_told() -> None:
    starts = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T11:30:00Z"}
    assert told("event", pods=[pod(conditions=[starts])], warnings=[warning("2026-01-01T11:29:00Z")])
