"""One pass over one resource: read, decide, render, apply, observe, tell. The only composition of the parts."""

import logging
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from asr_operator import conditions, decide, names, status
from asr_operator.api import v1alpha1 as api
from asr_operator.cluster import Cluster
from asr_operator.decide import Decision, JobActions
from asr_operator.errors import OperatorError, StalledError, TransientError
from asr_operator.events import Reason
from asr_operator.observe import NEVER_STARTED, JobState, Observation, Phase, never_started, observe
from asr_operator.render.autoscaler import SCALED_OBJECT
from asr_operator.render.children import desired
from asr_operator.render.context import Context
from asr_operator.render.deployment import Serving, deployment
from asr_operator.render.preview import preview
from asr_operator.settings import Settings
from asr_operator.store import Key, Store

Object = dict[str, Any]
LOG = logging.getLogger(__name__)

AUTOSCALERS = ("HorizontalPodAutoscaler", SCALED_OBJECT)
OPTIONAL_KINDS = ("NetworkPolicy", "PodMonitor", "PodDisruptionBudget", "Service")
"""Children that go as soon as they are not wanted. Deployments stay until the others serve."""
REPAIR_EVENT_SECONDS = 600.0
"""Somebody who changes a field again and again gets one event in this time, not one for each repair."""
SCALER_SECONDS = 60.0
"""Nobody watches the autoscalers of others: after this time it is asked whether one is still there."""
NO_POD_SECONDS = 60.0
"""The event that says why a Job has no pod is read again after this time."""
STALLED_SECONDS = 300.0
"""A resource that the user has to mend is looked at again after this time: the cause may lie outside it."""


PASSING_REFUSALS = ("does not support dry run", "exceeded quota")
"""In what the API server says of an object that it was only asked about: by the time it is written it may fit."""
NOT_YET = "not found"
"""In what KEDA says of a ScaledObject whose Deployment is not there yet."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What the API server said about the children that a resource will have.

    Attributes:
        digest: Of these children.
        at: When it was asked.
        refusal: Of the first child that it refuses; None if it takes all.
    """

    digest: str
    at: datetime
    refusal: StalledError | None


@dataclass(slots=True)
class Reconciler:
    """Brings resources to where they are wanted.

    Attributes:
        cluster: The API server.
        store: What is known of it.
        settings: Of the operator.
        clock: The time.
    """

    cluster: Cluster
    store: Store
    settings: Settings
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    _repairs: dict[tuple[str, str, str, str], datetime] = field(default_factory=dict)
    """By kind, namespace, name and path: when the last event about a repair was recorded."""
    _waits: dict[Key, dict[str, str]] = field(default_factory=dict)
    """By resource and uid of the Job: what a Job that runs still waits for, as it was seen last."""
    _previews: dict[Key, Preview] = field(default_factory=dict)
    """By resource: the last time that the API server was asked before a build."""

    def reconcile(self, key: Key) -> float | None:
        """Do one pass; returns the seconds after which to look again, None when there is nothing to wait for.

        Raises:
            TransientError: The API server cannot be asked now.
        """
        body = self.store.get(api.KIND, key)
        if body is None or body["metadata"].get("deletionTimestamp"):
            self._previews.pop(key, None)
            self._waits.pop(key, None)
            return None  # the garbage collector takes the children
        previous = _previous(body)
        try:
            context = Context.of(body, _spec(body), self.settings)
            new, again = self._bring(context, body, previous)
        except StalledError as error:
            new, again = self._stalled(body, previous, error.reason, error.message), STALLED_SECONDS
        self._tell(body, previous, new)
        return again

    def hindered(self, key: Key, error: Exception) -> None:
        """Tell in the status why a resource does not get on, as far as the API server takes at least that."""
        body = self.store.get(api.KIND, key)
        if body is None:
            return
        previous = _previous(body)
        reason, message = Reason.OPERATOR_ERROR, "an error in the operator, which its log names"
        if isinstance(error, OperatorError):
            reason, message = Reason.API_SERVER_ERROR, str(error)
        message += "; it is tried again"
        generation = body["metadata"]["generation"]
        try:
            new = status.hindered(previous, reason, message, generation=generation, now=self.clock())
            self._tell(body, previous, new)
        except OperatorError as untold:
            LOG.warning("%s", untold)

    def _bring(self, context: Context, body: Object, previous: api.Status) -> tuple[api.Status, float | None]:
        now = self.clock()
        seen = self._observe(body)
        scalers, no_pod = self._scalers(context, body, seen), self._without_pod(seen, context, now)
        seen = self._with_causes(context, previous, _with_scalers(seen, scalers), no_pod)
        known = decide.artifacts(previous.artifacts, seen)
        distrusted = decide.distrusted(known, seen)
        known = {name: artifact for name, artifact in known.items() if name not in distrusted}
        decision = decide.decide(context, known, seen)
        actions = decide.job_actions(context, decision.needs, seen, distrusted=distrusted, now=now)
        if actions.release:
            self._record(context, body, previous, decision, seen)
        refused = self._refusal_before_build(context, actions, seen, now)
        if refused is not None:
            running = tuple(build for build in actions.ensure if build.job_name in seen.jobs)
            actions = replace(actions, ensure=running)
        self._jobs(context, actions)
        serving = [(item.pool, self._sticky(context, item.pool, item.serving, seen)) for item in decision.pools]
        http = decide.serves_http(context, seen)
        wanted = desired(context, serving, self.cluster.served, seen.pools, http=http)
        # Two autoscalers of one Deployment would fight, and KEDA refuses to be the second.
        self._prune(context, wanted, AUTOSCALERS)
        refused_now = self._apply(context, body, wanted, now)
        refused = refused or refused_now or _missing_keda(context, self.cluster.served)
        if refused is not None:
            raise refused
        self._prune(context, wanted, OPTIONAL_KINDS)
        seen = self._with_causes(context, previous, _with_scalers(self._observe(body), scalers), no_pod)
        decision = decide.decide(context, known, seen)
        surplus = self._surplus(context, decision, seen)
        new = status.reduce(
            context,
            decision,
            seen,
            previous,
            generation=body["metadata"]["generation"],
            surplus=surplus,
            now=now,
        )
        waits = [max(actions.again.total_seconds(), 1.0)] if actions.again is not None else []
        waits += [SCALER_SECONDS] if scalers else []
        waits += [NO_POD_SECONDS] if no_pod else []
        return new, min(waits, default=None)

    def _without_pod(self, seen: Observation, context: Context, now: datetime) -> dict[str, str | None]:
        """Jobs that should have a pod by now and have none, by uid: why, if an event says so."""
        return {
            job.uid: self.cluster.why_no_pod(context.namespace, job.uid)
            for job in seen.jobs.values()
            if job.phase is Phase.RUNNING and decide.pod_due(job, now) == timedelta()
        }

    def _with_causes(
        self, context: Context, previous: api.Status, seen: Observation, no_pod: dict[str, str | None]
    ) -> Observation:
        """What is seen, with what is known beside it of why Jobs have no pod, or had none until their deadline."""
        key = (context.namespace, context.name)
        before, waits, found = self._waits.get(key, {}), {}, {}
        for name, state in seen.jobs.items():
            job = state
            if job.phase is Phase.RUNNING and not job.pod and (why := no_pod.get(job.uid)):
                job = replace(job, waiting=f"no pod can be created: {why} (kubectl describe job {name} shows more)")
            if job.phase is Phase.RUNNING and not job.started:
                waits[job.uid] = job.waiting or ("its pod did not start" if job.pod else "it has had no pod")
            elif job.phase is Phase.FAILED:
                waited = before.get(job.uid) or _waited(job, previous)
                if waited is not None:
                    waits[job.uid] = waited
                job = never_started(job, waited)
            found[name] = job
        self._waits[key] = waits
        return replace(seen, jobs=found)

    def _scalers(self, context: Context, body: Object, seen: Observation) -> dict[str, str]:
        """What sets the replicas of pools for which the resource names no autoscaler, by pool."""
        found: dict[str, str] = {}
        for pool in context.spec.pools:
            state = seen.pools.get(pool.name)
            if state is None or not decide.may_have_scaler(pool, state):
                continue
            scaler = self.cluster.scaler_of((context.namespace, state.name), uid=context.uid)
            if scaler is None:
                continue
            found[pool.name] = scaler
            if not state.scaled:
                message = (
                    f"{scaler} sets the replicas of pool {pool.name}; they are left alone: write autoscaling.provider: "
                    "External in the pool to confirm, or delete that autoscaler"
                )
                LOG.info("%s/%s: %s", context.namespace, context.name, message)
                self._try_to_emit(body, Reason.REPLICAS_LEFT_ALONE, message, "Scale")
        return found

    def _try_to_emit(self, body: Object, reason: Reason, message: str, action: str) -> None:
        try:
            self.cluster.emit(body, reason=reason, message=message, action=action, warning=True)
        except OperatorError as error:
            LOG.warning("%s", error)  # the log says it as well

    def _refusal_before_build(
        self, context: Context, actions: JobActions, seen: Observation, now: datetime
    ) -> StalledError | None:
        """Ask about all children before a build is begun: what the API server refuses needs no build.

        Once for each generation. After a refusal it is asked again now and then: the cause may lie in the cluster.
        """
        if all(build.job_name in seen.jobs for build in actions.ensure):
            return None
        if (missing := _missing_keda(context, self.cluster.served)) is not None:
            return missing
        key = (context.namespace, context.name)
        try:
            children = preview(context, self.cluster.served)
        except StalledError as error:
            return error
        digest = names.digest([children, sorted(self.cluster.served)], 32)  # KEDA may be installed meanwhile
        last = self._previews.get(key)
        if last is not None and last.digest == digest:
            recent = (now - last.at).total_seconds() < STALLED_SECONDS
            if last.refusal is None or recent:
                return last.refusal
        try:
            refusal = next(filter(None, (self._refusal(context, item) for item in children)), None)
        except TransientError as error:
            LOG.warning("%s/%s: built without a check of its children: %s", *key, error)
            return None
        self._previews[key] = Preview(digest, now, refusal)
        return refusal

    def _refusal(self, context: Context, item: Object) -> StalledError | None:
        try:
            self.cluster.try_out(item, uid=context.uid)
        except StalledError as error:
            passing = (*PASSING_REFUSALS, *([NOT_YET] if item["kind"] == "ScaledObject" else []))
            if any(text in error.message for text in passing):
                return None
            return StalledError(error.reason, f"{error.message}; correct the AsrDeployment: nothing is built before")
        return None

    def _record(
        self, context: Context, body: Object, previous: api.Status, decision: Decision, seen: Observation
    ) -> None:
        """Before a Job goes that told of an artifact, the status must hold it: else a crash in between forgets it."""
        new = status.reduce(
            context, decision, seen, previous, generation=previous.observed_generation or 0, now=self.clock()
        )
        if new.artifacts != previous.artifacts:
            kept = previous.model_copy(update={"artifacts": new.artifacts})
            self.cluster.write_status(body, kept.as_json())

    def _observe(self, body: Object) -> Observation:
        metadata = body["metadata"]
        uid = metadata["uid"]
        jobs = self.store.owned(uid, "Job")
        pods = self.store.pods_of(metadata["namespace"], metadata["name"], jobs)
        hpas = self.store.owned(uid, "HorizontalPodAutoscaler")
        return observe(jobs, self.store.owned(uid, "Deployment"), pods, hpas)

    def _jobs(self, context: Context, actions: JobActions) -> None:
        for state, why in actions.rerun:
            if (live := self.store.get("Job", (context.namespace, state.name))) is not None:
                self.cluster.delete(live, why=f"it is run again: {why}")
        for state in actions.release:
            if (live := self.store.get("Job", (context.namespace, state.name))) is not None:
                self.cluster.disown(live, uid=context.uid)
        for build in actions.ensure:
            self.cluster.own(build.job, context.owner(controller=False), uid=context.uid)

    def _sticky(self, context: Context, pool: api.Pool, serving: Serving | None, seen: Observation) -> Serving | None:
        """Keep the image that fetches while nothing else of the pods changes: a new operator alone replaces none."""
        live = seen.pools.get(pool.name)
        if serving is None or live is None or live.fetch_image is None:
            return serving
        kept = replace(serving, fetch_image=live.fetch_image)
        annotations = deployment(context, pool, kept)["spec"]["template"]["metadata"]["annotations"]
        return kept if live.revision in annotations.values() else serving

    def _prune(self, context: Context, wanted: Sequence[Object], kinds: Sequence[str]) -> None:
        kept = {(item["kind"], item["metadata"]["name"]) for item in wanted}
        pools = {f"{context.name}-{pool.name}" for pool in context.spec.pools}
        for kind in kinds:
            for live in self.store.owned(context.uid, kind):
                name = live["metadata"]["name"]
                # A former pool keeps its budget as long as its pods.
                former = kind == "PodDisruptionBudget" and self.store.get("Deployment", (context.namespace, name))
                if (kind, name) not in kept and not (former and name not in pools):
                    self.cluster.delete(live, why="the resource does not ask for it any more")

    def _surplus(self, context: Context, decision: Decision, seen: Observation) -> list[str]:
        """Deployments of former pools: they go when the others serve.

        Where GPUs are scarce (`Recreate`), they go as soon as everything that the others serve is published.
        """
        former = [
            state for name, state in seen.pools.items() if name not in {item.pool.name for item in decision.pools}
        ]
        ready = all(
            item.current and (state := seen.pools.get(item.pool.name)) is not None and state.complete
            for item in decision.pools
        )
        published = decision.complete and all(item.current for item in decision.pools)
        recreate = context.spec.rollout.strategy is api.Strategy.RECREATE and published
        if not former or not (ready or recreate):
            return [state.name for state in former]
        for state in former:
            if (live := self.store.get("Deployment", (context.namespace, state.name))) is not None:
                self.cluster.delete(live, why="its pool is not in the resource any more")
            budget = self.store.get("PodDisruptionBudget", (context.namespace, state.name))
            if budget is not None:
                self.cluster.delete(budget, why="its pool is not in the resource any more")
        return []

    def _apply(self, context: Context, body: Object, wanted: Sequence[Object], now: datetime) -> StalledError | None:
        """Apply all that can be applied: one object that is refused keeps no other from its repair.

        Returns:
            The first refusal.
        """
        refused: StalledError | None = None
        for item in wanted:
            try:
                path = self.cluster.apply(item, uid=context.uid)
            except StalledError as error:
                refused = refused or error
                continue
            if path is not None:
                self._report_repair(body, item, path, now)
        return refused

    def _report_repair(self, body: Object, item: Object, path: str, now: datetime) -> None:
        """Record an event about a field that somebody else had changed and that was set back."""
        key = (item["kind"], item["metadata"]["namespace"], item["metadata"]["name"], path)
        recent = {found: at for found, at in self._repairs.items() if (now - at).total_seconds() < REPAIR_EVENT_SECONDS}
        if key in recent:
            return
        self._repairs = recent | {key: now}  # never changed in place: other passes read it meanwhile
        try:
            self.cluster.emit(
                body,
                reason=Reason.DRIFT_REPAIRED,
                message=f"{key[0]} {key[2]}: {path} was changed by somebody else and is set back; change the "
                "AsrDeployment instead",
                action="Repair",
                warning=True,
            )
        except OperatorError as error:
            LOG.warning("%s", error)  # the repair itself is done and logged

    def _stalled(self, body: Object, previous: api.Status, reason: str, message: str) -> api.Status:
        seen, generation = self._observe(body), body["metadata"]["generation"]
        return status.stalled(previous, reason, message, seen=seen, generation=generation, now=self.clock())

    def _tell(self, body: Object, previous: api.Status, new: api.Status) -> None:
        """Write the status if it is another, and an event for each change."""
        if new.as_json() == previous.as_json():
            return
        self.cluster.write_status(body, new.as_json())
        told: set[tuple[str, str]] = set()
        for change in conditions.news(previous.conditions, new.conditions):
            condition = change.condition
            LOG.info(
                "%s/%s %s %s: %s: %s",
                body["metadata"]["namespace"],
                body["metadata"]["name"],
                condition.type,
                "gone" if change.gone else condition.status.value,
                condition.reason,
                condition.message,
            )
            # Several conditions may have one cause.
            if (condition.reason, condition.message) not in told:
                self._emit(body, change, bad=condition.type in conditions.ABNORMAL and not change.gone)
            told.add((condition.reason, condition.message))

    def _emit(self, body: Object, change: conditions.Transition, *, bad: bool) -> None:
        condition = change.condition
        try:
            self.cluster.emit(
                body,
                reason=condition.reason,
                message=f"{condition.type} is over" if change.gone else condition.message or condition.reason,
                action=condition.type,
                warning=bad,
            )
        except OperatorError as error:
            # The condition tells the same; a namespace without room for events must not stop the work.
            LOG.warning("%s", error)


def _missing_keda(context: Context, kinds: Container[str]) -> StalledError | None:
    """Why a pool cannot be scaled, if KEDA is asked for and the cluster does not have it."""
    for pool in context.spec.pools:
        if (
            pool.autoscaling is not None
            and pool.autoscaling.provider is api.Provider.KEDA
            and SCALED_OBJECT not in kinds
        ):
            return StalledError(
                Reason.KEDA_MISSING,
                f"pool {pool.name}: this cluster has no KEDA (kind ScaledObject); install it, or write provider: HPA",
            )
    return None


def _waited(job: JobState, previous: api.Status) -> str | None:
    """What a Job that has failed had waited for, by the status: an operator that was started since knows no more."""
    last = previous.last_failure
    if last is not None and last.job == job.name and last.transient and last.reason == Reason.DEADLINE_EXCEEDED:
        return last.message.removeprefix(NEVER_STARTED)
    for condition in previous.conditions:
        if condition.reason == Reason.INSUFFICIENT_GPU and f"Job {job.name} " in condition.message:
            return condition.message
    return None


def _with_scalers(seen: Observation, scalers: dict[str, str]) -> Observation:
    pools = {name: replace(state, scaler=scalers.get(name)) for name, state in seen.pools.items()}
    return replace(seen, pools=pools)


def _previous(body: Object) -> api.Status:
    """The status of before; an empty one if there is none, or one that this version cannot read."""
    try:
        return api.Status.model_validate(body.get("status") or {})
    except ValidationError:
        return api.Status()


def _spec(body: Object) -> api.Spec:
    """What is wanted.

    Raises:
        StalledError: It is of a version with other rules.
    """
    try:
        # Without the status: one of a former version is no fault of the user's.
        return api.parse({"spec": body.get("spec")}).spec
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in found["loc"])
        raise StalledError(Reason.INVALID_SPEC, f"{path}: {found['msg']}") from error
