"""What scales a pool: a HorizontalPodAutoscaler, or KEDA's ScaledObject. They own the replicas then."""

import math
import re

from asr_contract import telemetry
from asr_operator import names
from asr_operator.api import v1alpha1 as api
from asr_operator.errors import StalledError
from asr_operator.events import Reason
from asr_operator.render.context import Context, Object

POLLING_SECONDS = 15
"""How often KEDA asks for the load: as often as a HorizontalPodAutoscaler asks KEDA."""
FAILURES = 3
"""After so many questions without an answer KEDA keeps the pods that there are."""
SCRAPES = 4
"""That a rate is computed from, so that one that is missed does not matter."""
LEAST_WINDOW = 60
"""Seconds that a rate is computed over at least."""
SCALED_OBJECT = "ScaledObject"
"""KEDA's kind."""
EXCLUDED_LABELS_ANNOTATION = "scaledobject.keda.sh/hpa-excluded-labels"
"""Of a ScaledObject, for KEDA: labels that its HorizontalPodAutoscaler is not to get, with commas between."""
TEMPLATE_HASH_LENGTH = 10
"""At most."""
GENERATED_FROM_LENGTH = 58
"""Of a name that Kubernetes generates: what it begins with, at most."""
RANDOM_LENGTH = 5
"""Of what it adds."""
MIN_ROOM = 2
"""For the shortest hash and its -."""
DEFAULT_CPU_PERCENT = 70
DEFAULT_PLAN_PERCENT = 40
"""Of what a plan gets through on the GPU alone. Through Triton about 60 % of that arrives; the rest is for peaks."""


def horizontalpodautoscaler(context: Context, pool: api.Pool, artifact: api.Artifact | None) -> Object | None:
    """None unless the pool is scaled by one; `artifact` is what it serves."""
    scaling = pool.autoscaling
    if scaling is None or scaling.provider is not api.Provider.HPA:
        return None
    name = names.deployment(context.name, pool.name)
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": context.metadata(name, "autoscaler", labels={names.POOL_LABEL: pool.name}),
        "spec": {
            "scaleTargetRef": _target(name),
            "minReplicas": scaling.min_replicas,
            "maxReplicas": scaling.max_replicas,
            "metrics": [_metric(target_of(context, pool, artifact))],
            "behavior": scaling.behavior.as_json(),
        },
    }


def scaledobject(context: Context, pool: api.Pool, artifact: api.Artifact | None) -> Object | None:
    """None unless the pool is scaled by KEDA; `artifact` is what it serves."""
    scaling = pool.autoscaling
    if scaling is None or scaling.provider is not api.Provider.KEDA:
        return None
    name = names.deployment(context.name, pool.name)
    trigger = _trigger(context, name, target_of(context, pool, artifact))
    # What KEDA makes is KEDA's, though it copies all other labels.
    annotations = {EXCLUDED_LABELS_ANNOTATION: names.MANAGED_BY_LABEL}
    # Where Prometheus is away, nobody is taken away: what runs stays, and not less than the fewest pods.
    fallback = {
        "failureThreshold": FAILURES,
        "replicas": max(scaling.min_replicas, 1),
        "behavior": "currentReplicasIfHigher",
    }
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": SCALED_OBJECT,
        "metadata": context.metadata(name, "autoscaler", labels={names.POOL_LABEL: pool.name}, annotations=annotations),
        "spec": {
            "scaleTargetRef": _target(name),
            "minReplicaCount": scaling.min_replicas,
            "maxReplicaCount": scaling.max_replicas,
            "pollingInterval": POLLING_SECONDS,
            "cooldownPeriod": scaling.behavior.scale_down.stabilization_window_seconds,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": scaling.behavior.as_json()}},
            # KEDA has none for CPU, which it does not ask for itself.
            **({"fallback": fallback} if trigger["type"] == "prometheus" else {}),
            "triggers": [trigger, *scaling.triggers],
        },
    }


def target_of(context: Context, pool: api.Pool, artifact: api.Artifact | None) -> api.Target:
    """The load that each pod of a scaled pool should have: what the user wrote, else what its artifact is good for."""
    assert pool.autoscaling is not None  # noqa: S101 (asked only of those)
    if pool.autoscaling.target is not None:
        return pool.autoscaling.target
    if pool.gpu is None:
        return api.Target(cpu_utilization_percent=DEFAULT_CPU_PERCENT)
    if artifact is not None and artifact.audio_seconds_per_second:
        share = artifact.audio_seconds_per_second * DEFAULT_PLAN_PERCENT // 100
        return api.Target(audio_seconds_per_second=max(share, 1))
    return api.Target(pending_requests=pool.batching.max_batch_size or context.spec.runtime.max_batch_size)


def _target(name: str) -> Object:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}


def _metric(target: api.Target) -> Object:
    if target.cpu_utilization_percent is not None:
        return {
            "type": "Resource",
            "resource": {
                "name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": target.cpu_utilization_percent},
            },
        }
    rate = target.audio_seconds_per_second
    metric, value = (names.PENDING_METRIC, target.pending_requests) if rate is None else (names.AUDIO_RATE_METRIC, rate)
    return {
        "type": "Pods",
        "pods": {"metric": {"name": metric}, "target": {"type": "AverageValue", "averageValue": str(value)}},
    }


def _trigger(context: Context, deployment: str, target: api.Target) -> Object:
    if target.cpu_utilization_percent is not None:
        return {
            "type": "cpu",
            "metricType": "Utilization",
            "metadata": {"value": str(target.cpu_utilization_percent)},
        }
    for pool in context.spec.pools:
        other = names.deployment(context.name, pool.name)
        if other != deployment and mistaken(other, deployment):
            raise StalledError(
                Reason.INVALID_SPEC,
                f"KEDA cannot distinguish the pods of {deployment} from those of {other}, since Kubernetes cuts long "
                "names; shorten the name of the resource or of its pools",
            )
    keda = context.settings.keda
    authentication = keda.cluster_trigger_authentication
    pods = f'namespace="{context.namespace}",pod=~"{pods_of(deployment)}"'
    query = f"sum(rate({telemetry.AUDIO_SECONDS}{{{pods}}}[{window(context.settings.pod_monitor.interval)}s]))"
    value = target.audio_seconds_per_second
    if value is None:
        model = context.spec.model.name
        gauges = f"{telemetry.PENDING_UTTERANCES}|{telemetry.QUEUED_REQUESTS}"
        query = f'sum({{__name__=~"{gauges}",{pods},model="{model}"}})'
        value = target.pending_requests
    found: Object = {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": keda.prometheus_address,
            "query": query,
            "threshold": str(value),
            # No series is no measurement, and not a load of 0: the fallback holds then.
            "ignoreNullValues": "false",
        },
    }
    if authentication:
        found["metadata"] |= {"authModes": keda.auth_modes}
        found |= {"authenticationRef": {"name": authentication, "kind": "ClusterTriggerAuthentication"}}
    return found


def pods_of(deployment: str) -> str:
    """Pattern of the names of a Deployment's pods: name, template's hash, and five characters, with - between them.

    Kubernetes cuts what is before the five; of a long name the hash, or even the name's own end, is not there.
    """
    room = GENERATED_FROM_LENGTH - len(f"{deployment}-")
    cut = f"[a-z0-9]{{{room}}}"
    whole = f"[a-z0-9]{{1,{min(TEMPLATE_HASH_LENGTH, room - 1)}}}-"
    if room < 0:
        before = deployment[:GENERATED_FROM_LENGTH]
    elif room < MIN_ROOM:
        before = f"{deployment}-{cut}"
    elif room <= TEMPLATE_HASH_LENGTH:
        before = f"{deployment}-({cut}|{whole})"
    else:
        before = f"{deployment}-{whole}"
    return f"{before}[a-z0-9]{{{RANDOM_LENGTH}}}"


def mistaken(one: str, other: str) -> bool:
    """Whether a pod of the Deployment `one` may be taken for one of `other`: both are long, and cut."""
    pattern = re.compile(pods_of(other))
    lengths = range(1, TEMPLATE_HASH_LENGTH + 1)
    found = [f"{one}-{'0' * length}-"[:GENERATED_FROM_LENGTH] + "0" * RANDOM_LENGTH for length in lengths]
    return any(pattern.fullmatch(name) for name in found)


def window(interval: str) -> int:
    """Seconds that a rate is computed over, when pods are scraped each `interval`, such as 15s, 1m or 500ms."""
    factor = {"ms": 0.001, "s": 1.0, "m": 60.0}
    number = interval.rstrip("ms")
    return max(LEAST_WINDOW, math.ceil(SCRAPES * int(number) * factor[interval.removeprefix(number)]))
