"""One pass over one resource: read, decide, render, apply, observe, tell. The only composition of the parts."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from asr_operator import conditions, decide, status
from asr_operator.api import v1alpha1 as api
from asr_operator.cluster import Cluster
from asr_operator.decide import Decision, JobActions
from asr_operator.errors import OperatorError, StalledError
from asr_operator.events import Reason
from asr_operator.observe import Observation, observe
from asr_operator.render.children import desired
from asr_operator.render.context import Context
from asr_operator.render.deployment import Serving, deployment
from asr_operator.settings import Settings
from asr_operator.store import Key, Store

Object = dict[str, Any]
LOG = logging.getLogger(__name__)

AUTOSCALERS = ("HorizontalPodAutoscaler", "ScaledObject")
OPTIONAL_KINDS = ("NetworkPolicy", "PodMonitor", "PodDisruptionBudget", "Service")
"""Children that go as soon as they are not wanted. Deployments stay until the others serve."""
REPAIR_EVENT_SECONDS = 600.0
"""Somebody who changes a field again and again gets one event in this time, not one for each repair."""
STALLED_SECONDS = 300.0
"""A resource that the user has to mend is looked at again after this time: the cause may lie outside it."""


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

    def reconcile(self, key: Key) -> float | None:
        """Do one pass; returns the seconds after which to look again, None when there is nothing to wait for.

        Raises:
            TransientError: The API server cannot be asked now.
        """
        body = self.store.get(api.KIND, key)
        if body is None or body["metadata"].get("deletionTimestamp"):
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
        known = decide.artifacts(previous.artifacts, seen)
        distrusted = decide.distrusted(known, seen)
        known = {name: artifact for name, artifact in known.items() if name not in distrusted}
        decision = decide.decide(context, known, seen)
        actions = decide.job_actions(context, decision.needs, seen, distrusted=distrusted, now=now)
        if actions.release:
            self._record(context, body, previous, decision, seen)
        self._jobs(context, actions)
        serving = [(item.pool, self._sticky(context, item.pool, item.serving, seen)) for item in decision.pools]
        http = decide.serves_http(context, seen)
        wanted = desired(context, serving, self.cluster.served, seen.pools, http=http)
        # Two autoscalers of one Deployment would fight, and KEDA refuses to be the second.
        self._prune(context, wanted, AUTOSCALERS)
        refused = self._apply(context, body, wanted, now)
        if refused is not None:
            raise refused
        self._prune(context, wanted, OPTIONAL_KINDS)
        seen = self._observe(body)
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
        return new, None if actions.again is None else max(actions.again.total_seconds(), 1.0)

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
                if item["kind"] not in self.cluster.served:
                    raise _unknown_kind(item)
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


def _unknown_kind(item: Object) -> StalledError:
    """KEDA's ScaledObject is the one kind that is asked for by name and may be missing."""
    return StalledError(
        Reason.KEDA_MISSING,
        f"{item['kind']} {item['metadata']['name']}: this cluster has no KEDA; install it, or write provider: HPA",
    )


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
        return api.parse(body).spec
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in found["loc"])
        raise StalledError(Reason.INVALID_SPEC, f"{path}: {found['msg']}") from error
