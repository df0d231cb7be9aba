"""Comparing, keeping, observing, deciding and telling: the parts of the operator that touch nothing."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr_operator import conditions, decide, names, reconcile, status
from asr_operator.api import v1alpha1 as api
from asr_operator.compare import difference
from asr_operator.conditions import Finding, merge, news
from asr_operator.events import Reason
from asr_operator.observe import JobState, Observation, Phase, PoolState, Problem, job_state, never_started
from asr_operator.observe import pool_state as observed_pool
from asr_operator.render import jobs
from asr_operator.render.deployment import deployment as rendered
from asr_operator.render.origin import Origin
from asr_operator.store import Store
from tests.support.operator_examples import ONNX, context, plan_for, resources

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Object = dict[str, Any]


@pytest.mark.parametrize(
    ("wanted", "live"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"cpu": "1000m"}, {"cpu": "1"}),
        ({"memory": 1024}, {"memory": "1Ki"}),
        ({"value": ""}, {}),
        ({"emptyDir": {}}, {"emptyDir": {}}),
        ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "B"}, {"name": "A", "value": "1"}]}),
        ({"args": ["a", "b"]}, {"args": ["a", "b"]}),
    ],
)
def test_what_others_add_and_how_the_server_writes_it_is_no_difference(wanted: Object, live: Object) -> None:
    assert difference(wanted, live) is None


@pytest.mark.parametrize(
    ("wanted", "live", "path"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ".a.b"),
        ({"a": {"b": 1}}, {}, ".a"),
        ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "value": "2"}]}, ".env[0].value"),
        ({"env": [{"name": "A", "value": "1"}]}, {"env": []}, ".env[0]"),
        ({"args": ["a", "b"]}, {"args": ["b", "a"]}, ".args[0]"),
        ({"args": ["a"]}, {"args": ["a", "b"]}, ".args"),
        ({"replicas": 0}, {"replicas": 3}, ".replicas"),
        ({"on": True}, {"on": False}, ".on"),
        ({"value": "sNaN"}, {"value": "1"}, ".value"),
    ],
)
def test_what_was_edited_is_a_difference_and_where(wanted: Object, live: Object, path: str) -> None:
    assert difference(wanted, live) == path


def body(kind: str, name: str, version: int, *owners: str, **labels: str) -> Object:
    references = [{"kind": api.KIND if kind != "Pod" else "Job", "name": owner, "uid": owner} for owner in owners]
    metadata = {"name": name, "namespace": "n", "uid": name, "resourceVersion": str(version), "labels": labels}
    return {
        "kind": kind,
        "metadata": metadata | {"ownerReferences": references, "managedFields": [1]},
        "spec": {"x": 1},
    }


def test_the_store_keeps_the_newest_version_in_whatever_order_they_come() -> None:
    store = Store()
    store.put("Job", body("Job", "j", 5, "english"))
    store.put("Job", body("Job", "j", 3))
    found = store.get("Job", ("n", "j"))
    assert found is not None
    assert found["metadata"]["resourceVersion"] == "5"
    assert "managedFields" not in found["metadata"]
    assert store.owned("english", "Job") == [found]


def test_a_pod_leads_to_the_resources_that_own_its_job() -> None:
    store = Store()
    store.put("Job", body("Job", "j", 1, "english", "german"))
    pod = body("Pod", "p", 2, "j")
    store.put("Pod", pod)
    assert store.owners(pod) == {("n", "english"), ("n", "german")}
    assert [item["metadata"]["name"] for item in store.pods_of("n", "english", store.owned("english", "Job"))] == ["p"]


def test_a_listing_drops_what_a_watch_has_missed_and_nothing_that_has_come_since() -> None:
    store = Store()
    store.put("Job", body("Job", "gone", 1, "english"))
    store.put("Job", body("Job", "new", 9, "english"))
    store.put("Job", body("Job", "here", 2, "english"))
    store.retain("Job", {("n", "here")}, 5)
    assert [item["metadata"]["name"] for item in store.owned("english", "Job")] == ["here", "new"]


def test_the_same_version_is_no_news() -> None:
    store = Store()
    assert store.put("Job", body("Job", "j", 5))
    assert not store.put("Job", body("Job", "j", 5))
    assert store.put("Job", body("Job", "j", 6))


def test_a_listing_that_began_before_does_not_bring_back_what_has_ended() -> None:
    store = Store()
    store.put("Job", body("Job", "j", 5))
    store.drop("Job", body("Job", "j", 7), ended=True)
    assert not store.put("Job", body("Job", "j", 5))
    assert store.get("Job", ("n", "j")) is None


def test_an_object_that_has_lost_our_label_is_kept_again_once_it_has_it_back() -> None:
    store = Store()
    store.put("Job", body("Job", "j", 5))
    store.drop("Job", body("Job", "j", 7), ended=True)  # as the watch tells it
    assert store.put("Job", body("Job", "j", 8))


def test_an_end_that_is_told_late_does_not_drop_what_came_after_it() -> None:
    store = Store()
    store.put("Job", body("Job", "j", 8))
    store.drop("Job", body("Job", "j", 7), ended=True)
    assert store.get("Job", ("n", "j")) is not None


def test_the_deletion_of_a_namesake_does_not_drop_its_successor() -> None:
    store = Store()
    former = body("Job", "j", 1)
    store.put("Job", former)
    successor = body("Job", "j", 9)
    successor["metadata"]["uid"] = "other"
    store.put("Job", successor)
    store.drop("Job", former)
    assert store.get("Job", ("n", "j")) is not None


def test_times_of_conditions_change_with_their_status_alone() -> None:
    first = merge([], [Finding.of("Ready", False, "Building", "a")], generation=1, now=NOW)
    later = NOW + timedelta(hours=1)
    second = merge(first, [Finding.of("Ready", False, "RollingOut", "b")], generation=2, now=later)
    third = merge(second, [Finding.of("Ready", True, "Serving", "c")], generation=2, now=later)
    assert [item.last_transition_time for item in (first[0], second[0], third[0])] == [NOW, NOW, later]
    assert [change.condition.reason for change in news(second, third)] == ["Serving"]
    assert news(third, third) == []


def ended_job(code: int, message: str, *, reason: str = "Error", evicted: str = "") -> JobState:
    job = {
        "metadata": {"name": "j", "uid": "j"},
        "spec": {"template": {"metadata": {"labels": {names.BUILD_LABEL: "onnx-1"}}}},
        "status": {
            "conditions": [
                {
                    "type": "Complete" if code == 0 else "Failed",
                    "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ]
        },
    }
    terminated = {"exitCode": code, "reason": reason, "message": message}
    pod: Object = {
        "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"containerStatuses": [{"name": "build", "state": {"terminated": terminated}}]},
    }
    if evicted:
        pod["status"] |= {"reason": "Evicted", "message": evicted}
    return job_state(job, [pod])


def test_what_a_build_published_is_read_from_its_termination_message() -> None:
    told = {"uri": "s3://x", "manifestSha256": "a" * 64, "engine": "OnnxRuntime", "head": "CTC", "newerField": 1}
    state = ended_job(0, json.dumps(told))
    assert state.phase is Phase.SUCCEEDED
    assert state.result is not None
    assert (state.result.uri, state.result.head) == ("s3://x", "CTC")
    assert state.result.runtime is api.Runtime.ONNX_RUNTIME


@pytest.mark.parametrize("message", ["", "not json", "[]", "{}", '{"uri": 1}', "null", '"engine"', "1"])
def test_a_message_that_cannot_be_read_is_no_result(message: str) -> None:
    assert ended_job(0, message).result is None


@pytest.mark.parametrize(
    ("code", "message", "reason", "transient"),
    [
        (20, '{"reason": "Rejected", "message": "WER", "transient": false}', "Rejected", False),
        (30, '{"reason": "StorageUnavailable", "message": "down", "transient": true}', "StorageUnavailable", True),
        (20, '{"reason": "WER too high", "message": "WER", "transient": false}', "BuildFailed", False),
        (30, "torn {", "StorageUnavailable", True),
        (137, "", "OutOfMemory", False),
        (1, "Traceback", "BuildFailed", False),
        (127, "", "BuildFailed", False),
    ],
)
def test_a_failure_is_told_in_the_builders_words_or_by_its_exit_code(
    code: int, message: str, reason: str, *, transient: bool
) -> None:
    failure = ended_job(code, message).failure
    assert failure is not None
    assert (failure.reason, failure.transient) == (reason, transient)


@pytest.mark.parametrize(
    ("code", "message"),
    [(137, ""), (143, '{"reason": "Interrupted", "message": "interrupted", "transient": true}')],
)
def test_a_build_that_outgrew_its_room_is_told_as_that_and_not_run_again(code: int, message: str) -> None:
    told = 'Usage of EmptyDir volume "work" exceeds the limit "20Gi".'
    failure = ended_job(code, message, evicted=told).failure
    assert failure is not None
    assert told in failure.message
    assert (failure.reason, failure.transient) == ("BuildFailed", False)


RUNNING_JOB = {
    "metadata": {"name": "j", "uid": "j"},
    "spec": {"template": {"metadata": {"labels": {names.BUILD_LABEL: "onnx-1"}}}},
}


def beside_a_sidecar(code: int, message: Object, **sidecar: Any) -> JobState:  # noqa: ANN401
    terminated = {"exitCode": code, "message": json.dumps(message), "finishedAt": "2026-01-01T00:00:00Z"}
    states = [{"name": "build", "state": {"terminated": terminated}}, {"name": "proxy", "state": sidecar}]
    return job_state(RUNNING_JOB, [{"metadata": {"name": "p"}, "status": {"containerStatuses": states}}])


PUBLISHED = {"uri": "s3://x", "manifestSha256": "a" * 64, "engine": "OnnxRuntime"}


def test_a_build_that_has_succeeded_beside_a_container_that_runs_on_is_done() -> None:
    state = beside_a_sidecar(0, PUBLISHED, running={})
    assert (state.phase, state.ended, state.lingers) == (Phase.SUCCEEDED, NOW, True)
    assert state.result is not None
    assert state.result.uri == "s3://x"


def test_a_build_that_has_failed_beside_a_container_that_runs_on_has_failed() -> None:
    told = {"reason": "Rejected", "message": "WER", "transient": False}
    state = beside_a_sidecar(20, told, running={})
    assert (state.phase, state.lingers) == (Phase.FAILED, True)
    assert state.failure is not None
    assert (state.failure.reason, state.failure.transient) == ("Rejected", False)


def test_a_build_whose_pod_has_ended_whole_is_left_to_kubernetes() -> None:
    assert beside_a_sidecar(0, PUBLISHED, terminated={"exitCode": 0}).phase is Phase.RUNNING


def at_its_deadline() -> JobState:
    condition = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}
    return job_state(RUNNING_JOB | {"status": {"conditions": [condition]}}, [])


def test_a_build_that_never_started_before_its_deadline_is_tried_again_and_says_what_it_waited_for() -> None:
    failure = never_started(at_its_deadline(), "0/3 nodes are available").failure
    assert failure is not None
    assert failure.transient
    assert failure.message.endswith("did not start within spec.build.deadlineSeconds: 0/3 nodes are available")


def test_a_build_that_ran_until_its_deadline_is_left_for_the_user() -> None:
    failure = never_started(at_its_deadline(), None).failure
    assert failure is not None
    assert not failure.transient


# Deciding and telling.


def seen_with(**pools: PoolState) -> Observation:
    return Observation({}, pools)


def pool_state(pool: str, artifact: api.Artifact | None = ONNX, **more: Any) -> PoolState:  # noqa: ANN401
    counts = {"wanted": 1, "replicas": 1, "updated": 1, "ready": 1, "available": 1, "observed": True, "complete": True}
    return PoolState(
        f"english-{pool}", pool, **(counts | {"artifact": artifact, "active": artifact and artifact.uri} | more)
    )


def with_pools(*pools: Object, **more: Any) -> Object:  # noqa: ANN401
    return {
        "metadata": {"name": "english", "namespace": "n", "uid": "1", "generation": 2},
        "spec": {
            "model": {"name": "english_stt", "source": {"objectStore": {"uri": "s3://m/x.nemo"}}},
            "storage": {"uri": "s3://asr"},
            "pools": list(pools),
        }
        | more,
    }


L4 = {"name": "l4", "gpu": {"product": "NVIDIA-L4", "computeCapability": "8.9"}}


def reduced(resource: Object, seen: Observation, *, known: dict[str, api.Artifact]) -> dict[str, tuple[str, str]]:
    found = context(resource)
    new = status.reduce(found, decide.decide(found, known, seen), seen, api.Status(), generation=2, now=NOW)
    return {item.type: (item.status.value, item.reason) for item in new.conditions}


def origin_of(resource: Object) -> str:
    found = context(resource)
    return Origin(found, found.spec.pools[0]).to_json()


def onnx_known(resource: Object) -> dict[str, api.Artifact]:
    return {jobs.onnx(context(resource)).name: ONNX}


def all_known(resource: Object, plan: api.Artifact) -> dict[str, api.Artifact]:
    found = context(resource)
    known = onnx_known(resource)
    return known | {jobs.plan(found, pool, ONNX).name: plan for pool in found.spec.pools if pool.gpu}


def test_a_pool_that_serves_its_plan_is_ready_and_nothing_else() -> None:
    resource = with_pools(L4)
    plan = plan_for()
    told = reduced(resource, seen_with(l4=pool_state("l4", plan)), known=all_known(resource, plan))
    assert told == {"Ready": ("True", "Serving"), "Built": ("True", "Built"), "Serving": ("True", "Serving")}


def test_a_fallback_is_ready_and_degraded_without_reconciling() -> None:
    resource = with_pools(L4)
    told = reduced(resource, seen_with(l4=pool_state("l4")), known=onnx_known(resource))
    assert told["Ready"] == ("True", "Serving")
    assert told["Degraded"] == ("True", "PlanNotReady")
    assert "Reconciling" not in told


def test_without_fallback_nothing_is_served_before_the_plan() -> None:
    resource = with_pools(L4, runtime={"fallback": "None"})
    decision = decide.decide(context(resource), onnx_known(resource), Observation())
    assert decision.pools[0].serving is None
    assert reduced(resource, Observation(), known=onnx_known(resource))["Ready"] == ("False", "Building")


def test_an_old_plan_serves_until_the_new_one_is_there() -> None:
    resource = with_pools(L4)
    old = plan_for().model_copy(update={"uri": "s3://old", "build": "plan-old"})
    state = pool_state("l4", old, origin=origin_of(resource))
    decision = decide.decide(context(resource), onnx_known(resource), seen_with(l4=state))
    assert decision.pools[0].serving is not None
    assert decision.pools[0].serving.artifact == old
    assert not decision.pools[0].current


@pytest.mark.parametrize(
    "change",
    [
        {"storage": {"uri": "s3://asr-models/prod", "endpoint": "http://elsewhere:9000", "secretRef": {"name": "b"}}},
        {"storage": {"uri": "s3://asr-models/prod", "secretRef": {"name": "renewed"}}},
        {"audio": {"maxSeconds": 120}},
        {"runtime": {"maxBatchSize": 128}},
        {"model": {"name": "other_stt", "source": {"objectStore": {"uri": "s3://models/other.nemo"}}}},
    ],
)
def test_pods_stay_as_they_are_until_what_another_generation_needs_is_built(change: Object) -> None:
    before = with_pools({"name": "cpu", "replicas": 2})
    first = decide.decide(context(before), onnx_known(before), Observation())
    assert first.pools[0].serving is not None
    live = rendered(context(before), first.pools[0].pool, first.pools[0].serving)
    after = before | {"spec": before["spec"] | change | {"pools": [{"name": "cpu", "replicas": 3}]}}
    seen = Observation(pools={"cpu": observed_pool(live, [])})
    (decision,) = decide.decide(context(after), {}, seen).pools
    assert decision.serving is not None
    kept = rendered(context(after), decision.pool, decision.serving)
    assert kept["spec"]["template"] == live["spec"]["template"]
    assert kept["spec"]["replicas"] == 3
    assert not decision.current


def test_a_deployment_whose_generation_cannot_be_read_is_left_alone() -> None:
    resource = with_pools({"name": "cpu"})
    newer = json.loads(origin_of(resource))
    newer["spec"]["service"]["laterField"] = True
    for origin in (None, "", "[]", "{}", '{"spec": {}, "triton": {}}', "{", json.dumps(newer)):
        state = pool_state("cpu", ONNX, origin=origin)
        assert decide.decide(context(resource), {}, seen_with(cpu=state)).pools[0].serving is None


def failed_plan(resource: Object) -> tuple[JobState, api.Failure]:
    found = context(resource)
    build = jobs.plan(found, found.spec.pools[0], ONNX)
    reason = api.Failure(job=build.job_name, reason="Rejected", message="WER 12 %", transient=False)
    return JobState(build.job_name, "u", build.name, Phase.FAILED, frozenset({"1"}), failure=reason), reason


@pytest.mark.parametrize("available", [1, 0])
def test_a_plan_that_serves_stays_when_the_next_one_is_rejected(available: int) -> None:
    resource = with_pools(L4)
    old = plan_for().model_copy(update={"uri": "s3://old", "build": "plan-old"})
    job, _ = failed_plan(resource)
    state = pool_state("l4", old, origin=origin_of(resource), available=available)
    seen = Observation({job.name: job}, {"l4": state})
    (decision,) = decide.decide(context(resource), onnx_known(resource), seen).pools
    assert decision.serving is not None
    assert decision.serving.artifact == old
    assert decision.degraded is Reason.PLAN_FAILED
    assert "WER 12 %" in decision.note
    told = reduced(resource, seen, known=onnx_known(resource))
    assert told["Ready"][0] == "False"
    assert told["Degraded"] == ("True", "PlanFailed")


def test_a_pool_that_serves_onnx_goes_on_with_it_when_its_plan_is_rejected() -> None:
    resource = with_pools(L4)
    job, _ = failed_plan(resource)
    seen = Observation({job.name: job}, {"l4": pool_state("l4", ONNX)})
    (decision,) = decide.decide(context(resource), onnx_known(resource), seen).pools
    assert decision.serving is not None
    assert decision.serving.artifact == ONNX
    assert decision.current


def test_ready_is_false_while_one_of_two_pools_answers_nobody() -> None:
    resource = with_pools({"name": "cpu"}, {"name": "other"})
    seen = seen_with(cpu=pool_state("cpu"), other=pool_state("other", available=0))
    assert reduced(resource, seen, known=onnx_known(resource))["Ready"] == ("False", "ReplicasMissing")


def test_endpoints_name_the_model_that_pods_answer_to() -> None:
    resource = with_pools({"name": "cpu"})
    seen = seen_with(cpu=pool_state("cpu", active="s3://asr-models/prod/former_stt/1", ready=1))
    found = status.reduce(
        context(resource),
        decide.decide(context(resource), {}, seen),
        seen,
        api.Status(),
        generation=2,
        now=NOW,
    )
    assert found.endpoints is not None
    assert found.endpoints.model == "former_stt"


def test_http_stays_open_until_no_pod_without_tls_answers() -> None:
    plain = with_pools({"name": "cpu"})
    tls = plain | {"spec": plain["spec"] | {"service": {"tlsSecretRef": {"name": "missing"}}}}
    before = seen_with(cpu=pool_state("cpu", origin=origin_of(plain)))
    rolling = seen_with(cpu=pool_state("cpu", origin=origin_of(tls), complete=False))
    after = seen_with(cpu=pool_state("cpu", origin=origin_of(tls)))
    assert [decide.serves_http(context(tls), seen) for seen in (before, rolling, after)] == [True, True, False]


@pytest.mark.parametrize(
    "old", [plan_for(product="NVIDIA-L40S"), plan_for(capability="8.0"), plan_for(tensorrt="10.6.0")]
)
def test_an_old_plan_that_the_new_pods_cannot_run_leaves_the_old_pods_alone(old: api.Artifact) -> None:
    resource = with_pools(L4)
    decision = decide.decide(context(resource), onnx_known(resource), seen_with(l4=pool_state("l4", old)))
    assert decision.pools[0].serving is None


def test_a_plan_for_another_gpu_is_told_and_onnx_serves() -> None:
    resource = with_pools(L4)
    known = all_known(resource, plan_for(product="NVIDIA-L40S"))
    decision = decide.decide(context(resource), known, Observation())
    assert decision.pools[0].serving is not None
    assert decision.pools[0].serving.artifact == ONNX
    assert decision.pools[0].degraded is Reason.PLAN_FAILED
    assert "NVIDIA-L40S" in decision.pools[0].note


@pytest.mark.parametrize(("available", "yielded", "expected"), [(0, 0, 0), (1, 0, 1), (0, 1, 1)])
def test_a_gpu_is_given_up_for_the_plan_only_by_pods_that_hold_one(available: int, yielded: int, expected: int) -> None:
    resource = with_pools(L4 | {"replicas": 2})
    found = context(resource)
    build = jobs.plan(found, found.spec.pools[0], ONNX)
    job = JobState(
        build.job_name, "u", build.name, Phase.RUNNING, frozenset({"1"}), waiting="no node", unschedulable=True
    )
    seen = Observation({job.name: job}, {"l4": pool_state("l4", available=available, yielded=yielded)})
    (decision,) = decide.decide(found, onnx_known(resource), seen).pools
    assert decision.serving is not None
    assert decision.serving.yielded == expected
    assert decision.degraded is Reason.INSUFFICIENT_GPU


def test_pools_with_one_gpu_product_share_one_plan() -> None:
    resource = with_pools(L4, L4 | {"name": "more", "nodeSelector": {"zone": "b"}})
    assert len(decide.decide(context(resource), onnx_known(resource), Observation()).needs) == 2


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (pool_state("cpu", complete=False, updated=0, available=1), ("Reconciling", "RollingOut")),
        (pool_state("cpu", complete=False, overdue=True), ("Stalled", "RolloutFailed")),
        (
            pool_state("cpu", complete=False, problem=Problem(Reason.BATCHING_INVALID, "too large", permanent=True)),
            ("Stalled", "BatchingInvalid"),
        ),
        (
            pool_state("cpu", complete=False, problem=Problem(Reason.STORAGE_UNAVAILABLE, "down")),
            ("Reconciling", "StorageUnavailable"),
        ),
    ],
)
def test_a_roll_out_that_is_not_over_is_not_ready(state: PoolState, expected: tuple[str, str]) -> None:
    resource = with_pools({"name": "cpu"})
    told = reduced(resource, seen_with(cpu=state), known=onnx_known(resource))
    assert told["Ready"][0] == "False"
    assert told[expected[0]] == ("True", expected[1])


def test_a_pod_that_is_lost_later_degrades_and_does_not_undo_ready() -> None:
    resource = with_pools({"name": "cpu", "replicas": 2})
    told = reduced(
        resource, seen_with(cpu=pool_state("cpu", wanted=2, replicas=2, updated=2)), known=onnx_known(resource)
    )
    assert told["Ready"] == ("True", "Serving")
    assert told["Degraded"] == ("True", "ReplicasMissing")


SCALED = {"name": "cpu", "autoscaling": {"maxReplicas": 4, "target": {"pendingRequests": 8}}}


def test_pods_that_an_autoscaler_has_just_asked_for_are_no_degradation_unless_they_fail() -> None:
    resource = with_pools(SCALED)
    state = pool_state("cpu", wanted=3, replicas=3, updated=3)
    assert "Degraded" not in reduced(resource, seen_with(cpu=state), known=onnx_known(resource))
    failing = pool_state("cpu", wanted=3, replicas=3, updated=3, problem=Problem(Reason.PODS_FAIL, "no node"))
    told = reduced(resource, seen_with(cpu=failing), known=onnx_known(resource))
    assert told["Degraded"] == ("True", "ReplicasMissing")


@pytest.mark.parametrize(
    ("provider", "state", "written"),
    [
        ("HPA", {"wanted": 0}, 2),
        ("HPA", {"wanted": 0, "hpa": True}, None),
        ("HPA", {"wanted": 1}, None),
        ("KEDA", {"wanted": 0}, None),
        ("External", {"wanted": 0}, None),
        ("External", {"wanted": 1}, None),
    ],
    ids=["no pods", "paused by hand", "pods", "KEDA wakes it", "the user's own wakes it", "the user's own"],
)
def test_only_a_pool_that_nothing_would_wake_gets_its_fewest_pods_from_the_operator(
    provider: str, state: Object, written: int | None
) -> None:
    scaling = {"minReplicas": 2, "maxReplicas": 4, "target": {"pendingRequests": 8}, "provider": provider}
    resource = with_pools({"name": "cpu", "autoscaling": scaling})
    seen = seen_with(cpu=pool_state("cpu", **state))
    (decision,) = decide.decide(context(resource), onnx_known(resource), seen).pools
    assert decision.serving is not None
    assert decision.serving.replicas == written


@pytest.mark.parametrize("replicas", [None, 2])
def test_a_pool_that_somebody_elses_autoscaler_scales_is_left_alone_and_marked(replicas: int | None) -> None:
    resource = with_pools({"name": "cpu"} | ({} if replicas is None else {"replicas": replicas}))
    found = context(resource)
    state = pool_state("cpu", wanted=5, scaler="HorizontalPodAutoscaler mine")
    (decision,) = decide.decide(found, onnx_known(resource), seen_with(cpu=state)).pools
    assert decision.serving is not None
    body = rendered(found, decision.pool, decision.serving)
    assert "replicas" not in body["spec"]
    assert body["metadata"]["annotations"][names.REPLICAS_ANNOTATION] == names.AUTOSCALED


@pytest.mark.parametrize(
    ("pool", "state", "expected"),
    [
        ({}, {"wanted": 1}, False),
        ({}, {"wanted": 3}, True),
        ({"replicas": 3}, {"wanted": 3}, False),
        ({"replicas": 3}, {"wanted": 2, "yielded": 1}, False),
        ({}, {"wanted": 1, "scaled": True}, True),
        ({"autoscaling": {"maxReplicas": 3}}, {"wanted": 3}, False),
    ],
    ids=["as asked for", "other", "as written", "one given up", "left to one before", "the resource names one"],
)
def test_another_autoscaler_is_looked_for_only_where_there_may_be_one(
    pool: Object, state: Object, *, expected: bool
) -> None:
    (wanted,) = context(with_pools({"name": "cpu"} | pool)).spec.pools
    assert decide.may_have_scaler(wanted, pool_state("cpu", **state)) is expected


def live(generation: int, revision: str, replicas: int = 1) -> Object:
    """A Deployment that was rolled out whole in its first generation."""
    return {
        "metadata": {"name": "english-cpu", "labels": {names.POOL_LABEL: "cpu"}, "generation": generation},
        "spec": {
            "replicas": replicas,
            "template": {"metadata": {"annotations": {names.REVISION_ANNOTATION: revision}}, "spec": {}},
        },
        "status": {
            "observedGeneration": 1,
            "replicas": 1,
            "updatedReplicas": 1,
            "conditions": [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}],
        },
    }


@pytest.mark.parametrize(
    ("deployment", "complete"),
    [(live(1, "old"), True), (live(2, "old", replicas=3), True), (live(2, "new"), False)],
    ids=["as it was", "another number of replicas", "another template"],
)
def test_another_number_of_replicas_is_no_roll_out(deployment: Object, *, complete: bool) -> None:
    pod = {"metadata": {"name": "p", "annotations": {names.REVISION_ANNOTATION: "old"}}, "status": {}}
    assert observed_pool(deployment, [pod]).complete == complete


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (seen_with(cpu=pool_state("cpu", wanted=2)), ("True", "Serving")),
        (seen_with(cpu=pool_state("cpu", ready=0, available=0)), ("False", "ReplicasMissing")),
        (seen_with(cpu=pool_state("cpu", wanted=0, ready=0, available=0)), ("False", "ScaledToZero")),
        (Observation(), ("False", "ReplicasMissing")),
    ],
    ids=["pods", "no pod answers", "scaled to 0", "no Deployment"],
)
def test_whether_a_stalled_resource_serves_is_as_observed(seen: Observation, expected: tuple[str, str]) -> None:
    new = status.stalled(api.Status(), "InvalidSpec", "x", seen=seen, generation=2, now=NOW)
    assert {item.type: (item.status.value, item.reason) for item in new.conditions}["Serving"] == expected


def test_that_pods_cannot_be_created_is_told_in_the_api_servers_words() -> None:
    deployment = live(1, "old", replicas=2)
    told = 'pods "english-cpu-1" is forbidden: exceeded quota'
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": told}
    deployment["status"]["conditions"].append(failure)
    problem = observed_pool(deployment, []).problem
    assert problem is not None
    assert problem.reason is Reason.PODS_FAIL
    assert told in problem.message
    failure["status"] = "False"
    assert observed_pool(deployment, []).problem is None


def test_what_is_scaled_to_zero_is_not_ready_and_says_so() -> None:
    resource = with_pools({"name": "cpu", "replicas": 0})
    state = pool_state("cpu", wanted=0, replicas=0, updated=0, ready=0, available=0)
    assert reduced(resource, seen_with(cpu=state), known=onnx_known(resource))["Ready"] == ("False", "ScaledToZero")


# Jobs.


def actions(
    resource: Object, *states: Callable[[jobs.Build], JobState], known: bool = False, after: float = 0.0
) -> Any:  # noqa: ANN401
    found = context(resource)
    build = jobs.onnx(found)
    seen = Observation({state.name: state for state in (make(build) for make in states)}, {})
    decision = decide.decide(found, {build.name: ONNX} if known else {}, seen)
    now = NOW + timedelta(seconds=after)
    return decide.job_actions(found, decision.needs, seen, distrusted=frozenset(), now=now)


def state_of(phase: Phase, **more: Any) -> Callable[[jobs.Build], JobState]:  # noqa: ANN401
    return lambda build: JobState(build.job_name, "u", build.name, phase, frozenset({"1"}), ended=NOW, **more)


def failure(*, transient: bool) -> api.Failure:
    return api.Failure(job="j", reason="X", message="x", transient=transient)


CPU = with_pools({"name": "cpu"})


def test_a_build_that_nobody_runs_is_begun() -> None:
    assert len(actions(CPU).ensure) == 1


def test_a_transient_failure_is_run_again_after_a_while_and_not_before() -> None:
    failed = state_of(Phase.FAILED, failure=failure(transient=True))
    early, late = actions(CPU, failed, after=10), actions(CPU, failed, after=301)
    assert early.rerun == ()
    assert early.again == timedelta(seconds=290)
    assert len(late.rerun) == 1


def test_a_permanent_failure_is_left_for_the_user() -> None:
    found = actions(CPU, state_of(Phase.FAILED, failure=failure(transient=False)), after=1e9)
    assert (found.ensure, found.rerun, found.release, found.again) == ((), (), (), None)


@pytest.mark.parametrize(
    ("pod", "after", "again", "told"),
    [(False, 10, timedelta(seconds=20), False), (False, 31, None, True), (True, 31, None, False)],
)
def test_a_build_that_gets_no_pod_is_looked_at_again_and_told(
    after: float, again: timedelta | None, *, pod: bool, told: bool
) -> None:
    running = state_of(Phase.RUNNING, created=NOW, pod=pod)
    assert actions(CPU, running, after=after).again == again
    found = context(CPU)
    job = running(jobs.onnx(found))
    seen = Observation({job.name: job}, {})
    decision = decide.decide(found, {}, seen)
    now = NOW + timedelta(seconds=after)
    new = status.reduce(found, decision, seen, api.Status(), generation=1, now=now)
    assert (f"kubectl describe job {job.name}" in new.conditions[0].message) == told


def test_a_job_whose_pod_is_gone_with_its_message_is_run_again() -> None:
    assert actions(CPU, state_of(Phase.SUCCEEDED), after=5).rerun == ()
    assert len(actions(CPU, state_of(Phase.SUCCEEDED), after=31).rerun) == 1


def test_a_job_that_succeeded_is_kept_for_its_log_and_then_goes() -> None:
    assert actions(CPU, state_of(Phase.SUCCEEDED), known=True, after=60).release == ()
    assert len(actions(CPU, state_of(Phase.SUCCEEDED), known=True, after=86_401).release) == 1


def test_a_job_whose_pod_runs_on_after_the_build_soon_goes() -> None:
    lingering = state_of(Phase.SUCCEEDED, lingers=True)
    assert actions(CPU, lingering, known=True, after=30).release == ()
    assert len(actions(CPU, lingering, known=True, after=61).release) == 1


def test_a_job_that_is_not_wanted_any_more_is_released() -> None:
    other = JobState("asr-onnx-old", "u", "onnx-old", Phase.RUNNING, frozenset({"1"}))
    assert [job.name for job in actions(CPU, lambda _build: other).release] == ["asr-onnx-old"]


counts = st.integers(0, 5)
problems = st.sampled_from(
    [None, Problem(Reason.PODS_FAIL, "x"), Problem(Reason.PLAN_INCOMPATIBLE, "y", permanent=True)]
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(resources, st.data())
def test_the_status_of_the_same_is_the_same_and_says_one_thing(resource: Object, data: st.DataObject) -> None:
    found = context(resource)
    pools = {
        pool.name: pool_state(
            pool.name,
            data.draw(st.sampled_from([ONNX, plan_for(), None])),
            **data.draw(
                st.fixed_dictionaries(
                    {"wanted": counts, "replicas": counts, "updated": counts, "available": counts, "problem": problems}
                )
            ),
            complete=data.draw(st.booleans()),
            overdue=data.draw(st.booleans()),
        )
        for pool in found.spec.pools
        if data.draw(st.booleans())
    }
    seen = Observation({}, pools)
    build = jobs.onnx(found).name
    known = data.draw(st.sampled_from([{}, {build: ONNX.model_copy(update={"build": build})}]))
    decision = decide.decide(found, known, seen)
    once = status.reduce(found, decision, seen, api.Status(), generation=1, now=NOW)
    later = NOW + timedelta(days=1)
    assert status.reduce(found, decision, seen, once, generation=1, now=later) == once
    assert api.Status.model_validate(once.as_json()) == once
    told = {item.type: item.status.value for item in once.conditions}
    assert not (conditions.RECONCILING in told and conditions.STALLED in told)
    if told["Ready"] == "True":
        assert conditions.RECONCILING not in told
        assert conditions.STALLED not in told
        assert told["Serving"] == "True"
    for item in decision.pools:
        if item.serving is not None:
            assert decide.incompatibility(found, item.pool, item.serving.artifact) is None


def test_a_build_that_failed_for_good_is_run_again_by_another_builder_image() -> None:
    resource = with_pools({"name": "cpu"})
    build = jobs.onnx(context(resource))
    for image, expected in (
        ("builder:old", [f"builder:old could not build it, the builder image is {build.image} now"]),
        (build.image, []),
    ):
        job = JobState(
            build.job_name,
            "u",
            build.name,
            Phase.FAILED,
            frozenset({"1"}),
            ended=NOW,
            failure=failure(transient=False),
            image=image,
        )
        needs = decide.decide(context(resource), {}, Observation({job.name: job})).needs
        found = decide.job_actions(
            context(resource), needs, Observation({job.name: job}), distrusted=frozenset(), now=NOW
        )
        assert [why for _, why in found.rerun] == expected


def test_a_status_that_this_version_cannot_read_does_not_make_the_spec_invalid() -> None:
    resource = with_pools({"name": "cpu"}) | {"status": {"artifacts": [{"engine": "OnnxRuntime"}], "pools": 5}}
    assert reconcile._spec(resource).pools[0].name == "cpu"
    assert reconcile._previous(resource) == api.Status()
