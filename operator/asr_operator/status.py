"""From a decision and an observation to the status. Pure, and idempotent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from asr_operator import names
from asr_operator.api import v1alpha1 as api
from asr_operator.conditions import BUILT, DEGRADED, READY, RECONCILING, SERVING, STALLED, Finding, find, merge
from asr_operator.decide import Decision, Need, PoolDecision, pod_due, serves_http
from asr_operator.events import Reason
from asr_operator.observe import Observation, PoolState
from asr_operator.render import services
from asr_operator.render.context import Context


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something is not as it should be.

    Attributes:
        reason: One word.
        message: For people.
        stalled: Whether waiting cannot help.
    """

    reason: str
    message: str
    stalled: bool = False


def reduce(
    context: Context,
    decision: Decision,
    seen: Observation,
    previous: api.Status,
    *,
    generation: int,
    surplus: Sequence[str] = (),
    now: datetime,
) -> api.Status:
    """The status of now.

    Args:
        context: The resource.
        decision: What is to be.
        seen: What is.
        previous: The status before.
        generation: Of the resource.
        surplus: Deployments of former pools that still serve.
        now: The time.
    """
    build_cause = _build_cause(decision, now)
    causes = [cause for item in decision.pools if (cause := _pool_cause(context, item, seen, build_cause))]
    if surplus:
        causes.append(Cause(Reason.ROLLING_OUT, f"{', '.join(sorted(surplus))} of former pools still serve"))
    states = [state for item in decision.pools if (state := seen.pools.get(item.pool.name)) is not None]
    available = sum(state.available for state in seen.pools.values())
    wanted = sum(_wanted(item, seen) for item in decision.pools)
    findings = [
        _ready(causes, decision, seen, wanted),
        _built(decision, build_cause),
        _serving(available, wanted),
    ]
    stalled = next((cause for cause in causes if cause.stalled), None)
    if stalled is not None:
        findings.append(Finding.of(STALLED, True, stalled.reason, stalled.message))
    elif causes:
        findings.append(Finding.of(RECONCILING, True, causes[0].reason, causes[0].message))
    degraded = _degraded(decision, seen, settled=not causes)
    if degraded is not None:
        findings.append(Finding.of(DEGRADED, True, degraded.reason, degraded.message))
    return api.Status(
        observed_generation=generation,
        conditions=merge(previous.conditions, findings, generation=generation, now=now),
        runtime=_runtimes(states),
        **_sums(seen, wanted),
        artifacts=_kept(decision, seen, previous),
        pools=[_pool(item, seen.pools.get(item.pool.name), context) for item in decision.pools],
        endpoints=services.endpoints(context, _served_model(context, seen), http=serves_http(context, seen)),
        last_failure=next((need.failure for need in decision.needs if need.failure), None),
    )


def stalled(
    previous: api.Status, reason: str, message: str, *, seen: Observation, generation: int, now: datetime
) -> api.Status:
    """The status of a resource that nothing can be rendered of; what served before goes on, and is still looked at."""
    states = seen.pools.values()
    wanted = sum(state.wanted for state in states)
    built = find(previous.conditions, BUILT)
    findings = [
        Finding.of(READY, False, reason, message),
        Finding.of(STALLED, True, reason, message),
        *([Finding(BUILT, built.status, built.reason, built.message)] if built is not None else []),
        # Where no Deployment is, nothing is scaled to 0: pods are missing.
        _serving(sum(state.available for state in states), wanted if seen.pools else 1),
    ]
    pools = [
        item.model_copy(update=_counts(state)) if (state := seen.pools.get(item.name)) is not None else item
        for item in previous.pools
    ]
    return previous.model_copy(
        update={
            "observed_generation": generation,
            "conditions": merge(previous.conditions, findings, generation=generation, now=now),
            "pools": pools,
            **_sums(seen, wanted),
        }
    )


def hindered(previous: api.Status, reason: str, message: str, *, generation: int, now: datetime) -> api.Status:
    """The status of a resource that something keeps from getting on; it may be Ready all the same."""
    ready = find(previous.conditions, READY)
    serves = ready is not None and ready.status is api.ConditionStatus.TRUE and ready.observed_generation == generation
    kept = {BUILT, SERVING, DEGRADED} | ({READY} if serves else set())
    findings = [
        Finding(item.type, item.status, item.reason, item.message) for item in previous.conditions if item.type in kept
    ]
    findings += [] if serves else [Finding.of(READY, False, reason, message)]
    findings.append(Finding.of(RECONCILING, True, reason, message))
    conditions = merge(previous.conditions, findings, generation=generation, now=now)
    return previous.model_copy(update={"observed_generation": generation, "conditions": conditions})


def _build_cause(decision: Decision, now: datetime) -> Cause | None:
    """The first build that is not there: why."""
    missing = decision.missing
    failed = next((need for need in missing if need.failure and not need.failure.transient), None)
    if failed is not None:
        return _failed(failed)
    return _building(missing[0], now) if missing else None


def _failed(need: Need) -> Cause:
    failure = need.failure
    assert failure is not None  # noqa: S101 (asked only of what failed)
    return Cause(
        failure.reason,
        f"{failure.message} (change the resource, or fix the cause and delete the Job {failure.job} to run it again)",
        stalled=True,
    )


def _building(need: Need, now: datetime) -> Cause:
    job = need.job
    name = need.build.job_name
    if job is not None and job.failure is not None:
        return Cause(
            Reason.BUILD_RETRIED, f"Job {name} failed and is run again: {job.failure.reason}: {job.failure.message}"
        )
    if job is not None and job.waiting is not None:
        lacks_gpu = job.unschedulable and need.build.runtime is api.Runtime.TENSORRT
        return Cause(Reason.INSUFFICIENT_GPU if lacks_gpu else Reason.BUILDING, f"Job {name} waits: {job.waiting}")
    if pod_due(job, now) == timedelta():
        return Cause(Reason.BUILDING, f"Job {name} has no pod: kubectl describe job {name} shows why")
    return Cause(
        Reason.BUILDING,
        f"Job {name} builds {'the plan' if need.build.runtime is api.Runtime.TENSORRT else 'the model'}",
    )


def _pool_cause(context: Context, item: PoolDecision, seen: Observation, build: Cause | None) -> Cause | None:
    """Why a pool does not serve this generation yet; None if it does."""
    name = item.pool.name
    state = seen.pools.get(name)
    if not item.current:
        return build or _not_current(item)
    if state is None:
        return Cause(Reason.ROLLING_OUT, f"pool {name} is being made")
    if state.problem is not None and state.problem.permanent:
        return Cause(state.problem.reason, f"pool {name}: {state.problem.message}", stalled=True)
    if state.complete:
        return None
    told = f": {state.problem.message}" if state.problem else ""
    if state.overdue:
        return Cause(
            Reason.ROLLOUT_FAILED,
            f"pool {name}: no progress within spec.rollout.deadlineSeconds, older pods serve on{told}"
            if state.available
            else f"pool {name}: no progress within spec.rollout.deadlineSeconds{told}",
            stalled=True,
        )
    reason = state.problem.reason if state.problem else Reason.ROLLING_OUT
    if (tls := context.spec.service.tls_secret_ref) and not told:
        # A pod waits for a volume in silence: only its events name what is missing.
        told = f"; new pods need Secret {tls.name} (spec.service.tlsSecretRef)"
    return Cause(
        reason, f"pool {name}: pods wanted {state.wanted}, new {state.updated}, available {state.available}{told}"
    )


def _not_current(item: PoolDecision) -> Cause:
    """Why a pool has nothing new to serve, although all that is built is published."""
    if item.degraded is Reason.PLAN_FAILED:
        return Cause(Reason.PLAN_INCOMPATIBLE, item.note, stalled=True)
    return Cause(Reason.BUILDING, f"pool {item.pool.name} waits for its artifact")


def _ready(causes: Sequence[Cause], decision: Decision, seen: Observation, wanted: int) -> Finding:
    if causes:
        first = next((cause for cause in causes if cause.stalled), causes[0])
        return Finding.of(READY, False, first.reason, first.message)
    states = [(item.pool, state) for item in decision.pools if (state := seen.pools.get(item.pool.name)) is not None]
    silent = next((state for pool, state in states if _due(pool, state) and not state.available), None)
    if silent is not None:
        problem = f": {silent.problem.message}" if silent.problem else ""
        message = f"pool {silent.pool}: no pod answers; pods wanted: {silent.wanted}{problem}"
        return Finding.of(READY, False, Reason.REPLICAS_MISSING, message)
    available = sum(state.available for state in seen.pools.values())
    if available:
        return Finding.of(READY, True, Reason.SERVING, f"the newest generation is served; pods available: {available}")
    if wanted:
        return Finding.of(READY, False, Reason.REPLICAS_MISSING, f"no pod answers; pods wanted: {wanted}")
    return Finding.of(READY, False, Reason.SCALED_TO_ZERO, "all pools have 0 replicas")


def _built(decision: Decision, cause: Cause | None) -> Finding:
    if cause is not None:
        return Finding.of(BUILT, False, cause.reason, cause.message)
    incompatible = next((item for item in decision.pools if item.degraded is Reason.PLAN_FAILED), None)
    if incompatible is not None:
        return Finding.of(BUILT, False, Reason.PLAN_INCOMPATIBLE, incompatible.note)
    return Finding.of(BUILT, True, Reason.BUILT, f"published artifacts: {len(decision.needs)}")


def _serving(available: int, wanted: int) -> Finding:
    if available:
        return Finding.of(SERVING, True, Reason.SERVING, f"requests are answered; pods available: {available}")
    if wanted:
        return Finding.of(SERVING, False, Reason.REPLICAS_MISSING, "no pod answers requests")
    return Finding.of(SERVING, False, Reason.SCALED_TO_ZERO, "all pools have 0 replicas")


def _degraded(decision: Decision, seen: Observation, *, settled: bool) -> Cause | None:
    """What is worse than asked for, although it serves."""
    for item in decision.pools:
        if item.degraded is not None:
            return Cause(item.degraded, item.note)
    if not settled:
        return None
    for item in decision.pools:
        state = seen.pools.get(item.pool.name)
        if state is not None and state.available < _due(item.pool, state):
            told = f": {state.problem.message}" if state.problem else ""
            return Cause(
                Reason.REPLICAS_MISSING,
                f"pool {item.pool.name}: pods wanted {state.wanted}, available {state.available}{told}",
            )
    return None


def _due(pool: api.Pool, state: PoolState) -> int:
    """Pods that should be available by now: not those that an autoscaler has just asked for, unless they fail."""
    if state.problem is not None or (pool.autoscaling is None and state.scaler is None):
        return state.wanted
    return min(state.wanted, 1 if pool.autoscaling is None else pool.autoscaling.min_replicas)


def _wanted(item: PoolDecision, seen: Observation) -> int:
    state = seen.pools.get(item.pool.name)
    left_alone = item.pool.autoscaling is not None or item.serving is None or item.serving.replicas is None
    if state is not None and left_alone:
        return state.wanted
    if item.serving is not None and item.serving.replicas is not None:
        return item.serving.replicas
    if item.pool.autoscaling is not None:
        return item.pool.autoscaling.min_replicas
    return 1 if item.pool.replicas is None else item.pool.replicas


def _served_model(context: Context, seen: Observation) -> str:
    """The model that pods answer to: the one that is asked for, unless all pods that are ready still have another."""
    wanted = context.spec.model.name
    # An artifact lies at <storage>/<model>/<key>.
    served = {state.active.rstrip("/").split("/")[-2] for state in seen.pools.values() if state.ready and state.active}
    return wanted if not served or wanted in served else min(served)


def _runtimes(states: Sequence[PoolState]) -> str | None:
    found = sorted({state.artifact.runtime.value for state in states if state.artifact}, reverse=True)
    return ",".join(found) or None


def _kept(decision: Decision, seen: Observation, previous: api.Status) -> list[api.Artifact]:
    """Artifacts that are wanted, and those that pods still have."""
    wanted = {need.build.name: need.artifact for need in decision.needs if need.artifact is not None}
    active = {state.artifact.uri for state in seen.pools.values() if state.artifact}
    building = {need.build.name for need in decision.needs if need.artifact is None}
    kept = {item.build: item for item in previous.artifacts if item.uri in active and item.build not in building}
    return sorted((kept | wanted).values(), key=lambda item: item.build)


def _sums(seen: Observation, wanted: int) -> dict[str, Any]:
    ready = sum(state.ready for state in seen.pools.values())
    replicas = sum(state.replicas for state in seen.pools.values())
    return {"replicas": replicas, "ready_replicas": ready, "ready_summary": f"{ready}/{wanted}"}


def _counts(state: PoolState) -> dict[str, int]:
    return {"replicas": state.replicas, "ready_replicas": state.ready, "updated_replicas": state.updated}


def _pool(item: PoolDecision, state: PoolState | None, context: Context) -> api.PoolStatus:
    name = names.deployment(context.name, item.pool.name)
    serving = item.serving.artifact if item.serving is not None else None
    target = item.target or (serving if item.current else None)
    if state is None:
        return api.PoolStatus(name=item.pool.name, deployment=name, target=target.uri if target else None)
    return api.PoolStatus(
        name=item.pool.name,
        deployment=name,
        runtime=state.artifact.runtime if state.artifact else None,
        active=state.active,
        target=target.uri if target else None,
        **_counts(state),
    )
