"""The Services: one for clients, and one that resolves to all pods for gRPC clients that balance by themselves."""

from asr_contract import server
from asr_operator import names
from asr_operator.api import v1alpha1 as api
from asr_operator.render.context import Context, Object


def client(context: Context, *, http: bool) -> Object:
    """The Service of clients: the ready pods of all pools."""
    service = context.spec.service
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": context.metadata(
            context.name, "service", **({"annotations": dict(service.annotations)} if service.annotations else {})
        ),
        "spec": {
            "type": service.type.value,
            **({"loadBalancerClass": service.load_balancer_class} if service.load_balancer_class else {}),
            "selector": names.server_selector(context.name),
            "ports": _ports(context, http=http),
        },
    }


def headless(context: Context, *, http: bool) -> Object:
    """The Service whose name resolves to the addresses of all ready pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": context.metadata(names.headless(context.name), "headless-service"),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "selector": names.server_selector(context.name),
            "ports": _ports(context, http=http),
        },
    }


def endpoints(context: Context, model: str, *, http: bool) -> api.Endpoints:
    """Where clients find the model, and its name."""
    base = f"{context.namespace}.svc.{context.settings.cluster_domain}"
    return api.Endpoints(
        grpc=f"{context.name}.{base}:{server.GRPC_PORT}",
        http=None if not http else f"http://{context.name}.{base}:{server.HTTP_PORT}",
        headless=f"{names.headless(context.name)}.{base}:{server.GRPC_PORT}",
        model=model,
    )


def _ports(context: Context, *, http: bool) -> list[Object]:
    # Triton serves HTTP without TLS only; where clients are to have TLS, it is for probes and metrics alone.
    tls = context.spec.service.tls_secret_ref is not None
    found = [(server.GRPC, server.GRPC_PORT, "kubernetes.io/h2c" if not tls else None)]
    found += [(server.HTTP, server.HTTP_PORT, "http")] if http else []
    return [
        {
            "name": name,
            "port": port,
            "protocol": "TCP",
            "targetPort": name,
            **({"appProtocol": protocol} if protocol else {}),
        }
        for name, port, protocol in found
    ]
