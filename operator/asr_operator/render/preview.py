"""All children that a resource will have once everything is built, before anything is built.

The API server is asked about these first, so that what it refuses is known in seconds and not after the build. Their
artifacts are placeholders: nothing of this is ever written.
"""

from collections.abc import Container

from asr_contract import compatibility
from asr_operator.api import v1alpha1 as api
from asr_operator.render import jobs
from asr_operator.render.children import desired
from asr_operator.render.context import Context, Object
from asr_operator.render.deployment import Serving

DIGEST = "0" * 64


def preview(context: Context, kinds: Container[str]) -> list[Object]:
    """The children, Jobs included.

    Args:
        context: The resource.
        kinds: That the cluster knows.

    Raises:
        StalledError: The resource cannot be rendered.
    """
    model = _artifact(context)
    planned = [pool for pool in context.spec.pools if _has_plan(context, pool)]
    builds = {
        build.name: build for build in [jobs.onnx(context), *(jobs.plan(context, pool, model) for pool in planned)]
    }
    owner = context.owner(controller=False)
    rendered = [
        build.job | {"metadata": build.job["metadata"] | {"ownerReferences": [owner]}} for build in builds.values()
    ]
    serving = [(pool, _serving(context, pool, model)) for pool in context.spec.pools]
    return [*rendered, *desired(context, serving, kinds)]


def _serving(context: Context, pool: api.Pool, model: api.Artifact) -> Serving:
    """What a pool will serve: its plan where it has one, since pods of a plan have all that others have and more."""
    artifact = _plan(context, pool) if _has_plan(context, pool) else model
    fewest = pool.autoscaling.min_replicas if pool.autoscaling is not None else pool.replicas
    return Serving(artifact, 1 if fewest is None else fewest, context.settings.operator_image)


def _has_plan(context: Context, pool: api.Pool) -> bool:
    return pool.gpu is not None and context.spec.runtime.preferred is api.Runtime.TENSORRT


def _artifact(context: Context) -> api.Artifact:
    uri = f"{context.spec.storage.uri[:900].rstrip('/')}/{context.spec.model.name}/{DIGEST}"
    return api.Artifact(build="onnx", runtime=api.Runtime.ONNX_RUNTIME, uri=uri, manifest_sha256=DIGEST)


def _plan(context: Context, pool: api.Pool) -> api.Artifact:
    assert pool.gpu is not None  # noqa: S101 (plans are for pools with a GPU)
    found = {
        "runtime": api.Runtime.TENSORRT,
        "gpu_product": compatibility.driver_product(pool.gpu.product),
        "compute_capability": pool.gpu.compute_capability,
        "tensorrt": context.triton.tensorrt,
    }
    return _artifact(context).model_copy(update=found)
