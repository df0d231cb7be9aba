"""The PodMonitor by which a Prometheus Operator scrapes the serving pods."""

from asr_contract import server
from asr_operator import names
from asr_operator.render.context import Context, Object

KIND = "PodMonitor"


def podmonitor(context: Context) -> Object | None:
    """None where the operator's settings turn it off."""
    settings = context.settings.pod_monitor
    if not settings.enabled:
        return None
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": KIND,
        "metadata": context.metadata(context.name, "monitor", labels=dict(settings.labels)),
        "spec": {
            "selector": {"matchLabels": names.server_selector(context.name)},
            "podMetricsEndpoints": [{"port": server.METRICS, "path": "/metrics", "interval": settings.interval}],
            "podTargetLabels": [names.INSTANCE_LABEL, names.POOL_LABEL],
        },
    }
