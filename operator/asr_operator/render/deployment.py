"""The Deployment of a pool: `fetch` brings and verifies the artifact, Triton serves the local copy."""

import json
import math
from dataclasses import dataclass

from asr_contract import compatibility, server
from asr_contract.errors import IncompatiblePlanError
from asr_operator import compare, names
from asr_operator.api import v1alpha1 as api
from asr_operator.render import pods, start
from asr_operator.render.context import Context, Object
from asr_operator.render.origin import Origin

MODELS = "/models"
TLS = "/etc/asr-operator/tls"
PYTHON_MODELS = 3
QUARTER_GIB = 256 * server.MIB
MOST_SHARED_MEMORY = 32 * QUARTER_GIB
PROBE_SECONDS = 5
LIVENESS_SECONDS = 10
MIN_READY_SECONDS = 2
"""A pod counts as available when it has been ready for so long: by then the Service's rules know it."""

CHECK_TENSORRT = """\
case "${TRT_VERSION:-unknown}." in
  "$EXPECTED_TENSORRT".*) exit 0 ;;
esac
echo "this image has TensorRT ${TRT_VERSION:-unknown}, the plan is for $EXPECTED_TENSORRT; write the image's version \
where the image is named" | tee TERMINATION_LOG
exit EXIT_CODE
""".replace("TERMINATION_LOG", pods.TERMINATION_LOG).replace("EXIT_CODE", str(IncompatiblePlanError.exit_code))
"""Is `compatibility.is_version_of(TRT_VERSION, EXPECTED_TENSORRT)` in shell, since Triton's image need hold no more.

Triton itself would refuse a plan of another TensorRT as damaged, and start again for ever.
"""


@dataclass(frozen=True, slots=True)
class Serving:
    """What a pool is to serve.

    Attributes:
        artifact: The model repository.
        replicas: Pods; None leaves that to an autoscaler.
        fetch_image: What fetches the artifact.
        yielded: Of the pods that are wanted, those given up so that a plan can be built on their GPU.
        kept: That many replicas are wanted since an autoscaler had set them before; None if that is not why.
        origin: The generation that the pods are rendered from; the one of now if None.
    """

    artifact: api.Artifact
    replicas: int | None
    fetch_image: str
    yielded: int = 0
    kept: int | None = None
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Drain:
    """How a pod ends without a failed request, in seconds.

    First it goes on serving, while endpoints forget it and clients leave: the server ends each connection by and by,
    and a client that is told so looks anew which pods there are. Then Triton ends, and waits for what it has accepted.
    Once it ends, its schedulers refuse the next step of an ensemble in flight: the time before is what counts, the time
    to exit is a backstop.

    Attributes:
        stay: Of serving on.
        age: Of a connection that the server asks to be left; gRPC adds up to a tenth. In `stay`, a client can be told,
            look for addresses too early, be told again, and look again: many clients do so every 30 s at most.
        request: That a request may take after its connection is to be left. Nothing gains by cutting it off sooner.
        exit: For Triton to end.
    """

    stay: int
    age: int
    request: int
    exit: int

    @classmethod
    def within(cls, grace: int) -> "Drain":
        """Fit into the grace period of the pod, with some seconds to spare."""
        leave = min(30, grace // 3)
        stay = grace - leave - 5
        # No longer than half a minute: so soon new pods get their share.
        return cls(stay, min(stay // 3, 30), grace, leave)


def deployment(context: Context, pool: api.Pool, serving: Serving) -> Object:
    """The Deployment of `pool`."""
    name = names.deployment(context.name, pool.name)
    selector = names.pool_selector(context.name, pool.name)
    origin = serving.origin or Origin(context, pool)
    rollout = origin.context.spec.rollout
    template = _template(origin.context, origin.pool, serving)
    surge = rollout.strategy is api.Strategy.SURGE
    annotations = _annotations(serving.artifact) | {names.ORIGIN_ANNOTATION: origin.to_json()}
    if serving.yielded:
        annotations |= {names.YIELDED_ANNOTATION: str(serving.yielded)}
    if pool.autoscaling is not None or serving.replicas is None:
        annotations |= {names.REPLICAS_ANNOTATION: names.AUTOSCALED}
    elif serving.kept is not None:
        annotations |= {names.REPLICAS_ANNOTATION: str(serving.kept)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": context.metadata(name, "server", labels={names.POOL_LABEL: pool.name}, annotations=annotations),
        "spec": {
            **({} if serving.replicas is None else {"replicas": serving.replicas - serving.yielded}),
            "selector": {"matchLabels": selector},
            "strategy": {
                "type": "RollingUpdate",
                # Old pods stay until new ones are ready; where there is no room for both, one ends first.
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}
                if surge
                else {"maxSurge": 0, "maxUnavailable": 1},
            },
            "minReadySeconds": MIN_READY_SECONDS,
            "progressDeadlineSeconds": rollout.deadline_seconds,
            "revisionHistoryLimit": 3,
            "template": template,
        },
    }


def revision(template: Object) -> str:
    """Digest of a pod template without the image that fetches: a new operator alone replaces no pods."""
    spec = template["spec"]
    others = [
        {key: value for key, value in item.items() if not (key == "image" and item["name"] == names.FETCH_CONTAINER)}
        for item in spec["initContainers"]
    ]
    labels = template["metadata"]
    annotations = {key: value for key, value in labels["annotations"].items() if key != names.REVISION_ANNOTATION}
    return names.digest([spec | {"initContainers": others}, labels["labels"], annotations])


def _annotations(artifact: api.Artifact) -> dict[str, str]:
    found = {
        names.BUILD_ANNOTATION: artifact.build,
        names.ARTIFACT_ANNOTATION: artifact.uri,
        names.DIGEST_ANNOTATION: artifact.manifest_sha256,
        names.ENGINE_ANNOTATION: artifact.runtime.value,
        names.PRODUCT_ANNOTATION: artifact.gpu_product,
        names.CAPABILITY_ANNOTATION: artifact.compute_capability,
        names.TENSORRT_ANNOTATION: artifact.tensorrt,
    }
    return {key: value for key, value in found.items() if value is not None}


def _template(context: Context, pool: api.Pool, serving: Serving) -> Object:
    labels = dict(pool.pod_labels) | names.labels(context.name, "server") | {names.POOL_LABEL: pool.name}
    volume = pool.model_volume
    storage_volumes, _ = pods.storage_volumes(context)
    tls = context.spec.service.tls_secret_ref
    plan = serving.artifact.runtime is api.Runtime.TENSORRT
    if volume.claim_name is not None:
        models: Object = {"persistentVolumeClaim": {"claimName": volume.claim_name}}
    else:
        models = {"emptyDir": {} if volume.size_limit is None else {"sizeLimit": volume.size_limit}}
    template: Object = {
        "metadata": {"labels": labels, "annotations": dict(pool.pod_annotations) | _annotations(serving.artifact)},
        "spec": {
            **pods.identity(context),
            **pods.placement(pool),
            "topologySpreadConstraints": _spread(context, pool),
            "terminationGracePeriodSeconds": pool.termination_grace_period_seconds,
            "initContainers": [*([_check(context, pool)] if plan else []), _fetch(context, pool, serving)],
            "containers": [_triton(context, pool, serving)],
            "volumes": [
                {"name": "models", **models},
                {"name": "tmp", "emptyDir": {}},
                {
                    "name": "shm",
                    "emptyDir": {"medium": "Memory", "sizeLimit": f"{shared_memory(context.spec) // server.MIB}Mi"},
                },
                *([{"name": "tls", "secret": {"secretName": tls.name}}] if tls else []),
                *storage_volumes,
            ],
        },
    }
    template["metadata"]["annotations"][names.REVISION_ANNOTATION] = revision(template)
    return template


def repository(pool: api.Pool, artifact: api.Artifact) -> str:
    """Where the model repository lies in a pod. A volume that pods share may hold several."""
    overrides = overrides_of(pool, artifact)
    suffix = f"-{names.digest(overrides)}" if overrides else ""
    return f"{MODELS}/{artifact.manifest_sha256[:16]}{suffix}"


def overrides_of(pool: api.Pool, artifact: api.Artifact) -> dict[str, int | str]:
    """What `fetch` changes in the copy that is served: batching by the names of the API, and what it runs on.

    An ONNX model is built for both. Left to itself, Triton would run it on the CPU wherever CUDA does not start, and
    say nothing; a plan runs on a GPU or not at all.
    """
    found: dict[str, int | str] = dict(pool.batching.as_json())
    if artifact.runtime is api.Runtime.ONNX_RUNTIME:
        found["device"] = "CPU" if pool.gpu is None else "GPU"
    return found


def lock(artifact: api.Artifact) -> str:
    """What a server holds in a volume that pods share, so that the artifact is not removed."""
    return f"{MODELS}/{artifact.manifest_sha256[:16]}.lock"


def _fetch(context: Context, pool: api.Pool, serving: Serving) -> Object:
    artifact = serving.artifact
    overrides = overrides_of(pool, artifact)
    _, storage_mounts = pods.storage_volumes(context)
    plan = artifact.runtime is api.Runtime.TENSORRT
    variables = {"HOME": "/tmp"} | pods.storage_variables(context)  # noqa: S108 (a pod's own)
    args = [
        artifact.uri,
        f"{MODELS}/{artifact.manifest_sha256[:16]}",
        f"--manifest-sha256={artifact.manifest_sha256}",
        "--json",
        f"--termination-log={pods.TERMINATION_LOG}",
    ]
    if overrides:
        args += [f"--overrides={json.dumps(overrides, sort_keys=True)}", f"--repository={repository(pool, artifact)}"]
    if pool.model_volume.claim_name is not None:
        args += ["--shared"]
        if pool.model_volume.size_limit is not None:
            args += [f"--size-limit={compare.bytes_of(pool.model_volume.size_limit)}"]
    if plan and pool.gpu is not None:
        # The same GPU that Triton gets: what an init container was given goes on to the containers.
        args += [
            f"--gpu-product={compatibility.driver_product(pool.gpu.product)}",
            f"--compute-capability={pool.gpu.compute_capability}",
        ]
        args += [f"--tensorrt={context.triton.tensorrt}"]
        variables |= {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    return pods.container(
        context,
        names.FETCH_CONTAINER,
        serving.fetch_image,
        command=["model-builder", "fetch"],
        args=args,
        env=pods.environment(variables),
        envFrom=pods.storage_credentials(context),
        resources=pods.resources(pool.resources, pods.gpu_resource(pool) if plan else {}),
        volumeMounts=[
            {"name": "models", "mountPath": MODELS},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 (a pod's own)
            *storage_mounts,
        ],
    )


def _check(context: Context, pool: api.Pool) -> Object:
    return pods.container(
        context,
        names.CHECK_CONTAINER,
        context.triton.image,
        command=["/bin/sh", "-c", CHECK_TENSORRT],
        env=pods.environment({"EXPECTED_TENSORRT": compatibility.release(context.triton.tensorrt)}),
        # A quota on CPU or memory refuses a pod with a container that names none.
        resources=pods.resources(pool.resources),
    )


def _triton(context: Context, pool: api.Pool, serving: Serving) -> Object:
    drain = Drain.within(pool.termination_grace_period_seconds)
    deadline = context.spec.rollout.deadline_seconds
    tls = context.spec.service.tls_secret_ref
    connections = [
        f"--grpc-max-connection-age={drain.age * 1000}",
        f"--grpc-max-connection-age-grace={drain.request * 1000}",
    ]
    models = repository(pool, serving.artifact)
    args = server.arguments(models, server.Ports(), exit_seconds=drain.exit, own=connections)
    if tls is not None:
        args += ["--grpc-use-ssl=true", f"--grpc-server-cert={TLS}/tls.crt", f"--grpc-server-key={TLS}/tls.key"]
    variables = {"HOME": "/tmp", "ORT_DISABLE_TELEMETRY": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: S108
    return pods.container(
        context,
        names.TRITON_CONTAINER,
        context.triton.image,
        command=start.server(
            context.apis, lock(serving.artifact) if pool.model_volume.claim_name is not None else None
        ),
        args=args,
        env=pods.environment(variables, pool.env),
        resources=pods.resources(pool.resources, pods.gpu_resource(pool)),
        ports=[
            {"name": server.GRPC, "containerPort": server.GRPC_PORT},
            {"name": server.HTTP, "containerPort": server.HTTP_PORT},
            {"name": server.METRICS, "containerPort": server.METRICS_PORT},
        ],
        # Loading and warming up take minutes; a pod that loads is not one that hangs.
        startupProbe=_probe("/v2/health/ready", period=2, failures=max(deadline // 2, 1)),
        readinessProbe=_probe("/v2/health/ready", period=PROBE_SECONDS, failures=2),
        # The scheduler's own word for it, from release 26.01 on; a server that hangs answers nothing. It does not serve
        # on before it is stopped, as a pod does that is deleted.
        livenessProbe=_probe(
            f"/v2/models/{context.spec.model.name}/ready", period=LIVENESS_SECONDS, timeout=LIVENESS_SECONDS, failures=6
        )
        | {"terminationGracePeriodSeconds": start.LOST_GRACE_SECONDS},
        lifecycle={"preStop": {"sleep": {"seconds": drain.stay}}},
        volumeMounts=[
            {"name": "models", "mountPath": MODELS, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shm", "mountPath": server.SHARED_MEMORY},
            *([{"name": "tls", "mountPath": TLS, "readOnly": True}] if tls else []),
        ],
    )


def _probe(path: str, *, period: int, failures: int, timeout: int = PROBE_SECONDS) -> Object:
    # Health is open whatever else of HTTP is restricted, and HTTP is plain also where gRPC has TLS.
    return {
        "httpGet": {"path": path, "port": server.HTTP},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


def _spread(context: Context, pool: api.Pool) -> list[Object]:
    selector = {"matchLabels": names.pool_selector(context.name, pool.name)}
    if pool.topology_spread_constraints:
        return [{"labelSelector": selector} | item for item in pool.topology_spread_constraints]
    return [
        {
            "maxSkew": 1,
            "topologyKey": names.HOSTNAME_NODE_LABEL,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": selector,
        }
    ]


def shared_memory(spec: api.Spec) -> int:
    """Bytes of /dev/shm: each Python model passes whole batches of the longest audio through it, in and out."""
    batch = max(spec.runtime.max_batch_size, *(shape.batch for shape in spec.runtime.shapes), 64)
    audio = batch * spec.audio.max_seconds * 16_000 * 4
    wanted = PYTHON_MODELS * server.REGION_BYTES + 2 * audio
    return math.ceil(min(wanted, MOST_SHARED_MEMORY) / QUARTER_GIB) * QUARTER_GIB
