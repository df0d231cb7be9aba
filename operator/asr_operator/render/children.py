"""All children of a resource but its Jobs, in the order in which they are to be applied."""

from collections.abc import Container, Iterable

from asr_operator.api import v1alpha1 as api
from asr_operator.render import autoscaler, deployment, networkpolicy, poddisruptionbudget, podmonitor, services
from asr_operator.render.context import Context, Object


def desired(
    context: Context,
    pools: Iterable[tuple[api.Pool, deployment.Serving | None]],
    kinds: Container[str],
    existing: Container[str] = (),
    *,
    http: bool | None = None,
) -> list[Object]:
    """The objects that are to be there.

    Args:
        context: The resource.
        pools: Each with what to serve; None leaves its Deployment as it is.
        kinds: That the cluster knows.
        existing: Names of the pools that have a Deployment already.
        http: Whether Services have a port for HTTP; if None, unless clients are to use TLS.
    """
    http = context.spec.service.tls_secret_ref is None if http is None else http
    found: list[Object | None] = [
        services.client(context, http=http),
        services.headless(context, http=http),
        networkpolicy.networkpolicy(context),
    ]
    for pool, serving in pools:
        found.append(poddisruptionbudget.poddisruptionbudget(context, pool))
        if serving is not None:
            found.append(deployment.deployment(context, pool, serving))
        artifact = None if serving is None else serving.artifact
        scaled = autoscaler.scaledobject(context, pool, artifact)
        # Not before there is something to scale: KEDA waits up to a quarter of an hour before it looks again.
        if serving is not None or pool.name in existing:
            found += [autoscaler.horizontalpodautoscaler(context, pool, artifact), scaled]
    if podmonitor.KIND in kinds:
        found.append(podmonitor.podmonitor(context))
    return [item for item in found if item is not None]
