"""The PodDisruptionBudget of a pool: nodes are drained one pod at a time."""

from asr_operator import names
from asr_operator.api import v1alpha1 as api
from asr_operator.render.context import Context, Object


def poddisruptionbudget(context: Context, pool: api.Pool) -> Object:
    """The budget of `pool`. It never stops a drain for ever, as one of `minAvailable` would with a single replica."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": context.metadata(
            names.deployment(context.name, pool.name), "server", labels={names.POOL_LABEL: pool.name}
        ),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": names.pool_selector(context.name, pool.name)},
            # A pod that never got ready must not keep its node.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
