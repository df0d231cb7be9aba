"""The NetworkPolicy of the serving pods: who may send requests."""

from asr_contract import server
from asr_operator import names
from asr_operator.render.context import Context, Object


def networkpolicy(context: Context) -> Object | None:
    """None where everybody may."""
    policy = context.spec.network_policy
    if policy is None:
        return None
    ports = [{"protocol": "TCP", "port": port} for port in (server.GRPC_PORT, server.HTTP_PORT)]
    clients = [{"from": list(policy.from_), "ports": ports}] if policy.from_ else []
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": context.metadata(context.name, "network-policy"),
        "spec": {
            "podSelector": {"matchLabels": names.server_selector(context.name)},
            "policyTypes": ["Ingress"],
            # Metrics tell numbers only, and Prometheus may be anywhere.
            "ingress": [*clients, {"ports": [{"protocol": "TCP", "port": server.METRICS_PORT}]}],
        },
    }
