"""All children of a resource but its Jobs, in the order in which they are to be applied."""

from collections.abc import Container, Iterable

from asr_operator.api import v1alpha1 as api
from asr_operator.render import autoscaler, deployment, networkpolicy, poddisruptionbudget, podmonitor, services
from asr_operator.render.context import Context, Object


def desired(
    context: Context, pools: Iterable[tuple[api.Pool, deployment.Serving | None]], kinds: Container[str]
) -> list[Object]:
    """The objects that are to be there.

    Args:
        context: The resource.
        pools: Each with what to serve; None leaves its Deployment as it is.
        kinds: That the cluster knows.
    """
    found: list[Object | None] = [
        services.client(context),
        services.headless(context),
        networkpolicy.networkpolicy(context),
    ]
    for pool, serving in pools:
        found.append(poddisruptionbudget.poddisruptionbudget(context, pool))
        if serving is not None:
            found.append(deployment.deployment(context, pool, serving))
        found += [autoscaler.horizontalpodautoscaler(context, pool), autoscaler.scaledobject(context, pool)]
    found.append(podmonitor.podmonitor(context))
    return [item for item in found if item is not None and item["kind"] in kinds]
