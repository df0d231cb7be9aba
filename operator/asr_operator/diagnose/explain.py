"""Says of an AsrDeployment, in words, what is built, what is missing, why it is not Ready, and what to do. Pure."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from asr_contract.findings import Finding, Outcome
from asr_contract.server import GRPC_PORT
from asr_operator import names
from asr_operator.api import v1alpha1 as api
from asr_operator.conditions import DEGRADED, READY, RECONCILING, SERVING, STALLED, find
from asr_operator.diagnose.snapshot import Reference, Snapshot, time_of
from asr_operator.events import Reason
from asr_operator.observe import JobState, Observation, Phase, PoolState, failure_of, observe

Object = dict[str, Any]

FRESH_SECONDS = 30.0
"""In which an operator takes up a change."""
SHOWN_EVENTS = 5
JOB_LABEL = "batch.kubernetes.io/job-name"

HINTS: dict[str, str] = {
    Reason.BUILDING: "Builds take minutes, a TensorRT plan a quarter of an hour. Follow it: kubectl logs -f -n "
    "{namespace} job/{job}",
    Reason.BUILD_RETRIED: "Read the log of the Job, fix the cause if it is yours (storage, credentials, network), and "
    "wait: the build runs again by itself.",
    Reason.BUILD_FAILED: "Read the log: kubectl logs -n {namespace} job/{job}. Fix the cause, then kubectl delete job "
    "-n {namespace} {job} runs the build again.",
    Reason.OUT_OF_MEMORY: "Raise spec.build.resources.limits.memory; larger models need more than the default.",
    Reason.DEADLINE_EXCEEDED: "If its pod waited for a node, see why; if it worked, raise spec.build.deadlineSeconds.",
    Reason.ROLLING_OUT: "Pods load and warm up for a minute or more. kubectl get pods -n {namespace} -l "
    "app.kubernetes.io/instance={name}",
    Reason.ROLLOUT_FAILED: "See the pools below, or kubectl describe pod. What served before continues to serve; fix "
    "the spec, or go back to the previous one.",
    Reason.PLAN_NOT_READY: "It serves ONNX until then, and switches to the plan by itself: asr plans {name} -n "
    "{namespace} shows the progress of the plan.",
    Reason.PLAN_FAILED: "It serves ONNX. asr plans {name} -n {namespace} says which plan failed and why.",
    Reason.INSUFFICIENT_GPU: "Free a GPU, add a node, or write rollout.strategy: Recreate, so that a pod ends before "
    "its successor starts.",
    Reason.REPLICAS_MISSING: "See the pools below: pods may wait for nodes, or have ended.",
    Reason.SCALED_TO_ZERO: "All pools have 0 replicas: raise spec.pools[].replicas. KEDA raises them by itself.",
    Reason.ARTIFACT_INVALID: "Files in storage were deleted or altered. Delete the rest of that artifact, "
    "manifest.json first, and the Job that built it: it is then built again.",
    Reason.STORAGE_UNAVAILABLE: "Check spec.storage: the endpoint, the region, the keys in its Secret, and "
    "whether pods may reach it.",
    Reason.PLAN_INCOMPATIBLE: "The node has another GPU or the image another TensorRT than said: compare "
    "gpu.product with the node's label, and image.tensorrt with the image's TRT_VERSION.",
    Reason.BATCHING_INVALID: "Change the pool's batching to what the message allows; nothing is built again.",
    Reason.PODS_FAIL: "Fix what the message names. {look} shows more.",
    Reason.KEDA_MISSING: "Install KEDA, or write provider: HPA.",
    Reason.NO_TRITON_IMAGE: "Ask the operator's administrator to add an image to triton.images of its chart, or "
    "change spec.image.tensorrt.",
    Reason.INVALID_SPEC: "The operator is older than the resource's CRD, or has other rules: upgrade it, and see "
    "asr-operator check.",
    Reason.OPERATOR_ERROR: "Ask the operator's administrator: its log has the error.",
    Reason.API_SERVER_ERROR: "Wait; if it lasts, ask the cluster's administrator: the message is the API server's.",
    Reason.REPLICAS_LEFT_ALONE: "Write autoscaling.provider: External in the pool, or delete the autoscaler it names.",
    Reason.DRIFT_REPAIRED: "Change the AsrDeployment, not its children: the operator sets their fields back.",
    Reason.NAME_TAKEN: "Rename the resource or its pool, or remove the object that has the name.",
    Reason.REFUSED: "Change what the API server names in the message: quota, policy, or a field of the spec.",
    "Rejected": "The build does not transcribe like the checkpoint, and was not published. Its log names the "
    "utterances: kubectl logs -n {namespace} job/{job}. Try runtime.precision FP32, or check audio of the "
    "model's language.",
}
"""What to do, by reason; builders' own reasons that are not here get that of BuildFailed."""
WELL: tuple[str, ...] = (Reason.SERVING, Reason.BUILT)


def hint(reason: str, snapshot: Snapshot, job: str = "NAME", message: str = "") -> str:
    """What to do about a reason, for its Job or the pod that its message names."""
    metadata = snapshot.resource["metadata"]
    text = "" if reason in WELL else HINTS.get(reason, HINTS[Reason.BUILD_FAILED])
    look = _look(metadata["namespace"], metadata["name"], message)
    return text.format(namespace=metadata["namespace"], name=metadata["name"], job=job, look=look)


def _look(namespace: str, name: str, message: str) -> str:
    """The command that shows more of what a message of the operator is about."""
    found = re.search(r"\bpod (?P<pod>[a-z0-9.-]+)(, (?P<container>[a-z0-9-]+))?: ", message)
    if found is None:
        return f"kubectl describe replicasets,pods -n {namespace} -l {names.INSTANCE_LABEL}={name}"
    if found["container"] is None:
        return f"kubectl describe pod -n {namespace} {found['pod']}"
    # Without --previous: that fails before the container has run twice, and these are its last words, too.
    return f"kubectl logs -n {namespace} {found['pod']} -c {found['container']}"


def examine(snapshot: Snapshot, now: datetime) -> Iterator[Finding]:
    """All that there is to say of a resource, from whether the operator has seen it to where clients ask."""
    resource = api.parse(snapshot.resource)
    status = resource.status or api.Status()
    seen = observe(snapshot.jobs, snapshot.deployments, snapshot.pods)
    yield _operator(snapshot, status, now)
    yield from _conditions(snapshot, status, seen, now)
    for reference in snapshot.missing:
        yield _missing(snapshot, reference)
    yield from _builds(snapshot, status, seen, now)
    for pool in resource.spec.pools:
        yield _pool(snapshot, pool, status, seen.pools.get(pool.name))
        yield from _autoscaler(snapshot, pool, seen.pools.get(pool.name))
    yield from _events(snapshot)
    if snapshot.unread:
        yield Finding(
            "rights",
            Outcome.WARNING,
            f"you may not read {', '.join(snapshot.unread)}: what they would show is left out",
            "Ask for the role view in this namespace (and for more, where Secrets are to be looked for).",
        )
    yield from _endpoint(snapshot, status)


def _operator(snapshot: Snapshot, status: api.Status, now: datetime) -> Finding:
    metadata = snapshot.resource["metadata"]
    generation = metadata["generation"]
    if status.observed_generation == generation:
        return Finding("operator", Outcome.OK, f"has seen generation {generation}")
    told = (
        "has never seen this resource"
        if status.observed_generation is None
        else f"has seen generation {status.observed_generation}, not yet {generation}"
    )
    if status.observed_generation is None and _age(metadata.get("creationTimestamp"), now) < FRESH_SECONDS:
        return Finding("operator", Outcome.WARNING, f"{told}, which is new", "Ask again in half a minute.")
    return Finding("operator", Outcome.FAILED, told, _where_is_the_operator(snapshot))


def _where_is_the_operator(snapshot: Snapshot) -> str:
    if snapshot.operators is None:
        return "You may not see whether it runs: ask the operator's administrator."
    if not snapshot.operators:
        return "No operator is installed in this cluster: helm install asr-operator charts/asr-operator."
    told = []
    for item in snapshot.operators:
        where = f"{item['metadata']['namespace']} deployment/{item['metadata']['name']}"
        if item.get("status", {}).get("readyReplicas"):
            told.append(
                f"It runs. Does it manage namespace {snapshot.resource['metadata']['namespace']} (value namespaces "
                f"of the chart)? kubectl logs -n {where}"
            )
        else:
            told.append(f"It is not ready: kubectl describe -n {where}")
    return " ".join(told)


def _conditions(snapshot: Snapshot, status: api.Status, seen: Observation, now: datetime) -> Iterator[Finding]:
    ready, stalled = find(status.conditions, READY), find(status.conditions, STALLED)
    if ready is None:
        return
    since = f", for {_span(_seconds(ready.last_transition_time, now))}"
    job = next((name for name in _jobs_of(status, seen) if name in ready.message), "NAME")
    told = f"{ready.reason}: {ready.message}{since}"
    todo = hint(ready.reason, snapshot, job, ready.message)
    if ready.status is api.ConditionStatus.TRUE:
        yield Finding("ready", Outcome.OK, f"{ready.message}{since}")
    elif stalled is not None:
        yield Finding("ready", Outcome.FAILED, f"not Ready, and waiting does not help: {told}", todo)
    elif find(status.conditions, RECONCILING) is not None or ready.reason == Reason.SCALED_TO_ZERO:
        yield Finding("ready", Outcome.WARNING, f"not Ready yet: {told}", todo)
    else:
        yield Finding("ready", Outcome.FAILED, f"not Ready: {told}", todo)
    serving = find(status.conditions, SERVING)
    if ready.status is not api.ConditionStatus.TRUE and serving and serving.status is api.ConditionStatus.TRUE:
        yield Finding("serving", Outcome.OK, f"still serving: {serving.message}")
    degraded = find(status.conditions, DEGRADED)
    if degraded is not None:
        told = f"less than was asked for: {degraded.reason}: {degraded.message}"
        yield Finding("degraded", Outcome.WARNING, told, hint(degraded.reason, snapshot, message=degraded.message))


def _jobs_of(status: api.Status, seen: Observation) -> list[str]:
    return [*seen.jobs, *([status.last_failure.job] if status.last_failure else [])]


def _missing(snapshot: Snapshot, reference: Reference) -> Finding:
    namespace = snapshot.resource["metadata"]["namespace"]
    hints = {
        "Secret": f"kubectl create secret generic -n {namespace} {reference.name} --from-literal=KEY=VALUE",
        "ConfigMap": f"kubectl create configmap -n {namespace} {reference.name} --from-file=ca.crt",
        "ServiceAccount": f"kubectl create serviceaccount -n {namespace} {reference.name}, bound to a cloud identity",
        "PersistentVolumeClaim": f"Make the claim in namespace {namespace}, or correct the name.",
    }
    told = f"{reference.kind} {reference.name} ({reference.path}) is not in namespace {namespace}: pods cannot start"
    return Finding("reference", Outcome.FAILED, told, hints[reference.kind])


def _builds(snapshot: Snapshot, status: api.Status, seen: Observation, now: datetime) -> Iterator[Finding]:
    for artifact in status.artifacts:
        yield Finding("built", Outcome.OK, f"{what(artifact)}: {measured(artifact)}")
    started = {job["metadata"]["name"]: job["metadata"].get("creationTimestamp") for job in snapshot.jobs}
    for name, job in sorted(seen.jobs.items()):
        if job.phase is not Phase.RUNNING:
            continue
        span = _span(_age(started[name], now))
        former = _former_attempts(snapshot, name)
        if former is not None:
            yield former
        if job.waiting is not None:
            reason = Reason.INSUFFICIENT_GPU if _lacks_gpu(job) else Reason.REPLICAS_MISSING
            todo = hint(reason, snapshot) if _lacks_gpu(job) else "See spec.build: node selector, resources, image."
            yield Finding("build", Outcome.WARNING, f"Job {name} waits for {span}: {job.waiting}", todo)
        elif former is None:
            yield Finding("build", Outcome.OK, f"Job {name} builds for {span}", hint(Reason.BUILDING, snapshot, name))
    failure = status.last_failure
    if failure is not None:
        outcome = Outcome.WARNING if failure.transient else Outcome.FAILED
        again = ", and is run again" if failure.transient else ""
        told = f"Job {failure.job} failed{again}: {failure.reason}: {failure.message}"
        yield Finding("build", outcome, told, hint(failure.reason, snapshot, failure.job))


def _former_attempts(snapshot: Snapshot, name: str) -> Finding | None:
    """What a Job that still runs has failed for so far; None if it has not."""
    failed = next(job for job in snapshot.jobs if job["metadata"]["name"] == name).get("status", {}).get("failed", 0)
    if not failed:
        return None
    of_job = (pod for pod in snapshot.pods if pod["metadata"]["labels"].get(JOB_LABEL) == name)
    ended = [pod for pod in of_job if pod.get("status", {}).get("phase") == "Failed"]
    told, todo = f"Job {name} makes attempt {failed + 1}", hint(Reason.BUILDING, snapshot, name)
    if ended:
        failure = failure_of(name, {}, max(ended, key=lambda pod: str(pod["metadata"].get("creationTimestamp"))))
        told += f"; the last one failed: {failure.reason}: {failure.message}"
        todo = hint(failure.reason, snapshot, name)
    return Finding("build", Outcome.WARNING, told, todo)


def what(artifact: api.Artifact) -> str:
    """An artifact in a few words."""
    if artifact.runtime is not api.Runtime.TENSORRT:
        return "the ONNX model"
    return f"the plan for {artifact.gpu_product} and TensorRT {artifact.tensorrt}"


def measured(artifact: api.Artifact) -> str:
    """Where an artifact is, and what was measured of it."""
    told = [artifact.uri]
    if artifact.head is not None:
        told.append(f"{artifact.head} head")
    if artifact.bytes is not None:
        told.append(f"{artifact.bytes / 1e6:.1f} MB")
    if artifact.wer_permille is not None:
        told.append(f"WER {artifact.wer_permille / 10:.1f} %")
        if artifact.checkpoint_wer_permille is not None:
            told[-1] += f" (the checkpoint {artifact.checkpoint_wer_permille / 10:.1f} %)"
    if artifact.token_agreement_permille is not None:
        told.append(f"{artifact.token_agreement_permille / 10:.1f} % of the tokens are the checkpoint's")
    if artifact.audio_seconds_per_second is not None:
        told.append(f"{artifact.audio_seconds_per_second} audio seconds a second on the GPU alone")
    return ", ".join(told)


def _lacks_gpu(job: JobState) -> bool:
    return job.unschedulable and "nvidia.com/" in (job.waiting or "")


def _pool(snapshot: Snapshot, pool: api.Pool, status: api.Status, state: PoolState | None) -> Finding:
    check = f"pool {pool.name}"
    nodes = _no_node(snapshot, pool)
    if state is None:
        told = nodes or "has no pods yet: it waits for its artifact"
        return Finding(check, Outcome.WARNING, told, NO_NODE if nodes else "")
    artifact = next((item for item in status.artifacts if state.artifact and item.uri == state.artifact.uri), None)
    serves = what(artifact) if artifact else "an artifact that the status does not name"
    told = f"{state.ready} of {state.wanted} pods are ready; they serve {serves}"
    if state.problem is not None and not (state.complete and state.available >= state.wanted):
        outcome = Outcome.FAILED if state.problem.permanent or state.overdue else Outcome.WARNING
        todo = NO_NODE if nodes else hint(state.problem.reason, snapshot, message=state.problem.message)
        return Finding(check, outcome, f"{told}. {state.problem.message}" + (f"; {nodes}" if nodes else ""), todo)
    if nodes is not None and not state.ready:
        return Finding(check, Outcome.WARNING, f"{told}; {nodes}", NO_NODE)
    if state.ready < state.wanted or not state.complete:
        told += "" if state.complete else f"; {state.updated} of them are new"
        return Finding(check, Outcome.WARNING, told, hint(Reason.ROLLING_OUT, snapshot))
    return Finding(check, Outcome.OK, told)


NO_METRIC: dict[api.Provider, str] = {
    api.Provider.HPA: "CPU needs Metrics Server (kubectl top pods), other targets an adapter with the pods' metrics "
    f"{names.AUDIO_RATE_METRIC} and {names.PENDING_METRIC}. All pods stay until then.",
    api.Provider.KEDA: "Does KEDA run, and does the Prometheus answer that the operator's chart names "
    "(settings.keda.prometheusAddress)? kubectl describe scaledobject. All pods stay until then.",
}


def _autoscaler(snapshot: Snapshot, pool: api.Pool, state: PoolState | None) -> Iterator[Finding]:
    """Whether what scales a pool can do so."""
    if pool.autoscaling is None or state is None or "horizontalpodautoscalers" in snapshot.unread:
        return
    if pool.autoscaling.provider is api.Provider.EXTERNAL:
        yield Finding(f"autoscaler {pool.name}", Outcome.OK, f"is your own; it wants {state.wanted} pods")
        return
    check, provider = f"autoscaler {pool.name}", pool.autoscaling.provider
    found = next((item for item in snapshot.autoscalers if item["spec"]["scaleTargetRef"]["name"] == state.name), None)
    if found is None:
        yield Finding(check, Outcome.WARNING, "there is none yet", NO_METRIC[provider])
        return
    conditions = {item["type"]: item for item in found.get("status", {}).get("conditions", ())}
    active, limited = conditions.get("ScalingActive"), conditions.get("ScalingLimited")
    if active is not None and active["status"] == "False" and active["reason"] != "ScalingDisabled":
        told = f"knows no load: {active['reason']}: {active['message']}"
        yield Finding(check, Outcome.WARNING, told, NO_METRIC[provider])
    elif limited is not None and limited["status"] == "True" and limited["reason"] == "TooManyReplicas":
        told = f"would want more than maxReplicas, {pool.autoscaling.max_replicas}"
        yield Finding(check, Outcome.WARNING, told, f"Raise maxReplicas of pool {pool.name}, or its target.")
    else:
        most = pool.autoscaling.max_replicas
        yield Finding(check, Outcome.OK, f"wants {state.wanted} pods, {most} at most")


NO_NODE = (
    "Correct gpu.product, add nodes, or wait for an autoscaler that makes them; where nodes have no such label, write "
    "gpu.nodeSelection: NodeSelectorOnly and a nodeSelector."
)


def _no_node(snapshot: Snapshot, pool: api.Pool) -> str | None:
    if pool.gpu is None or snapshot.products is None or pool.gpu.node_selection is api.NodeSelection.NODE_SELECTOR_ONLY:
        return None
    if pool.gpu.product in snapshot.products:
        return None
    there = ", ".join(f"{product} ({number})" for product, number in snapshot.products.items()) or "none at all"
    return f"no node has the label {names.PRODUCT_NODE_LABEL}={pool.gpu.product}; nodes have {there}"


def _events(snapshot: Snapshot) -> Iterator[Finding]:
    told: dict[str, Object] = {}
    ready = {pod["metadata"]["name"]: since for pod in snapshot.pods if (since := _ready_since(pod)) is not None}
    for event in snapshot.warnings:
        kind, name = event["involvedObject"]["kind"], event["involvedObject"]["name"]
        if kind == api.KIND:
            continue  # these tell what the conditions say
        if kind == "Pod" and time_of(event) <= ready.get(name, ""):
            continue  # of its start, which is over
        told.setdefault(f"{kind} {name}: {event['reason']}", event)
    for name, event in list(told.items())[:SHOWN_EVENTS]:
        message = " ".join(str(event.get("message", "")).split())
        yield Finding("event", Outcome.WARNING, f"{time_of(event)} {name}: {message}")


def _ready_since(pod: Object) -> str | None:
    """When a pod became Ready, as Kubernetes writes times; None if it is not."""
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "Ready" and condition["status"] == "True":
            return str(condition.get("lastTransitionTime", ""))
    return None


def _endpoint(snapshot: Snapshot, status: api.Status) -> Iterator[Finding]:
    serving = find(status.conditions, SERVING)
    if status.endpoints is None or serving is None or serving.status is not api.ConditionStatus.TRUE:
        return
    metadata = snapshot.resource["metadata"]
    todo = (
        f"From here: kubectl port-forward -n {metadata['namespace']} service/{metadata['name']} {GRPC_PORT}, and then "
        f"asr doctor --url localhost:{GRPC_PORT} --model {status.endpoints.model}"
    )
    told = f"clients in the cluster ask {status.endpoints.grpc} for model {status.endpoints.model}"
    yield Finding("endpoint", Outcome.OK, told, todo)


def _age(text: str | None, now: datetime) -> float:
    return 0.0 if text is None else _seconds(datetime.fromisoformat(text), now)


def _seconds(since: datetime, now: datetime) -> float:
    return (now - since.astimezone(UTC)).total_seconds()


def _span(seconds: float) -> str:
    """A time as people say it."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
