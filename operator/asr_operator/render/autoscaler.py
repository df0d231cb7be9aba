"""What scales a pool: a HorizontalPodAutoscaler, or KEDA's ScaledObject. They own the replicas then."""

from asr_operator import names
from asr_operator.api import v1alpha1 as api
from asr_operator.render.context import Context, Object

WINDOW = "1m"
"""Over which Prometheus computes rates for KEDA."""


def horizontalpodautoscaler(context: Context, pool: api.Pool) -> Object | None:
    """None unless the pool is scaled by one."""
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
            "metrics": [_metric(scaling.target)],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": scaling.scale_down_stabilization_seconds}},
        },
    }


def scaledobject(context: Context, pool: api.Pool) -> Object | None:
    """None unless the pool is scaled by KEDA."""
    scaling = pool.autoscaling
    if scaling is None or scaling.provider is not api.Provider.KEDA:
        return None
    name = names.deployment(context.name, pool.name)
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": context.metadata(name, "autoscaler", labels={names.POOL_LABEL: pool.name}),
        "spec": {
            "scaleTargetRef": _target(name),
            "minReplicaCount": scaling.min_replicas,
            "maxReplicaCount": scaling.max_replicas,
            "cooldownPeriod": scaling.scale_down_stabilization_seconds,
            "advanced": {
                "horizontalPodAutoscalerConfig": {
                    "behavior": {"scaleDown": {"stabilizationWindowSeconds": scaling.scale_down_stabilization_seconds}}
                }
            },
            "triggers": [_trigger(context, name, scaling.target)],
        },
    }


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
    pods = f'namespace="{context.namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+"'
    query, value = f"sum(rate({names.AUDIO_COUNTER}{{{pods}}}[{WINDOW}]))", target.audio_seconds_per_second
    if value is None:
        model = context.spec.model.name
        gauges = f"{names.PENDING_GAUGE}|{names.QUEUED_GAUGE}"
        query = f'sum({{__name__=~"{gauges}",{pods},model="{model}"}})'
        value = target.pending_requests
    return {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": context.settings.keda.prometheus_address,
            "query": query,
            "threshold": str(value),
        },
    }
