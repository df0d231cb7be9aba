"""Which pool of an AsrDeployment has which TensorRT plan, and which one lacks what. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from asr_contract.compatibility import Platform, difference, missing
from asr_operator.api import v1alpha1 as api
from asr_operator.conditions import DEGRADED, find
from asr_operator.diagnose.explain import measured
from asr_operator.diagnose.snapshot import Snapshot
from asr_operator.observe import JobState, Observation, Phase, observe

Object = dict[str, Any]


class State(StrEnum):
    """Of a pool's plan."""

    NOT_NEEDED = "not needed"
    PUBLISHED = "published"
    BUILDING = "building"
    WAITING = "waiting"
    FAILED = "failed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pool has of a TensorRT plan.

    Attributes:
        resource: Namespace and name of the AsrDeployment.
        pool: Name of the pool.
        gpu: GPU product; None on CPU.
        compute_capability: Of that GPU.
        tensorrt: The version that a plan must be of; None where nobody has said yet.
        state: How far the plan is.
        serves: Runtime of its pods now.
        note: More about the state.
    """

    resource: str
    pool: str
    gpu: str | None
    compute_capability: str | None
    tensorrt: str | None
    state: State
    serves: str | None
    note: str

    def to_json(self) -> dict[str, str | None]:
        """One line of `asr plans --json`."""
        return {
            "resource": self.resource,
            "pool": self.pool,
            "gpuProduct": self.gpu,
            "computeCapability": self.compute_capability,
            "tensorrt": self.tensorrt,
            "state": self.state.value,
            "serves": self.serves,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a plan is.

    Attributes:
        state: In a word.
        note: More about it.
        tensorrt: The version of the plan; None where nobody has said yet.
    """

    state: State
    note: str
    tensorrt: str | None = None


def plans(snapshot: Snapshot) -> list[Plan]:
    """One for each pool of a resource."""
    resource = api.parse(snapshot.resource)
    metadata, spec = snapshot.resource["metadata"], resource.spec
    seen = observe(snapshot.jobs, snapshot.deployments, snapshot.pods)
    found = []
    for pool in spec.pools:
        progress = _progress(snapshot, spec, pool, resource.status or api.Status(), seen)
        state = seen.pools.get(pool.name)
        found.append(
            Plan(
                resource=f"{metadata['namespace']}/{metadata['name']}",
                pool=pool.name,
                gpu=pool.gpu.product if pool.gpu else None,
                compute_capability=pool.gpu.compute_capability if pool.gpu else None,
                tensorrt=progress.tensorrt or (spec.image.tensorrt if pool.gpu else None),
                state=progress.state,
                serves=state.artifact.runtime.value if state and state.artifact and state.ready else None,
                note=progress.note,
            )
        )
    return found


def _progress(snapshot: Snapshot, spec: api.Spec, pool: api.Pool, status: api.Status, seen: Observation) -> Progress:
    if pool.gpu is None:
        return Progress(State.NOT_NEEDED, "pods without a GPU run ONNX")
    if spec.runtime.preferred is not api.Runtime.TENSORRT:
        return Progress(State.NOT_NEEDED, "spec.runtime.preferred is OnnxRuntime")
    wanted = Platform(pool.gpu.product, pool.gpu.compute_capability, spec.image.tensorrt)
    for job in snapshot.jobs:
        arguments = _arguments(job)
        product, capability = arguments.get("gpu-product"), arguments.get("compute-capability")
        tensorrt = arguments.get("serving-tensorrt")
        if product is not None and difference(Platform(product, capability, tensorrt), wanted) is None:
            of_job = _of_job(seen.jobs[job["metadata"]["name"]], tensorrt)
            if of_job is not None:
                return of_job
    plans = [item for item in status.artifacts if item.runtime is api.Runtime.TENSORRT]
    for artifact in plans:
        plan = Platform(artifact.gpu_product, artifact.compute_capability, artifact.tensorrt)
        if (missing(plan) or difference(plan, wanted)) is None:
            return Progress(State.PUBLISHED, measured(artifact), artifact.tensorrt)
    if len(plans) == len(status.artifacts):
        return Progress(State.MISSING, "it is built from the ONNX model, which is not there yet")
    degraded = find(status.conditions, DEGRADED)
    return Progress(State.MISSING, degraded.message if degraded else "no Job builds it; asr doctor says why")


def _of_job(job: JobState, tensorrt: str | None) -> Progress | None:
    if job.phase is Phase.RUNNING and job.waiting is not None:
        return Progress(State.WAITING, f"Job {job.name}: {job.waiting}", tensorrt)
    if job.phase is Phase.RUNNING:
        return Progress(State.BUILDING, f"Job {job.name}", tensorrt)
    if job.failure is not None:
        again = "; it is run again" if job.failure.transient else ""
        return Progress(State.FAILED, f"Job {job.name}: {job.failure.reason}: {job.failure.message}{again}", tensorrt)
    return None


def _arguments(job: Object) -> dict[str, str]:
    """Options of a build, from its command line."""
    found: dict[str, str] = {}
    containers: Sequence[Object] = job["spec"]["template"]["spec"]["containers"]
    for argument in containers[0].get("args", ()):
        option, equals, value = str(argument).partition("=")
        if equals:
            found[option.removeprefix("--")] = value
    return found
