"""`AsrDeployment` in v1alpha1: the only source of its field names, bounds, defaults, rules and prose.

The text below a field is what `kubectl explain` shows. It says what a field is for, its unit, and what a change of it
does.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from asr_operator.api.base import (
    ATOMIC,
    GROUP,
    Annotations,
    ApiModel,
    DnsName,
    Labels,
    LabelValue,
    Opaque,
    Quantity,
    Rule,
    Text,
    list_map,
    rules,
)

VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "AsrDeployment"
PLURAL = "asrdeployments"
SHORT_NAME = "asr"

MAX_POOLS = 8
MAX_NAME = 40
"""Of a resource, so that the names of its children fit into 63 characters."""


class Runtime(StrEnum):
    """The runtime of the acoustic model."""

    TENSORRT = "TensorRT"
    ONNX_RUNTIME = "OnnxRuntime"


class Fallback(StrEnum):
    """What GPU pools serve while their plan is not there."""

    ONNX_RUNTIME = "OnnxRuntime"
    NONE = "None"


class Precision(StrEnum):
    """Type of weights and activations."""

    FP32 = "FP32"
    FP16 = "FP16"
    BF16 = "BF16"


class Encoding(StrEnum):
    """Encoding of the audio that clients send."""

    PCM16 = "PCM16"
    FLOAT32 = "FLOAT32"
    FLOAT64 = "FLOAT64"


class FeatureExtractor(StrEnum):
    """Implementation that computes the features."""

    NUMPY = "Numpy"
    NEMO = "NeMo"


class NodeSelection(StrEnum):
    """How pods select nodes with the right GPU."""

    BY_PRODUCT_LABEL = "ByProductLabel"
    NODE_SELECTOR_ONLY = "NodeSelectorOnly"


class Provider(StrEnum):
    """What scales a pool."""

    HPA = "HPA"
    KEDA = "KEDA"
    EXTERNAL = "External"


class PolicyType(StrEnum):
    """What the value of a scaling policy counts."""

    PODS = "Pods"
    PERCENT = "Percent"


class SelectPolicy(StrEnum):
    """Which of several scaling policies counts."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


class Strategy(StrEnum):
    """How pods are replaced."""

    SURGE = "Surge"
    RECREATE = "Recreate"


class ServiceType(StrEnum):
    """As of a Service."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class Apis(StrEnum):
    """APIs of Triton."""

    INFERENCE = "Inference"
    ALL = "All"


class PullPolicy(StrEnum):
    """As of a container."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class SecretKeyRef(ApiModel):
    """One key of a Secret in the same namespace."""

    name: DnsName
    """Name of the Secret."""
    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", min_length=1, max_length=253)]
    """Key in the Secret's data."""


class LocalRef(ApiModel):
    """An object in the same namespace."""

    name: DnsName
    """Its name."""


class HuggingFaceSource(ApiModel):
    """A repository on the Hugging Face hub that holds one .nemo file."""

    repository: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$", max_length=200)]
    """Owner and name, such as nvidia/stt_en_fastconformer_ctc_large."""
    revision: Annotated[str, StringConstraints(pattern=r"^[\w./-]+$", min_length=1, max_length=200)] = "main"
    """Commit, tag or branch. A commit pins the model; a branch is resolved when it is built, and later commits are not
    followed."""
    token_secret_ref: SecretKeyRef | None = None
    """Token for a private or gated repository. The operator never reads it; only the build's pod does."""


class ObjectStoreSource(ApiModel):
    """A .nemo file in object storage, read with the credentials of spec.storage."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                r"self.uri.matches('^(s3|gs|az|https)://[^/@ ]+/[^@ ]+[.]nemo$')",
                "write the URI of a .nemo file, such as s3://bucket/model.nemo; schemes are s3, gs, az and https, and "
                "credentials go into spec.storage.secretRef",
                ".uri",
            )
        )
    )

    uri: Text
    """Such as s3://bucket/model.nemo."""


class PersistentVolumeClaimSource(ApiModel):
    """A .nemo file on a volume, mounted read-only."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!self.path.startsWith('/') && !self.path.contains('..') && self.path.endsWith('.nemo')",
                "write a path inside the volume that ends in .nemo, without a leading / and without ..",
                ".path",
            )
        )
    )

    claim_name: DnsName
    """Name of the PersistentVolumeClaim."""
    path: Text
    """Path of the file inside the volume, such as models/english.nemo."""


class Source(ApiModel):
    """Where the NeMo checkpoint comes from."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "(has(self.huggingFace) ? 1 : 0) + (has(self.objectStore) ? 1 : 0) + "
                "(has(self.persistentVolumeClaim) ? 1 : 0) == 1",
                "write exactly one of huggingFace, objectStore and persistentVolumeClaim",
            )
        )
    )

    hugging_face: HuggingFaceSource | None = None
    """A repository on the Hugging Face hub that holds one .nemo file."""
    object_store: ObjectStoreSource | None = None
    """A .nemo file in object storage, read with the credentials of spec.storage."""
    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    """A .nemo file on a volume, mounted read-only."""


class Model(ApiModel):
    """Which checkpoint is served, and under which name."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!self.name.matches('^(preprocessing|postprocessing|onnx|tensorrt|ensemble)_')",
                "names that start with preprocessing_, postprocessing_, onnx_, tensorrt_ or ensemble_ are parts of the "
                "model repository; write the name without that prefix",
                ".name",
            )
        )
    )

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9](\.?[A-Za-z0-9_-])*$", max_length=96)]
    """Name of the model in Triton, which clients ask for, such as english_stt, or as the hub has it, such as
    parakeet-ctc-0.6b. It is the same whichever runtime is used."""
    source: Source
    """Where the NeMo checkpoint comes from. A change builds the new model while the old one serves."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", max_length=64)] | None = None
    """SHA-256 of the .nemo file; any other file is refused."""


class Storage(ApiModel):
    """Object storage for built models."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "self.uri.matches('^(s3|gs|az)://[^/@ ]+(/[^@ ]*)?$')",
                "write s3://bucket/prefix, gs://bucket/prefix or az://container/prefix; credentials go into secretRef",
                ".uri",
            ),
            Rule(
                "!has(self.endpoint) || self.endpoint.matches('^https?://[^/@ ]+/?$')",
                "write the address of the S3 service, such as https://minio.storage.svc:9000",
                ".endpoint",
            ),
        )
    )

    uri: Text
    """Where built models are published, such as s3://asr-models/prod. Resources with the same storage share builds."""
    endpoint: Text | None = None
    """Address of an S3-compatible service, such as https://minio.storage.svc:9000. AWS itself needs none."""
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$", min_length=1, max_length=64)] | None = None
    """Region of the bucket."""
    secret_ref: LocalRef | None = None
    """Secret whose keys become environment variables of the pods that read and write storage, such as
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. The operator never reads it. Leave it out with a workload identity."""
    service_account_name: DnsName | None = None
    """ServiceAccount of all pods of this resource, for a workload identity that may read and write storage. No token of
    the API server is mounted."""
    ca_bundle: "ConfigMapKeyRef | None" = None
    """Certificates of a private authority that signed the storage's certificate."""


class ConfigMapKeyRef(ApiModel):
    """One key of a ConfigMap in the same namespace."""

    name: DnsName
    """Name of the ConfigMap."""
    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", min_length=1, max_length=253)] = "ca.crt"
    """Key in the ConfigMap's data."""


class Image(ApiModel):
    """Images, where the operator's own are not wanted."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.builder) || has(self.triton)",
                "builder and triton must hold the same TensorRT; write triton and tensorrt as well",
                ".builder",
            ),
        )
    )

    triton: Text | None = None
    """Triton image of the serving pods, such as nvcr.io/nvidia/tritonserver:26.08-py3. The default is one of the
    operator's list."""
    tensorrt: (
        Annotated[str, StringConstraints(pattern=r"^[0-9]+\.[0-9]+(\.[0-9]+)*$", min_length=3, max_length=32)] | None
    ) = None
    """TensorRT version in the Triton image, such as 11.2.1. Without triton it picks the first image of the operator's
    list with this version or one that starts with it."""
    builder: Text | None = None
    """Image that builds models and plans, instead of the operator's."""
    pull_policy: PullPolicy | None = None
    """When images are pulled. The default is Kubernetes's own: Always for the tag latest, else IfNotPresent."""
    pull_secrets: Annotated[list[LocalRef], Field(max_length=8, json_schema_extra=ATOMIC)] = []
    """Secrets with credentials of the registries."""


class Toleration(ApiModel):
    """Toleration: allows pods to run on nodes with a matching taint."""

    key: Annotated[str, StringConstraints(max_length=317)] | None = None
    """Taint key; empty means all, with operator Exists."""
    operator: Annotated[str, StringConstraints(pattern="^(Exists|Equal)$", max_length=8)] | None = None
    """Exists or Equal; the default is Equal."""
    value: LabelValue | None = None
    """Taint value, for Equal."""
    effect: (
        Annotated[str, StringConstraints(pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$", max_length=16)] | None
    ) = None
    """NoSchedule, PreferNoSchedule or NoExecute; empty means all."""
    toleration_seconds: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None
    """Seconds that a pod stays on a node once a NoExecute taint matches. Left out, it stays."""


class EnvVar(ApiModel):
    """An environment variable."""

    name: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$", min_length=1, max_length=253)]
    """Name of the variable."""
    value: Annotated[str, StringConstraints(max_length=4096)] | None = None
    """Its value. Passwords belong into a Secret: use valueFrom."""
    value_from: Opaque | None = None
    """Where the value comes from, such as a secretKeyRef; as in a container."""


class Resources(ApiModel):
    """Requests and limits of a container."""

    requests: Annotated[dict[str, Quantity], Field(max_length=16)] = {}
    """What the scheduler sets aside, such as cpu: 2, memory: 4Gi."""
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] = {}
    """What the container may use at most."""


Tolerations = Annotated[list[Toleration], Field(max_length=16, json_schema_extra=ATOMIC)]
Env = Annotated[list[EnvVar], Field(max_length=32, json_schema_extra=list_map("name"))]


OWN_LABELS = rules(
    Rule(
        "!self.exists(k, k.startsWith('asr-operator.dev/') || k.startsWith('app.kubernetes.io/'))",
        "labels of asr-operator.dev and app.kubernetes.io are set by the operator; use another prefix",
    )
)
OWN_ANNOTATIONS = rules(
    Rule(
        "!self.exists(k, k.startsWith('asr-operator.dev/'))",
        "annotations of asr-operator.dev are set by the operator; use another prefix",
    )
)


class Build(ApiModel):
    """The pods that build the model."""

    resources: Resources = Resources(requests={"cpu": "2", "memory": "6Gi"}, limits={"memory": "12Gi"})
    """Requests and limits. The default requests 2 CPUs and 6Gi of memory, with a limit of 12Gi. NeMo and the check
    through a real Triton take about 4.5 GB for 115 million parameters."""
    node_selector: Labels = {}
    """Labels of the nodes that build the ONNX model, which needs no GPU. Plans are built on nodes of their pool."""
    tolerations: Tolerations = []
    """Tolerations of the pods of the ONNX build."""
    env: Env = []
    """Further environment variables of the builds, such as HTTPS_PROXY."""
    pod_labels: Labels = Field(default={}, json_schema_extra=OWN_LABELS)
    """Further labels of the pods, such as sidecar.istio.io/inject: "false"."""
    pod_annotations: Annotations = Field(default={}, json_schema_extra=OWN_ANNOTATIONS)
    """Further annotations of the pods."""
    scratch: Quantity = "20Gi"
    """Room on the node's disk for intermediate files."""
    deadline_seconds: Annotated[int, Field(ge=60, le=604_800)] = 7200
    """A build that takes longer has failed. The time waiting for a node counts."""


class Shape(ApiModel):
    """A length of audio and a batch that a plan is fast at."""

    seconds: Annotated[int, Field(ge=1, le=640)]
    """Padded length of the audio in seconds."""
    batch: Annotated[int, Field(ge=1, le=512)]
    """Utterances in a full batch."""


class RuntimeSpec(ApiModel):
    """The runtime of the acoustic model."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!(self.preferred == 'OnnxRuntime' && has(self.precision) && self.precision == 'BF16')",
                "BF16 is for TensorRT; with preferred OnnxRuntime write FP32 or FP16",
                ".precision",
            ),
            Rule(
                "self.preferred == 'TensorRT' || !has(self.shapes) || size(self.shapes) == 0",
                "shapes are for TensorRT plans; leave them out with preferred OnnxRuntime",
                ".shapes",
            ),
        )
    )

    preferred: Runtime = Runtime.TENSORRT
    """Runtime of the GPU pools: TensorRT, with a plan for each GPU product, or OnnxRuntime. Pools without GPU always
    run ONNX Runtime."""
    precision: Precision | None = None
    """Type of weights and activations; features, softmax and lengths stay FP32. The default is FP16 for TensorRT and
    FP32 for OnnxRuntime. CPU pools and the fallback run FP32."""
    fallback: Fallback = Fallback.ONNX_RUNTIME
    """What a GPU pool serves while it has no plan: OnnxRuntime (the resource is Ready and Degraded then), or None,
    which waits for the plan."""
    max_batch_size: Annotated[int, Field(ge=1, le=512)] = 32
    """Largest batch of the ONNX model. Pools may use less without a rebuild."""
    shapes: Annotated[list[Shape], Field(max_length=16, json_schema_extra=ATOMIC)] = []
    """Shapes that plans are tuned for. By default the builder chooses them for the memory of the GPU."""


class Audio(ApiModel):
    """The audio that is served."""

    max_seconds: Annotated[int, Field(ge=1, le=600)] = 40
    """Longest utterance in seconds; longer ones are refused. A change rebuilds."""
    encoding: Encoding = Encoding.PCM16
    """Encoding of the audio that clients send. PCM16 is the smallest. A change rebuilds."""
    feature_extractor: FeatureExtractor = FeatureExtractor.NUMPY
    """Numpy computes the features inside the model's graph. NeMo runs NeMo's own preprocessor before it, as a
    reference; it needs a Triton image with NeMo."""


class CheckAudio(ApiModel):
    """Audio that a build is compared with the checkpoint on."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "self.uri.matches('^(s3|gs|az)://[^/@ ]+/[^@ ]+$')",
                "write the URI of a folder with WAV or FLAC files, such as s3://bucket/check-audio",
                ".uri",
            )
        )
    )

    uri: Text
    """Folder in object storage with WAV or FLAC files, and transcripts.json if the words are known; read with the
    credentials of spec.storage."""


class Acceptance(ApiModel):
    """What a build must achieve to be published: it has to transcribe like the checkpoint."""

    max_wer_increase_permille: Annotated[int, Field(ge=0, le=1000)] = 5
    """How much the word error rate may be above the checkpoint's, in tenths of a percent: 5 is 0.5 %."""
    min_token_agreement_permille: Annotated[int, Field(ge=0, le=1000)] = 990
    """How many tokens must be the checkpoint's, in tenths of a percent: 990 is 99 %."""
    audio: CheckAudio | None = None
    """Your own audio to check with. The default is a small set that ships with the builder; a model of another language
    than English needs its own."""


class Gpu(ApiModel):
    """The GPU of a pool's pods."""

    product: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", min_length=1, max_length=63)]
    """GPU product as GPU feature discovery labels nodes (nvidia.com/gpu.product), MIG profile included, such as
    NVIDIA-L4 or NVIDIA-A100-SXM4-40GB-MIG-1g.5gb. A plan runs on this product only; pods select nodes by this label."""
    compute_capability: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}\.[0-9]$", max_length=4)]
    """Compute capability of the product, such as 8.9."""
    resource: Annotated[
        str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9][-A-Za-z0-9_.]*$", max_length=128)
    ] = "nvidia.com/gpu"
    """Extended resource that pods ask for. With the mixed MIG strategy it names the profile, such as
    nvidia.com/mig-1g.5gb."""
    count: Annotated[int, Field(ge=1, le=16)] = 1
    """How many of them each pod gets."""
    node_selection: NodeSelection = NodeSelection.BY_PRODUCT_LABEL
    """ByProductLabel: pods select nodes by the label nvidia.com/gpu.product. NodeSelectorOnly: for nodes without that
    label; then the pool's nodeSelector must lead to the right GPUs."""


class Batching(ApiModel):
    """Overrides of what the build measured; pods restart with them, nothing is built again."""

    max_batch_size: Annotated[int, Field(ge=1, le=512)] | None = None
    """Largest batch at the acoustic model; not more than it was built for."""
    queue_delay_microseconds: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Maximum queue delay of Triton's dynamic batcher on the ensemble over ONNX Runtime, in microseconds. The model
    that clients use needs no delay."""
    instances: Annotated[int, Field(ge=1, le=16)] | None = None
    """How many batches the acoustic model works on at once."""


class Target(ApiModel):
    """The load that each pod should have."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "(has(self.audioSecondsPerSecond) ? 1 : 0) + (has(self.pendingRequests) ? 1 : 0) + "
                "(has(self.cpuUtilizationPercent) ? 1 : 0) == 1",
                "write exactly one of audioSecondsPerSecond, pendingRequests and cpuUtilizationPercent",
            )
        )
    )

    audio_seconds_per_second: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Seconds of audio transcribed in a second, each pod."""
    pending_requests: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Utterances waiting or being transcribed, each pod."""
    cpu_utilization_percent: Annotated[int, Field(ge=1, le=100)] | None = None
    """CPU used in per cent of what is requested; for pools without GPU."""


class ScalingPolicy(ApiModel):
    """How much may change in a time, as in a HorizontalPodAutoscaler."""

    type: PolicyType
    """Pods, or Percent of the pods that there are."""
    value: Annotated[int, Field(ge=1, le=1000)]
    """How many, or how many per cent."""
    period_seconds: Annotated[int, Field(ge=1, le=1800)]
    """In how many seconds."""


Policies = Annotated[list[ScalingPolicy], Field(min_length=1, max_length=4, json_schema_extra=ATOMIC)]


class ScaleUp(ApiModel):
    """How pods are added: at once by default, since requests wait until then."""

    stabilization_window_seconds: Annotated[int, Field(ge=0, le=3600)] = 0
    """How long the load must be high before pods are added."""
    select_policy: SelectPolicy = SelectPolicy.MAX
    """Which of the policies counts: the one that adds the most pods (Max) or the fewest (Min); Disabled adds none."""
    policies: Policies = [
        ScalingPolicy(type=PolicyType.PERCENT, value=100, period_seconds=15),
        ScalingPolicy(type=PolicyType.PODS, value=4, period_seconds=15),
    ]
    """How many pods may be added in a time."""


class ScaleDown(ApiModel):
    """How pods are taken away: slowly by default, since a new one takes its time to start."""

    stabilization_window_seconds: Annotated[int, Field(ge=0, le=3600)] = 300
    """How long the load must be low before pods are taken away."""
    select_policy: SelectPolicy = SelectPolicy.MAX
    """Which of the policies counts: the one that takes the most pods (Max) or the fewest (Min); Disabled takes none."""
    policies: Policies = [
        ScalingPolicy(type=PolicyType.PODS, value=1, period_seconds=60),
        ScalingPolicy(type=PolicyType.PERCENT, value=25, period_seconds=60),
    ]
    """How many pods may be taken away in a time."""


class Behavior(ApiModel):
    """How fast replicas follow the load, as in a HorizontalPodAutoscaler."""

    scale_up: ScaleUp = ScaleUp()
    """How pods are added: at once by default, since requests wait until then."""
    scale_down: ScaleDown = ScaleDown()
    """How pods are taken away: slowly by default, since a new one takes its time to start."""


class Autoscaling(ApiModel):
    """Replicas by load."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
                "minReplicas must not be more than maxReplicas",
                ".minReplicas",
            ),
            Rule(
                "self.provider == 'External' || has(self.maxReplicas)",
                "write maxReplicas, the most pods that the autoscaler may ask for",
                ".maxReplicas",
            ),
            Rule(
                "self.provider != 'External' || !has(self.target)",
                "with provider External your own autoscaler measures the load; leave target out here",
                ".target",
            ),
            Rule(
                "self.minReplicas > 0 || self.provider == 'External' || "
                "(has(self.triggers) && size(self.triggers) > 0)",
                "the pods themselves report what the target measures, so nothing would start the pool from 0; write "
                "minReplicas of at least 1, or a trigger in triggers that measures something else",
                ".minReplicas",
            ),
            Rule(
                "!has(self.triggers) || size(self.triggers) == 0 || self.provider == 'KEDA'",
                "triggers are KEDA's; write provider: KEDA, or leave them out",
                ".triggers",
            ),
        )
    )

    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Fewest pods, and what a pool starts with. 0 needs a trigger that can wake it."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Most pods. Needed unless the provider is External."""
    target: Target | None = None
    """The load that each pod should have. The default is for a pool without GPU cpuUtilizationPercent 70, for one with
    a TensorRT plan audioSecondsPerSecond of 40 % of the throughput that was measured when it was built, else
    pendingRequests of one full batch."""
    provider: Provider = Provider.HPA
    """HPA (needs a metrics adapter unless the target is CPU), KEDA (needs KEDA and Prometheus), or External: your
    autoscaler sets the replicas of the pool's Deployment. The operator creates it with minReplicas, and
    leaves them alone after that."""
    behavior: Behavior = Behavior()
    """How fast replicas follow the load, as in a HorizontalPodAutoscaler: by default up at once, down slowly."""
    triggers: Annotated[list[Opaque], Field(max_length=8, json_schema_extra=ATOMIC)] = []
    """Further triggers of KEDA, as in a ScaledObject, such as a schedule or the length of a queue that your clients
    read from. The one that asks for the most pods counts. With one of them minReplicas may be 0."""


class PodTemplate(ApiModel):
    """What all pods of a pool have, beyond what the operator sets."""

    node_selector: Labels = {}
    """Labels of the nodes for this pool's pods, and for the build of its plan."""
    tolerations: Tolerations = []
    """Tolerations of this pool's pods, and of the build of its plan."""
    affinity: Opaque | None = None
    """Affinity, as in a pod."""
    topology_spread_constraints: Annotated[list[Opaque], Field(max_length=8, json_schema_extra=ATOMIC)] = []
    """Spread over nodes and zones, as in a pod; a constraint without labelSelector gets the pool's. The default prefers
    to spread over nodes."""
    runtime_class_name: DnsName | None = None
    """RuntimeClass, such as nvidia."""
    priority_class_name: DnsName | None = None
    """PriorityClass of the pool's pods."""
    resources: Resources = Resources()
    """Requests and limits of the Triton container; gpu adds its own."""
    env: Env = []
    """Further environment variables of the Triton container."""
    pod_labels: Labels = Field(default={}, json_schema_extra=OWN_LABELS)
    """Further labels of the pool's pods."""
    pod_annotations: Annotations = Field(default={}, json_schema_extra=OWN_ANNOTATIONS)
    """Further annotations of the pool's pods."""


class ModelVolume(ApiModel):
    """Where pods keep the model repository."""

    claim_name: DnsName | None = None
    """PersistentVolumeClaim that all pods of the pool share: the first one downloads, the others verify and use what
    is there, also while storage is away. It needs file locks, and an access mode that lets the pods' nodes write. Pools
    and resources may share it."""
    size_limit: Quantity | None = None
    """Most room on the node's disk; pods that take more are evicted. With claimName: most room for artifacts there.
    Those that no pod has used for a quarter of an hour are removed when it is exceeded, or the volume is full."""


class Pool(PodTemplate):
    """Serving pods of one kind: one Deployment."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!(has(self.replicas) && has(self.autoscaling))",
                "write replicas or autoscaling, not both: an autoscaler sets the replicas",
                ".replicas",
            ),
            Rule(
                "!has(self.autoscaling) || !has(self.gpu) || !has(self.autoscaling.target) || "
                "!has(self.autoscaling.target.cpuUtilizationPercent)",
                "a GPU pool's CPU says little about its load; write audioSecondsPerSecond or pendingRequests",
                ".autoscaling",
            ),
            Rule(
                "!has(self.autoscaling) || has(self.gpu) || self.autoscaling.provider == 'External' || "
                "(has(self.autoscaling.target) && !has(self.autoscaling.target.cpuUtilizationPercent)) || "
                "(has(self.resources.requests) && 'cpu' in self.resources.requests) || "
                "(has(self.resources.limits) && 'cpu' in self.resources.limits)",
                "CPU utilisation, the default target of a pool without GPU, is in per cent of the CPU that pods "
                "request; write resources.requests.cpu, or another target",
                ".resources",
            ),
        )
    )

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=20)]
    """Name of the pool, such as l4. The Deployment is named after the resource and the pool."""
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Number of pods. Left out it is 1, or as many as an autoscaler had running before. Leave it out with
    autoscaling."""
    autoscaling: Autoscaling | None = None
    """Replicas by load."""
    gpu: Gpu | None = None
    """The GPU of each pod. Without it pods run ONNX Runtime on CPU."""
    batching: Batching = Batching()
    """Overrides of what the build measured; pods restart with them, nothing is built again."""
    model_volume: ModelVolume = ModelVolume()
    """Where pods keep the model repository. The default is the node's disk."""
    termination_grace_period_seconds: Annotated[int, Field(ge=30, le=3600)] = 90
    """How long a pod may take to end. In this time it leaves the Service, and requests in flight are answered."""


class Service(ApiModel):
    """How clients reach the pods."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.loadBalancerClass) || self.type == 'LoadBalancer'",
                "loadBalancerClass is for type LoadBalancer",
                ".loadBalancerClass",
            )
        )
    )

    type: ServiceType = ServiceType.CLUSTER_IP
    """ClusterIP, NodePort or LoadBalancer."""
    annotations: Annotations = {}
    """Annotations of the client Service, such as those of a cloud's load balancer."""
    load_balancer_class: Annotated[str, StringConstraints(min_length=1, max_length=253)] | None = None
    """Implementation of the load balancer."""
    apis: Apis | None = None
    """Which of Triton's APIs clients may use. Inference: over HTTP inference and health, over gRPC all but shared
    memory, trace and logging; what else is asked is refused. All: everything, to everybody who reaches the pods. The
    default is the operator's, triton.apis of its chart: Inference unless changed there."""
    tls_secret_ref: LocalRef | None = None
    """Secret of type kubernetes.io/tls. Then gRPC is served with TLS alone, and plain HTTP is not offered to clients.
    Pods take up a renewed certificate when they start: kubectl rollout restart deployment NAME-POOL."""


class NetworkPolicy(ApiModel):
    """Who may send requests."""

    from_: Annotated[
        list[Opaque],
        Field(
            alias="from",
            max_length=16,
            json_schema_extra=ATOMIC,
            description="Peers, as in a NetworkPolicy. An empty list denies all requests.",
        ),
    ] = []


class Rollout(ApiModel):
    """How pods are replaced when something changes."""

    strategy: Strategy = Strategy.SURGE
    """Surge starts a new pod before an old one ends, and needs room for it. Recreate ends one pod before its successor
    starts, for clusters with scarce GPUs; the pool then has one pod less. A pool of one replica serves nothing until
    the old pod has drained and the new one has downloaded, loaded and warmed up."""
    deadline_seconds: Annotated[int, Field(ge=60, le=86_400)] = 1800
    """A rollout without progress for this long is reported as Stalled. Old pods continue to serve."""


class Spec(ApiModel):
    """Desired state."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.image) || !has(self.image.triton) || has(self.image.tensorrt) || "
                "self.runtime.preferred != 'TensorRT' || !self.pools.exists(p, has(p.gpu))",
                "write image.tensorrt, the TensorRT version of image.triton (its variable TRT_VERSION): plans run on "
                "no other",
                ".image",
            ),
            Rule(
                "self.runtime.preferred == 'TensorRT' || !has(self.runtime.precision) || "
                "self.runtime.precision == 'FP32' || self.pools.all(p, has(p.gpu))",
                "pools without gpu run FP32; with preferred OnnxRuntime write precision FP32, or give every pool a gpu",
                ".runtime",
            ),
            Rule(
                "!has(self.runtime.shapes) || size(self.runtime.shapes) == 0 || "
                "self.runtime.shapes.exists(s, s.seconds >= self.audio.maxSeconds)",
                "at least one of runtime.shapes must be as long as audio.maxSeconds, the longest audio that is served",
                ".runtime",
            ),
        )
    )

    model: Model
    """Which checkpoint is served, and under which name."""
    storage: Storage
    """Object storage for built models."""
    pools: Annotated[list[Pool], Field(min_length=1, max_length=MAX_POOLS, json_schema_extra=list_map("name"))]
    """Serving pods: one Deployment for each kind of GPU, and for CPU. All of them serve the same model behind one
    Service."""
    runtime: RuntimeSpec = RuntimeSpec()
    """The runtime of the acoustic model."""
    audio: Audio = Audio()
    """The audio that is served."""
    acceptance: Acceptance = Acceptance()
    """What a build must achieve to be published: it has to transcribe like the checkpoint."""
    build: Build = Build()
    """The pods that build the model."""
    image: Image = Image()
    """Images, where the operator's own are not wanted."""
    service: Service = Service()
    """How clients reach the pods."""
    network_policy: NetworkPolicy | None = None
    """Who may send requests. Without it every pod of the cluster may."""
    rollout: Rollout = Rollout()
    """How pods are replaced when something changes."""


class ConditionStatus(StrEnum):
    """As of every condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


REASON = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
"""Of a condition; Kubernetes's own rule."""


class Condition(ApiModel):
    """One aspect of the state, as all Kubernetes objects tell it."""

    type: Annotated[str, StringConstraints(min_length=1, max_length=316)]
    """Ready (the new generation serves), Built, Serving, and while they are true: Reconciling, Stalled, Degraded."""
    status: ConditionStatus
    """True, False or Unknown."""
    observed_generation: Annotated[int, Field(ge=0)]
    """metadata.generation that this was observed for."""
    last_transition_time: datetime
    """When the status last changed."""
    reason: Annotated[str, StringConstraints(pattern=REASON, min_length=1, max_length=128)]
    """For machines: one word."""
    message: Annotated[str, StringConstraints(max_length=4096)] = ""
    """For people: what is the case, and what to do."""


StatusText = Annotated[str, StringConstraints(max_length=1024)]


class Artifact(ApiModel):
    """A built and published model repository."""

    build: Annotated[str, StringConstraints(max_length=63)]
    """What it was built from, as the name of the build's Job has it."""
    runtime: Runtime
    """OnnxRuntime, or TensorRT for a plan."""
    head: Annotated[str, StringConstraints(max_length=32)] | None = None
    """The checkpoint's head that was built and compared with NeMo: CTC, also of a hybrid that has a transducer, too."""
    uri: StatusText
    """Where it is."""
    manifest_sha256: Annotated[str, StringConstraints(max_length=64)]
    """SHA-256 of its manifest, which pods pin it by."""
    gpu_product: StatusText | None = None
    """The GPU product of a plan."""
    compute_capability: StatusText | None = None
    """Compute capability of that GPU."""
    tensorrt: StatusText | None = None
    """The TensorRT version of a plan."""
    wer_permille: Annotated[int, Field(ge=0)] | None = None
    """Word error rate on the check audio through Triton, in tenths of a percent: 52 is 5.2 %."""
    checkpoint_wer_permille: Annotated[int, Field(ge=0)] | None = None
    """Word error rate of the checkpoint itself, where the words are known, in tenths of a percent: 52 is 5.2 %."""
    token_agreement_permille: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Tokens that are the checkpoint's, in tenths of a percent: 998 is 99.8 %."""
    audio_seconds_per_second: Annotated[int, Field(ge=0)] | None = None
    """Throughput of a plan on the GPU alone, in seconds of audio per second."""
    bytes: Annotated[int, Field(ge=0)] | None = None
    """Size of all files."""


class PoolStatus(ApiModel):
    """State of one pool."""

    name: StatusText
    """Name of the pool."""
    deployment: StatusText
    """Name of its Deployment."""
    runtime: Runtime | None = None
    """What its pods run now, or start to."""
    active: StatusText | None = None
    """URI of the artifact that its pods have."""
    target: StatusText | None = None
    """URI of the artifact that they will have; the same as active when the pool is settled."""
    replicas: Annotated[int, Field(ge=0)] = 0
    """Pods that are there."""
    ready_replicas: Annotated[int, Field(ge=0)] = 0
    """Pods that answer requests."""
    updated_replicas: Annotated[int, Field(ge=0)] = 0
    """Pods of the newest template."""


class Endpoints(ApiModel):
    """Where clients send requests, within the cluster."""

    grpc: StatusText
    """host:port for gRPC."""
    http: StatusText | None = None
    """URL of Triton's HTTP API, of which service.apis says how much is open; absent with TLS."""
    headless: StatusText
    """host:port that resolves to all pods, for gRPC clients that balance by themselves."""
    model: StatusText
    """Name of the model to ask for."""


class Failure(ApiModel):
    """The last build that failed."""

    job: StatusText
    """Name of the Job."""
    reason: StatusText
    """One word."""
    message: Annotated[str, StringConstraints(max_length=4096)]
    """What failed, in the builder's words."""
    transient: bool
    """Whether it is tried again without a change."""


class Status(ApiModel):
    """Observed state."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """metadata.generation that this status is of."""
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra=list_map("type"))] = []
    """Ready, Built, Serving; Reconciling, Stalled, Degraded while they are true."""
    runtime: StatusText | None = None
    """Runtimes of all pools: TensorRT, OnnxRuntime, or both."""
    replicas: Annotated[int, Field(ge=0)] | None = None
    """Pods of all pools."""
    ready_replicas: Annotated[int, Field(ge=0)] | None = None
    """Pods of all pools that answer requests."""
    ready_summary: StatusText | None = None
    """Ready pods and wanted pods of all pools, for people, such as 2/3."""
    artifacts: Annotated[list[Artifact], Field(max_length=32, json_schema_extra=list_map("build"))] = []
    """Built model repositories that this resource uses."""
    pools: Annotated[list[PoolStatus], Field(max_length=MAX_POOLS * 2, json_schema_extra=list_map("name"))] = []
    """State of each pool."""
    endpoints: Endpoints | None = None
    """Where clients send requests, within the cluster."""
    last_failure: Failure | None = None
    """The build that failed, until one succeeds."""


class AsrDeployment(ApiModel):
    """Speech recognition with a NVIDIA NeMo model: built, checked, published, and served with Triton."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                f"size(self.metadata.name) <= {MAX_NAME} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
                f"the name of an AsrDeployment has at most {MAX_NAME} characters: lower-case letters, digits and -, "
                "a letter first; its Services are named after it",
            )
        )
    )

    spec: Spec
    """Desired state."""
    status: Status | None = None
    """Observed state."""


def parse(body: dict[str, Any]) -> AsrDeployment:
    """Read a resource that the API server has accepted.

    Raises:
        ValidationError: It is of a version with other rules.
    """
    return AsrDeployment.model_validate(body)
