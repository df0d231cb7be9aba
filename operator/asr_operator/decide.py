"""What each pool is to serve, and which builds that needs. Pure: the same resource and children, the same decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from asr_contract import compatibility
from asr_contract.compatibility import Aspect
from asr_operator.api import v1alpha1 as api
from asr_operator.events import Reason
from asr_operator.observe import JobState, Observation, Phase, PoolState
from asr_operator.render import jobs
from asr_operator.render.context import Context
from asr_operator.render.deployment import Serving
from asr_operator.render.origin import Origin

POD_GRACE = timedelta(seconds=30)
"""A Job's pod that is not seen yet may still be on its way; after this time it is gone, or cannot be created."""


LINGERING = timedelta(seconds=60)
"""How long a Job is kept whose build has ended but whose pod runs on: it may hold a GPU."""


@dataclass(frozen=True, slots=True)
class PoolDecision:
    """What becomes of a pool.

    Attributes:
        pool: As wanted.
        serving: What to render; None leaves its Deployment, if there is one, as it is.
        current: Whether that is what this generation wants, or the fallback that it allows.
        target: The artifact that it will have in the end, if that is known.
        degraded: Why it serves less than was asked for.
        note: What degrades it, for people.
    """

    pool: api.Pool
    serving: Serving | None = None
    current: bool = False
    target: api.Artifact | None = None
    degraded: Reason | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Need:
    """A build, and what is known of it.

    Attributes:
        build: What is built.
        artifact: What came of it.
        job: Its Job, when it has one.
        failure: Why it failed.
    """

    build: jobs.Build
    artifact: api.Artifact | None = None
    job: JobState | None = None

    @property
    def failure(self) -> api.Failure | None:
        """Why it failed, where no artifact is known."""
        return self.job.failure if self.artifact is None and self.job is not None else None


@dataclass(frozen=True, slots=True)
class Decision:
    """All that is decided.

    Attributes:
        needs: The builds: the ONNX model first, then the plans that can be begun.
        pools: In the order of the resource.
        complete: Whether all builds are known, none waits for another.
    """

    needs: tuple[Need, ...]
    pools: tuple[PoolDecision, ...]
    complete: bool

    @property
    def missing(self) -> list[Need]:
        """Builds without an artifact."""
        return [need for need in self.needs if need.artifact is None]


def decide(context: Context, known: Mapping[str, api.Artifact], seen: Observation) -> Decision:
    """Decide about builds and pools.

    Args:
        context: The resource.
        known: Artifacts by build.
        seen: Its children.
    """
    onnx = _need(jobs.onnx(context), known, seen)
    plans: dict[str, Need] = {}
    of_pool: dict[str, Need] = {}
    pending = False
    for pool in context.spec.pools:
        if pool.gpu is None or context.spec.runtime.preferred is not api.Runtime.TENSORRT:
            continue
        if onnx.artifact is None:
            pending = True
            continue
        build = jobs.plan(context, pool, onnx.artifact)
        # Pools with the same GPU share a plan, and the Job of the first.
        of_pool[pool.name] = plans.setdefault(build.name, _need(build, known, seen))
    pools = [
        _choose(context, pool, onnx, of_pool.get(pool.name), _measured(seen.pools.get(pool.name), known))
        for pool in context.spec.pools
    ]
    return Decision((onnx, *plans.values()), tuple(pools), complete=not pending)


def _measured(live: PoolState | None, known: Mapping[str, api.Artifact]) -> PoolState | None:
    """The pool with all that is known of its artifact: pods tell only where it is."""
    if live is None or live.artifact is None:
        return live
    found = known.get(live.artifact.build)
    same = found is not None and found.manifest_sha256 == live.artifact.manifest_sha256
    return replace(live, artifact=found) if same else live


def _need(build: jobs.Build, known: Mapping[str, api.Artifact], seen: Observation) -> Need:
    return Need(build, known.get(build.name), seen.jobs.get(build.job_name))


def _choose(context: Context, pool: api.Pool, onnx: Need, plan: Need | None, live: PoolState | None) -> PoolDecision:
    if pool.gpu is not None and context.spec.runtime.preferred is api.Runtime.TENSORRT:
        return _choose_plan(context, pool, onnx, plan, live)
    if onnx.artifact is not None:
        return _serve(context, pool, live, onnx.artifact, target=onnx.artifact)
    return _keep(context, pool, live)


def _choose_plan(
    context: Context, pool: api.Pool, onnx: Need, plan: Need | None, live: PoolState | None
) -> PoolDecision:
    """The plan when there is one; until then what serves, and ONNX where no plan serves."""
    built = plan.artifact if plan is not None else None
    if built is not None and (reason := incompatibility(context, pool, built)) is None:
        return _serve(context, pool, live, built, target=built)
    failure = plan.failure if plan is not None else None
    if built is not None:
        failure = api.Failure(job="", reason=Reason.PLAN_INCOMPATIBLE, message=str(reason), transient=False)
    if _serves_plan(live):
        kept = _keep(context, pool, live)
        if failure is None or failure.transient:
            return kept
        note = f"pool {pool.name} goes on serving its former plan: the newest cannot be built: {failure.message}"
        return replace(kept, degraded=Reason.PLAN_FAILED, note=note)
    if context.spec.runtime.fallback is api.Fallback.ONNX_RUNTIME and onnx.artifact is not None:
        return _fall_back(context, pool, live, onnx.artifact, plan=plan, failure=failure)
    return _keep(context, pool, live)


def _fall_back(
    context: Context,
    pool: api.Pool,
    live: PoolState | None,
    model: api.Artifact,
    *,
    plan: Need | None,
    failure: api.Failure | None,
) -> PoolDecision:
    """Serve the ONNX model until there is a plan, and say why."""
    note = f"pool {pool.name} serves ONNX: "
    if failure is None:
        note += "its plan is being built"
    else:
        note += "the build of its plan is tried again: " if failure.transient else "its plan cannot be built: "
        note += failure.message
    yielded = _yielded(pool, plan, live)
    reason = Reason.PLAN_FAILED if failure is not None and not failure.transient else Reason.PLAN_NOT_READY
    if plan is not None and plan.job is not None and plan.job.unschedulable:
        reason = Reason.INSUFFICIENT_GPU
        note = f"pool {pool.name}: no free GPU for the plan's build: {plan.job.waiting}"
        if yielded:
            note += "; one replica was given up for it"
    return _serve(context, pool, live, model, degraded=reason, note=note, yielded=yielded)


def _serves_plan(live: PoolState | None) -> bool:
    """Whether a plan serves, or served until its pods failed: ONNX in its place would be a tenth of the throughput."""
    if live is None or live.artifact is None or live.artifact.runtime is not api.Runtime.TENSORRT:
        return False
    return bool(live.available) or live.complete


def _keep(context: Context, pool: api.Pool, live: PoolState | None) -> PoolDecision:
    """Serve what is served, with pods of the generation that it came with; only their number is that of now."""
    if live is None or live.artifact is None:
        return PoolDecision(pool)
    origin = Origin.from_json(live.origin, context)
    if origin is None:
        return PoolDecision(pool)  # its Deployment stays as it is
    return PoolDecision(pool, replace(_serving(context, pool, live, live.artifact), origin=origin))


def _serve(
    context: Context,
    pool: api.Pool,
    live: PoolState | None,
    artifact: api.Artifact,
    *,
    target: api.Artifact | None = None,
    degraded: Reason | None = None,
    note: str = "",
    yielded: int = 0,
) -> PoolDecision:
    serving = _serving(context, pool, live, artifact, yielded=yielded)
    return PoolDecision(pool, serving, current=True, target=target, degraded=degraded, note=note)


def _serving(
    context: Context, pool: api.Pool, live: PoolState | None, artifact: api.Artifact, *, yielded: int = 0
) -> Serving:
    kept = None if live is None or pool.autoscaling is not None or pool.replicas is not None else live.kept
    return Serving(artifact, _replicas(pool, live), context.settings.operator_image, yielded, kept)


def _replicas(pool: api.Pool, live: PoolState | None) -> int | None:
    """Pods of a pool; None where an autoscaler sets their number."""
    if pool.autoscaling is not None:
        # An HPA does not wake a pool that has no pods, KEDA does. Where one is there already, a hand has paused it.
        asleep = live is not None and not live.wanted and not live.hpa and pool.autoscaling.provider is api.Provider.HPA
        return pool.autoscaling.min_replicas if live is None or asleep else None
    if live is not None and live.scaler is not None:
        return None
    if pool.replicas is not None:
        return pool.replicas
    return 1 if live is None or live.kept is None else live.kept


def may_have_scaler(pool: api.Pool, live: PoolState) -> bool:
    """Whether somebody else may set the replicas of a pool: it has another number of them than the resource asks for.

    Also where they were left to somebody before, who may be gone by now.
    """
    if pool.autoscaling is not None:
        return False
    return live.scaled or live.wanted + live.yielded != _replicas(pool, replace(live, scaler=None))


def _yielded(pool: api.Pool, plan: Need | None, live: PoolState | None) -> int:
    """Replicas of the fallback to give up, so that the plan can be built where they hold every GPU.

    Once given up they stay so until the Job has ended: else they would take the GPU again.
    """
    if pool.autoscaling is not None or not _replicas(pool, live) or plan is None or plan.job is None:
        return 0
    if plan.job.phase is not Phase.RUNNING or live is None:
        return 0
    # Pods that have not been placed hold no GPU: to give them up makes no room.
    return 1 if live.yielded or (plan.job.unschedulable and live.available) else 0


def incompatibility(context: Context, pool: api.Pool, artifact: api.Artifact) -> str | None:
    """Why a pool cannot run an artifact; None if it can. No pod is rendered against this."""
    if artifact.runtime is not api.Runtime.TENSORRT:
        return None
    if pool.gpu is None:
        return f"pool {pool.name} has no GPU, {artifact.uri} is a TensorRT plan"
    plan = compatibility.Platform(artifact.gpu_product, artifact.compute_capability, artifact.tensorrt)
    here = compatibility.Platform(pool.gpu.product, pool.gpu.compute_capability, context.triton.tensorrt)
    match compatibility.missing(plan) or compatibility.difference(plan, here):
        case Aspect.GPU_PRODUCT:
            return f"{artifact.uri} is a plan for {artifact.gpu_product}, pool {pool.name} has {pool.gpu.product}"
        case Aspect.COMPUTE_CAPABILITY:
            return (
                f"{artifact.uri} is a plan for compute capability {artifact.compute_capability}, pool {pool.name} has "
                f"{pool.gpu.compute_capability}"
            )
        case Aspect.TENSORRT:
            return (
                f"{artifact.uri} is a plan of TensorRT {artifact.tensorrt}, the pods of pool {pool.name} have "
                f"{context.triton.tensorrt}"
            )
    return None


def serves_http(context: Context, seen: Observation) -> bool:
    """Whether clients are to reach pods by HTTP: without TLS, and as long as pods without TLS answer."""
    if context.spec.service.tls_secret_ref is None:
        return True
    origins = [(state, Origin.from_json(state.origin, context)) for state in seen.pools.values() if state.available]
    return any(
        not state.complete or (origin is not None and origin.context.spec.service.tls_secret_ref is None)
        for state, origin in origins
    )


@dataclass(frozen=True, slots=True)
class JobActions:
    """What is to be done about Jobs.

    Attributes:
        ensure: To be there, and to have this resource among their owners.
        rerun: To be deleted, so that they are run again: with the reason.
        release: To be left by this resource; deleted when nobody else owns them.
        again: When to look again; None if no Job asks for it.
    """

    ensure: tuple[jobs.Build, ...]
    rerun: tuple[tuple[JobState, str], ...]
    release: tuple[JobState, ...]
    again: timedelta | None


def job_actions(
    context: Context, needs: Sequence[Need], seen: Observation, *, distrusted: frozenset[str], now: datetime
) -> JobActions:
    """Decide about Jobs.

    Args:
        context: The resource.
        needs: Its builds.
        seen: Its children.
        distrusted: Builds whose artifact pods have found to be bad since.
        now: The time.
    """
    ensure: list[jobs.Build] = []
    rerun: list[tuple[JobState, str]] = []
    release: list[JobState] = []
    waits: list[timedelta | None] = []
    for need in needs:
        job = need.job
        if need.artifact is not None:
            continue
        if job is None or job.phase is Phase.RUNNING:
            ensure.append(need.build)
            waits.append(pod_due(job, now))
        elif need.build.name in distrusted:
            rerun.append((job, "pods could not fetch what it had published"))
        elif (found := _again(context, need.build, job)) is not None:
            wait, why = found
            if left := _left(job, wait, now):
                waits.append(left)
            else:
                rerun.append((job, why))
    needed = {need.build.job_name for need in needs}
    known = {need.build.name for need in needs if need.artifact is not None}
    for job in seen.jobs.values():
        kept = job.build in known and job.phase is Phase.SUCCEEDED
        keep = timedelta(seconds=context.settings.jobs.keep_seconds)
        if kept and (left := _left(job, min(keep, LINGERING) if job.lingers else keep, now)):
            waits.append(left)
        elif kept or job.build in known or job.name not in needed:
            # Kept long enough, built by another Job meanwhile, or not wanted any more.
            release.append(job)
    return JobActions(tuple(ensure), tuple(rerun), tuple(release), min(filter(None, waits), default=None))


def pod_due(job: JobState | None, now: datetime) -> timedelta | None:
    """How long a Job that runs may still be without a pod; None if it has one. Its events alone say why it has none."""
    if job is not None and job.pod:
        return None
    created = (job.created if job is not None else None) or now
    return max(created + POD_GRACE - now, timedelta())


def _again(context: Context, build: jobs.Build, job: JobState) -> tuple[timedelta, str] | None:
    """After which time a Job that has ended without an artifact is run again, and why; None if that cannot help."""
    retry = timedelta(seconds=context.settings.jobs.retry_seconds)
    if job.phase is Phase.SUCCEEDED:
        # Its pod is gone, and with it what it said; run again it finds the artifact.
        return retry if job.pod else POD_GRACE, "what it published is not known any more"
    if job.failure is not None and job.failure.transient:
        return retry, f"{job.failure.reason}: {job.failure.message[:200]}"
    if job.image not in {None, build.image}:
        return timedelta(), f"{job.image} could not build it, the builder image is {build.image} now"
    return None


def _left(job: JobState, wait: timedelta, now: datetime) -> timedelta:
    """Of a time after the Job's end, what is left."""
    return max((job.ended or now) + wait - now, timedelta())


def distrusted(known: Mapping[str, api.Artifact], seen: Observation) -> frozenset[str]:
    """Builds whose artifact a pod could not fetch whole since it was built last: they are to be looked at again."""
    found = set()
    for state in seen.pools.values():
        problem, artifact = state.problem, state.artifact
        if problem is None or artifact is None or problem.reason is not Reason.ARTIFACT_INVALID:
            continue
        ends = [job.ended for job in seen.jobs.values() if job.build == artifact.build and job.ended]
        if problem.at is not None and artifact.build in known and all(end < problem.at for end in ends):
            found.add(artifact.build)
    return frozenset(found)


def artifacts(previous: Sequence[api.Artifact], seen: Observation) -> dict[str, api.Artifact]:
    """What is known to be published, by build: what Jobs say now goes before what the status says."""
    known = {artifact.build: artifact for artifact in previous}
    known |= {job.build: job.result for job in seen.jobs.values() if job.result is not None}
    return known
