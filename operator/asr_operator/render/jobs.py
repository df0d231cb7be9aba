"""Jobs that build: the ONNX model once, a TensorRT plan for each GPU product.

A *build* names what is built: equal builds give the same artifact, so a build that is known is not run again, whatever
became of images and pod settings. A *Job* is named by its build and by what the resource says about its pod, so that a
resource that changes gets another Job, and an operator that is upgraded leaves a running one alone.
"""

from dataclasses import dataclass

from asr_contract import compatibility, errors
from asr_contract.recipe import ARTIFACT_FORMAT
from asr_operator import names
from asr_operator.api import v1alpha1 as api
from asr_operator.render import pods, start
from asr_operator.render.context import Context, Object

WORK = "/work"
SOURCE = "/source"

USAGE = 2
PERMANENT = sorted(
    {
        USAGE,
        *(
            kind.exit_code
            for kind in (
                errors.CheckpointError,
                errors.UnsupportedCheckpointError,
                errors.CheckAudioError,
                errors.RejectedError,
                errors.PlanError,
                errors.ArtifactError,
                errors.IncompatiblePlanError,
            )
        ),
    }
)
"""Exit codes after which another pod would end the same way. The others may pass: the Job tries a few times."""


@dataclass(frozen=True, slots=True)
class Build:
    """One build and the Job that runs it.

    Attributes:
        name: What is built: `onnx-…` or `plan-…`.
        runtime: Of the artifact.
        job: The Job, without owners.
    """

    name: str
    runtime: api.Runtime
    job: Object

    @property
    def job_name(self) -> str:
        """Name of the Job."""
        return str(self.job["metadata"]["name"])

    @property
    def image(self) -> str:
        """Image that builds."""
        return str(self.job["spec"]["template"]["spec"]["containers"][0]["image"])


def onnx(context: Context) -> Build:
    """The build of the ONNX model from the checkpoint, on CPU."""
    spec = context.spec
    inputs = {
        "format": ARTIFACT_FORMAT,
        "model": spec.model.as_json(),
        "precision": onnx_precision(spec.runtime),
        "maxBatchSize": spec.runtime.max_batch_size,
        "audio": spec.audio.as_json(),
        "acceptance": spec.acceptance.as_json(),
        # All of it: pods roll to other credentials once a build has read the artifact with them.
        "storage": spec.storage.as_json(),
    }
    source, variables, volumes, mounts = _source(spec.model.source)
    command = [
        *("model-builder", "build"),
        f"--source={source}",
        f"--name={spec.model.name}",
        f"--storage={spec.storage.uri}",
        f"--precision={onnx_precision(spec.runtime).lower()}",
        f"--frontend={spec.audio.feature_extractor.lower()}",
        f"--wire={spec.audio.encoding.lower()}",
        f"--max-batch-size={spec.runtime.max_batch_size}",
        f"--max-audio-seconds={spec.audio.max_seconds}",
        f"--max-wer-increase-permille={spec.acceptance.max_wer_increase_permille}",
        f"--min-token-agreement-permille={spec.acceptance.min_token_agreement_permille}",
        *([f"--sha256={spec.model.sha256}"] if spec.model.sha256 else []),
        *_common(spec),
    ]
    placement = {
        "nodeSelector": dict(spec.build.node_selector),
        "tolerations": [item.as_json() for item in spec.build.tolerations],
    }
    return _build(
        context,
        api.Runtime.ONNX_RUNTIME,
        inputs=inputs,
        command=command,
        variables=variables,
        volumes=volumes,
        mounts=mounts,
        placement={key: value for key, value in placement.items() if value},
        gpu={},
    )


def plan(context: Context, pool: api.Pool, model: api.Artifact) -> Build:
    """The build of the plan for a pool's GPU from the checked ONNX model, on a node of the pool."""
    spec, gpu = context.spec, pool.gpu
    assert gpu is not None  # noqa: S101 (plans are for pools with a GPU)
    shapes = [f"{shape.seconds}x{shape.batch}" for shape in spec.runtime.shapes]
    precision = spec.runtime.precision or api.Precision.FP16
    inputs = {
        "format": ARTIFACT_FORMAT,
        "model": model.manifest_sha256,
        "product": compatibility.driver_product(gpu.product),
        "computeCapability": gpu.compute_capability,
        "tensorrt": context.triton.tensorrt,
        "precision": precision,
        "shapes": shapes,
        "storage": spec.storage.as_json(),
    }
    command = [
        *("model-builder", "plan", model.uri),
        f"--manifest-sha256={model.manifest_sha256}",
        f"--storage={spec.storage.uri}",
        f"--precision={precision.lower()}",
        f"--serving-tensorrt={context.triton.tensorrt}",
        f"--gpu-product={compatibility.driver_product(gpu.product)}",
        f"--compute-capability={gpu.compute_capability}",
        *(f"--shape={shape}" for shape in shapes),
        *_common(spec),
    ]
    return _build(
        context,
        api.Runtime.TENSORRT,
        inputs=inputs,
        command=command,
        variables={"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"},
        volumes=[],
        mounts=[],
        placement=pods.placement(pool),
        gpu=pods.gpu_resource(pool, count=1),
    )


def onnx_precision(runtime: api.RuntimeSpec) -> api.Precision:
    """Precision of the ONNX model: plans are built from FP32, and CPU pools run it."""
    if runtime.preferred is api.Runtime.TENSORRT:
        return api.Precision.FP32
    return runtime.precision or api.Precision.FP32


def _common(spec: api.Spec) -> list[str]:
    audio = spec.acceptance.audio
    return [
        *([f"--check-audio={audio.uri}"] if audio else []),
        f"--work={WORK}",
        "--verify",
        "--json",
        f"--termination-log={pods.TERMINATION_LOG}",
    ]


def _source(source: api.Source) -> tuple[str, list[Object], list[Object], list[Object]]:
    """How the builder names the checkpoint, with the variables, volumes and mounts that it needs for that."""
    if hub := source.hugging_face:
        token = hub.token_secret_ref
        variables = [] if token is None else [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": token.as_json()}}]
        return f"hf:{hub.repository}@{hub.revision}", variables, [], []
    if claim := source.persistent_volume_claim:
        volume = {"name": "source", "persistentVolumeClaim": {"claimName": claim.claim_name, "readOnly": True}}
        return f"{SOURCE}/{claim.path}", [], [volume], [{"name": "source", "mountPath": SOURCE, "readOnly": True}]
    assert source.object_store is not None  # noqa: S101 (one of three is there, by the API's rules)
    return source.object_store.uri, [], [], []


def _build(
    context: Context,
    runtime: api.Runtime,
    *,
    inputs: Object,
    command: list[str],
    variables: list[Object] | dict[str, str],
    volumes: list[Object],
    mounts: list[Object],
    placement: Object,
    gpu: dict[str, int],
) -> Build:
    spec, settings = context.spec, context.settings
    kind = "plan" if runtime is api.Runtime.TENSORRT else "onnx"
    name = f"{kind}-{names.digest(inputs)}"
    storage_volumes, storage_mounts = pods.storage_volumes(context)
    ours = {"HOME": WORK} | pods.storage_variables(context)
    extra: list[Object] = []
    if isinstance(variables, dict):
        ours |= variables
    else:
        extra = variables
    builder = context.triton.builder if runtime is api.Runtime.TENSORRT else None
    container = pods.container(
        context,
        names.BUILD_CONTAINER,
        spec.image.builder or builder or settings.builder_image,
        # A plan is built and checked on a GPU, for which the image's entry point prepares CUDA.
        command=start.through_entry_point(command[:2]) if gpu else command[:2],
        args=command[2:],
        env=[*pods.environment(ours, spec.build.env), *extra],
        envFrom=pods.storage_credentials(context),
        resources=pods.resources(spec.build.resources, gpu),
        volumeMounts=[
            {"name": "work", "mountPath": WORK},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 (a pod's own)
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
            *mounts,
            *storage_mounts,
        ],
    )
    annotations = dict(spec.build.pod_annotations)
    template = {
        "metadata": {
            "labels": dict(spec.build.pod_labels) | _labels(name),
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": {
            "restartPolicy": "Never",
            **pods.identity(context),
            **placement,
            "containers": [container],
            "volumes": [
                {"name": "work", "emptyDir": {"sizeLimit": spec.build.scratch}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                *volumes,
                *storage_volumes,
            ],
        },
    }
    job_spec = {
        "backoffLimit": settings.jobs.backoff_limit,
        "activeDeadlineSeconds": spec.build.deadline_seconds,
        "podFailurePolicy": {
            "rules": [
                # A pod that was evicted or preempted says nothing about the build.
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": names.BUILD_CONTAINER, "operator": "In", "values": PERMANENT},
                },
            ]
        },
        "template": template,
    }
    identity = {
        "build": name,
        "variables": variables,
        "volumes": volumes,
        "placement": placement,
        "gpu": gpu,
        "storage": spec.storage.as_json(),
        "settings": _settings(spec.build),
        "checkAudio": spec.acceptance.audio.as_json() if spec.acceptance.audio else None,
        "builder": spec.image.builder,
        "pullSecrets": [item.name for item in spec.image.pull_secrets],
        "pullPolicy": spec.image.pull_policy,
    }
    job: Object = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.job(kind, spec.model.name, names.digest(identity)),
            "namespace": context.namespace,
            "labels": _labels(name),
        },
        "spec": job_spec,
    }
    return Build(name, runtime, job)


def _settings(build: api.Build) -> Object:
    """What the resource says about the pods. Newer fields are left out where empty: Jobs that run keep their name."""
    newer = ("podLabels", "podAnnotations")
    return {key: value for key, value in build.as_json().items() if value or key not in newer}


def _labels(build: str) -> dict[str, str]:
    """Of a Job and its pods. They name no resource: several may own one Job."""
    return {
        names.NAME_LABEL: "asr",
        names.COMPONENT_LABEL: "build",
        names.MANAGED_BY_LABEL: names.OPERATOR,
        names.BUILD_LABEL: build,
    }
