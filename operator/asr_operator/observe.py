"""From live objects to what matters of them. Pure; only this module knows the status fields of Kubernetes."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from asr_contract import errors
from asr_operator import names
from asr_operator.api import v1alpha1 as api
from asr_operator.events import Reason

Object = Mapping[str, Any]

OUT_OF_MEMORY_CODE = 137
OVERRIDES_CODE = errors.OverridesError.exit_code


NEVER_STARTED = "the build did not start within spec.build.deadlineSeconds: "


class Phase(StrEnum):
    """Of a Job."""

    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class JobState:
    """A build's Job.

    Attributes:
        name: Of the Job.
        uid: Of the Job.
        build: What it builds.
        phase: Whether it runs.
        owners: Uids of the resources that want it.
        created: When it was made.
        ended: When it succeeded or failed.
        result: What it published; None while it runs, and when its pod is gone.
        failure: Why it failed.
        pod: Whether its pod is there.
        waiting: Why its pod does not run: no node, no image.
        unschedulable: Whether that is for want of a node.
        image: Image that builds.
        started: Whether the build was seen to run in the newest pod.
        lingers: Whether another container of its pod runs on although the build has ended.
    """

    name: str
    uid: str
    build: str
    phase: Phase
    owners: frozenset[str]
    created: datetime | None = None
    ended: datetime | None = None
    result: api.Artifact | None = None
    failure: api.Failure | None = None
    pod: bool = False
    waiting: str | None = None
    unschedulable: bool = False
    image: str | None = None
    started: bool = False
    lingers: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a pod.

    Attributes:
        reason: One word.
        message: For people, with the pod's name.
        permanent: Whether the pod will never get well by itself.
        at: When it was last seen to fail; None where that is not told.
    """

    reason: Reason
    message: str
    permanent: bool = False
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool's Deployment with its pods.

    Attributes:
        name: Of the Deployment.
        pool: Name of the pool.
        artifact: What its newest pods serve.
        active: URI of what its ready pods serve, by most of them.
        wanted: Replicas that it is told to have.
        replicas: Pods that are there.
        updated: Of these, those of the newest template.
        ready: Pods that answer.
        available: Pods that have answered for some time.
        observed: Whether its controller has seen the newest template.
        complete: Whether the newest template has been rolled out whole.
        overdue: Whether the roll-out has made no progress for too long.
        problem: Of a pod of the newest template, else why pods cannot be created.
        yielded: Replicas that it gave up for a plan's build.
        hpa: Whether it has a HorizontalPodAutoscaler of ours.
        scaled: Whether the number of its replicas was left to an autoscaler.
        scaler: What sets its replicas although the resource names no autoscaler; None if nothing does.
        kept: How many replicas an autoscaler has set, or had when it was taken away; None if there was none.
        fetch_image: What fetches the artifact in its pods.
        revision: Digest of its template.
        origin: The generation that its template is rendered from, as `render.origin` writes it.
    """

    name: str
    pool: str
    artifact: api.Artifact | None = None
    active: str | None = None
    wanted: int = 0
    replicas: int = 0
    updated: int = 0
    ready: int = 0
    available: int = 0
    observed: bool = False
    complete: bool = False
    overdue: bool = False
    problem: Problem | None = None
    yielded: int = 0
    hpa: bool = False
    scaled: bool = False
    scaler: str | None = None
    kept: int | None = None
    fetch_image: str | None = None
    revision: str | None = None
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """All that matters of a resource's children."""

    jobs: Mapping[str, JobState] = field(default_factory=dict)
    """By name of the Job."""
    pools: Mapping[str, PoolState] = field(default_factory=dict)
    """By name of the pool, those of pools that are no longer wanted included."""


def observe(
    jobs: Iterable[Object], deployments: Iterable[Object], pods: Sequence[Object], hpas: Iterable[Object] = ()
) -> Observation:
    """Observe a resource's children.

    Args:
        jobs: The Jobs that it owns.
        deployments: The Deployments that it owns.
        pods: The pods of all of them.
        hpas: The HorizontalPodAutoscalers that it owns; each is called as its Deployment.
    """
    of_jobs: dict[str, list[Object]] = {}
    of_pools: dict[str, list[Object]] = {}
    for pod in pods:
        labels = pod["metadata"].get("labels", {})
        if names.POOL_LABEL in labels:
            of_pools.setdefault(labels[names.POOL_LABEL], []).append(pod)
        elif "batch.kubernetes.io/job-name" in labels:
            of_jobs.setdefault(labels["batch.kubernetes.io/job-name"], []).append(pod)
    job_states = [job_state(job, of_jobs.get(job["metadata"]["name"], [])) for job in jobs]
    pool_states = [
        pool_state(deployment, of_pools.get(pool, []))
        for deployment in deployments
        if (pool := _pool_of(deployment)) is not None
    ]
    scaled = {hpa["metadata"]["name"] for hpa in hpas}
    return Observation(
        {state.name: state for state in job_states},
        {state.pool: replace(state, hpa=state.name in scaled) for state in pool_states},
    )


def job_state(job: Object, pods: Sequence[Object]) -> JobState:
    """What became of a Job."""
    metadata, status = job["metadata"], job.get("status", {})
    name = metadata["name"]
    state = JobState(
        name=name,
        uid=metadata.get("uid", ""),
        build=_build_of(job),
        phase=Phase.RUNNING,
        owners=frozenset(owner["uid"] for owner in metadata.get("ownerReferences", ())),
        created=time_of(metadata.get("creationTimestamp")),
        pod=bool(pods),
        image=next(
            (
                item.get("image")
                for item in job.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ())
                if item["name"] == names.BUILD_CONTAINER
            ),
            None,
        ),
    )
    newest = max(pods, key=lambda pod: pod["metadata"].get("creationTimestamp", ""), default=None)
    for condition in status.get("conditions", ()):
        if condition["status"] != "True":
            continue
        ended = time_of(condition.get("lastTransitionTime"))
        if condition["type"] in {"Complete", "SuccessCriteriaMet"}:
            return replace(state, phase=Phase.SUCCEEDED, ended=ended, result=_result(state.build, pods))
        if condition["type"] == "Failed":
            failure = failure_of(name, condition, newest)
            return replace(state, phase=Phase.FAILED, ended=ended, failure=failure)
    if newest is None:
        return state
    if (ended_beside := _ended_beside_others(state, newest)) is not None:
        return ended_beside
    waiting, unschedulable = _waiting(newest)
    return replace(state, waiting=waiting, unschedulable=unschedulable, started=_started(newest))


def _started(pod: Object) -> bool:
    states = [item.get("state", {}) for item in _container_statuses(pod) if item["name"] == names.BUILD_CONTAINER]
    return any(key in state for state in states for key in ("running", "terminated"))


def _ended_beside_others(state: JobState, pod: Object) -> JobState | None:
    """The state of a Job whose build has ended while another container of its pod, an injected one, runs on.

    For Kubernetes such a Job runs until somebody ends that container; None where there is none.
    """
    states = {item["name"]: item.get("state", {}) for item in pod.get("status", {}).get("containerStatuses", ())}
    build = states.pop(names.BUILD_CONTAINER, {}).get("terminated")
    if build is None or not any("running" in other for other in states.values()):
        return None
    ended = replace(state, started=True, lingers=True, ended=time_of(build.get("finishedAt")))
    if build.get("exitCode") == 0:
        return replace(ended, phase=Phase.SUCCEEDED, result=_result(state.build, [pod]))
    return replace(ended, phase=Phase.FAILED, failure=failure_of(state.name, {}, pod))


def never_started(job: JobState, waited: str | None) -> JobState:
    """A Job that failed at its deadline, if all the time it `waited` for something: another time it may be there."""
    if waited is None or job.failure is None or job.failure.reason != Reason.DEADLINE_EXCEEDED:
        return job
    message = f"{NEVER_STARTED}{waited}"
    return replace(job, failure=job.failure.model_copy(update={"message": message[:4000], "transient": True}))


def _build_of(job: Object) -> str:
    """What a Job builds: by the labels of its template, which nobody can take away."""
    labels = job.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})
    return str(labels.get(names.BUILD_LABEL, ""))


def _result(build: str, pods: Sequence[Object]) -> api.Artifact | None:
    for pod in pods:
        for ended in _terminated(pod, names.BUILD_CONTAINER):
            if ended.get("exitCode") == 0 and (artifact := artifact_of(build, ended.get("message", ""))):
                return artifact
    return None


def artifact_of(build: str, message: str) -> api.Artifact | None:
    """What a build says that it has published, in its termination message; None if that is not readable."""
    try:
        told = json.loads(message)
        # The builder's word for the runtime is engine, as in its recipe.
        return api.Artifact.model_validate(told | {"build": build, "runtime": told["engine"]})
    except (ValueError, TypeError, KeyError, ValidationError):
        return None


def failure_of(job: str, condition: Object, pod: Object | None) -> api.Failure:
    """Why a Job failed: what its last pod said, else what the Job's controller says."""
    if condition.get("reason") == "DeadlineExceeded":
        return api.Failure(
            job=job,
            reason=Reason.DEADLINE_EXCEEDED,
            message="the build took longer than spec.build.deadlineSeconds, waiting for a node included",
            transient=False,
        )
    pod_status = pod.get("status", {}) if pod is not None else {}
    # By the kubelet, for what the pod took itself: other evictions do not count as a failure of the Job.
    if pod_status.get("reason") == "Evicted":
        return api.Failure(
            job=job,
            reason=Reason.BUILD_FAILED,
            message="the build took more than spec.build.scratch or spec.build.resources lets it: "
            f"{pod_status.get('message', '')[:1000]}",
            transient=False,
        )
    for ended in _terminated(pod, names.BUILD_CONTAINER) if pod is not None else ():
        code, message = ended.get("exitCode"), ended.get("message", "")
        if ended.get("reason") == "OOMKilled" or code == OUT_OF_MEMORY_CODE:
            return api.Failure(
                job=job,
                reason=Reason.OUT_OF_MEMORY,
                message="the build was killed for want of memory; raise spec.build.resources",
                transient=False,
            )
        try:
            told = json.loads(message)
            reason = str(told["reason"])[:100]
            return api.Failure(
                job=job,
                # A builder that is not ours may say what is no word.
                reason=reason if re.fullmatch(api.REASON, reason) else Reason.BUILD_FAILED,
                message=str(told["message"])[:4000],
                transient=bool(told.get("transient")),
            )
        except (ValueError, TypeError, KeyError):
            # Not the builder's own words: an error in it, or an image that is not a builder.
            known = _known(code)
            return api.Failure(
                job=job,
                reason=known.reason if known else Reason.BUILD_FAILED,
                message=f"exit code {code}: {message[-1000:] or 'no message; see the log of the pod'}",
                transient=bool(known and known.transient),
            )
    return api.Failure(
        job=job,
        reason=Reason.BUILD_FAILED,
        message=f"{condition.get('reason', 'failed')}: {condition.get('message', '')}",
        transient=True,  # its pods are gone, so nobody knows
    )


def _known(code: int | None) -> type[errors.BuilderError] | None:
    kinds = {kind.exit_code: kind for kind in errors.BuilderError.__subclasses__()}
    return kinds.get(code) if code is not None else None


def _waiting(pod: Object) -> tuple[str | None, bool]:
    """Why a pod does not run, and whether for want of a node."""
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("message", "no node fits"), True
    for status in _container_statuses(pod):
        waiting = status.get("state", {}).get("waiting", {})
        if waiting.get("reason") not in {None, "ContainerCreating", "PodInitializing", "CrashLoopBackOff"}:
            return f"{waiting['reason']}: {waiting.get('message', '')}", False
    return None, False


def pool_state(deployment: Object, pods: Sequence[Object]) -> PoolState:
    """How far a pool's Deployment is."""
    metadata, spec, status = deployment["metadata"], deployment["spec"], deployment.get("status", {})
    template = spec["template"]
    annotations = template["metadata"].get("annotations", {})
    revision = annotations.get(names.REVISION_ANNOTATION)
    progressing: Object = next((item for item in status.get("conditions", ()) if item["type"] == "Progressing"), {})
    observed = status.get("observedGeneration", 0) >= metadata.get("generation", 0)
    wanted, replicas, updated = spec.get("replicas", 1), status.get("replicas", 0), status.get("updatedReplicas", 0)
    newest = [pod for pod in pods if pod["metadata"].get("annotations", {}).get(names.REVISION_ANNOTATION) == revision]
    staying = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    # Another number of replicas is a new generation, too; no pod can be of a template that was never looked at.
    same_template = bool(staying) and all(pod in newest for pod in staying)
    return PoolState(
        name=metadata["name"],
        pool=_pool_of(deployment) or "",
        artifact=_served(annotations),
        active=_active(pods),
        wanted=wanted,
        replicas=replicas,
        updated=updated,
        ready=status.get("readyReplicas", 0),
        available=status.get("availableReplicas", 0),
        observed=observed,
        # The controller remembers that a roll-out was complete; pods that fail later are another matter.
        complete=(observed or same_template)
        and replicas == updated
        and (progressing.get("reason") == "NewReplicaSetAvailable" or wanted == 0),
        overdue=observed and progressing.get("reason") == "ProgressDeadlineExceeded",
        problem=next((found for found in map(_problem, newest) if found is not None), None) or _refused(status),
        yielded=int(metadata.get("annotations", {}).get(names.YIELDED_ANNOTATION, "0")),
        scaled=metadata.get("annotations", {}).get(names.REPLICAS_ANNOTATION) == names.AUTOSCALED,
        kept=_kept(metadata.get("annotations", {}), wanted),
        fetch_image=next(
            (
                item["image"]
                for item in template["spec"].get("initContainers", ())
                if item["name"] == names.FETCH_CONTAINER
            ),
            None,
        ),
        revision=revision,
        origin=metadata.get("annotations", {}).get(names.ORIGIN_ANNOTATION),
    )


def _refused(status: Object) -> Problem | None:
    """Why pods cannot be created: quota, no service account, Pod Security, a webhook."""
    for condition in status.get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return Problem(Reason.PODS_FAIL, f"no pod can be created: {condition.get('message', '')}")
    return None


def _served(annotations: Mapping[str, str]) -> api.Artifact | None:
    try:
        return api.Artifact(
            build=annotations.get(names.BUILD_ANNOTATION, ""),
            runtime=api.Runtime(annotations[names.ENGINE_ANNOTATION]),
            uri=annotations[names.ARTIFACT_ANNOTATION],
            manifest_sha256=annotations[names.DIGEST_ANNOTATION],
            gpu_product=annotations.get(names.PRODUCT_ANNOTATION),
            compute_capability=annotations.get(names.CAPABILITY_ANNOTATION),
            tensorrt=annotations.get(names.TENSORRT_ANNOTATION),
        )
    except (KeyError, ValueError):  # somebody took them away; they come back with the next apply
        return None


def _pool_of(deployment: Object) -> str | None:
    """Its pool: by its selector, which nobody can change; None if it is no Deployment of ours."""
    pool: str | None = deployment["spec"].get("selector", {}).get("matchLabels", {}).get(names.POOL_LABEL)
    return pool


def _kept(annotations: Mapping[str, str], wanted: int) -> int | None:
    told = annotations.get(names.REPLICAS_ANNOTATION)
    if told == names.AUTOSCALED:
        return wanted
    return int(told) if told is not None and told.isdecimal() else None


def _active(pods: Sequence[Object]) -> str | None:
    served = [
        pod["metadata"].get("annotations", {}).get(names.ARTIFACT_ANNOTATION)
        for pod in pods
        if any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"].get("conditions", ()))
    ]
    return max(sorted(set(filter(None, served))), key=served.count, default=None)


def _problem(pod: Object) -> Problem | None:
    """What is wrong with a pod; None while it starts as it should."""
    if pod["metadata"].get("deletionTimestamp"):
        return None
    name = pod["metadata"]["name"]
    waiting, unschedulable = _waiting(pod)
    if waiting is not None:
        lacks_gpu = unschedulable and "Insufficient nvidia.com/" in waiting
        reason = Reason.INSUFFICIENT_GPU if lacks_gpu else Reason.PODS_FAIL
        return Problem(reason, f"pod {name}: {waiting}")
    for container in (names.CHECK_CONTAINER, names.FETCH_CONTAINER):
        for ended in _terminated(pod, container):
            if code := ended.get("exitCode"):
                told = _message(ended)
                reason = FETCH_REASONS.get(code, Reason.PODS_FAIL)
                return Problem(
                    reason,
                    f"pod {name}, {container}: {told}",
                    permanent=reason in {Reason.PLAN_INCOMPATIBLE, Reason.BATCHING_INVALID},
                    at=time_of(ended.get("finishedAt")),
                )
    for status in _container_statuses(pod):
        if status["name"] == names.TRITON_CONTAINER and not status.get("ready"):
            for ended in _terminated(pod, names.TRITON_CONTAINER):
                if ended.get("exitCode"):
                    return Problem(
                        Reason.PODS_FAIL,
                        f"pod {name}, triton: {ended.get('reason', 'Error')}, exit code {ended['exitCode']}: "
                        f"{_message(ended)}",
                        at=time_of(ended.get("finishedAt")),
                    )
    return None


FETCH_REASONS = {
    errors.StorageError.exit_code: Reason.STORAGE_UNAVAILABLE,
    errors.ArtifactError.exit_code: Reason.ARTIFACT_INVALID,
    errors.IncompatiblePlanError.exit_code: Reason.PLAN_INCOMPATIBLE,
    OVERRIDES_CODE: Reason.BATCHING_INVALID,
}


def _message(ended: Object) -> str:
    text = str(ended.get("message", "")).strip()
    try:
        return str(json.loads(text)["message"])
    except (ValueError, TypeError, KeyError):
        return text[-600:] or "no message; see its log"


def _container_statuses(pod: Object) -> list[Object]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def _terminated(pod: Object, container: str) -> list[Object]:
    """How the container ended last: now, else before it was started again."""
    found = []
    for status in _container_statuses(pod):
        if status["name"] == container:
            found += [
                status[key]["terminated"] for key in ("state", "lastState") if status.get(key, {}).get("terminated")
            ]
    return found[:1]


def time_of(text: str | None) -> datetime | None:
    """A time as Kubernetes writes it."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
