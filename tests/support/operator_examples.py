"""Resources, settings and artifacts for tests of the operator's pure parts, and hypothesis strategies of them."""

from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from asr_operator.api import v1alpha1 as api
from asr_operator.render.context import Context
from asr_operator.settings import Settings

GOLDEN = Path(__file__).parents[1] / "golden" / "operator"
SETTINGS = Settings.model_validate(
    {
        "triton": {
            "images": [
                {"image": "nvcr.io/nvidia/tritonserver:24.10-py3", "tensorrt": "10.5.0"},
                {"image": "nvcr.io/nvidia/tritonserver:24.12-py3", "tensorrt": "10.7.0", "builder": "builder:10.7"},
            ]
        },
        "builderImage": "registry.example.com/asr-builder:1.0",
        "operatorImage": "registry.example.com/asr-operator:1.0",
    }
)
ONNX = api.Artifact(
    build="onnx-1", runtime=api.Runtime.ONNX_RUNTIME, uri="s3://asr-models/prod/english_stt/1", manifest_sha256="1" * 64
)


def plan_for(product: str = "NVIDIA-L4", capability: str = "8.9", tensorrt: str = "10.5.0") -> api.Artifact:
    return api.Artifact(
        build="plan-2",
        runtime=api.Runtime.TENSORRT,
        uri="s3://asr-models/prod/english_stt/2",
        manifest_sha256="2" * 64,
        gpu_product=product,
        compute_capability=capability,
        tensorrt=tensorrt,
    )


def example() -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((GOLDEN / "example.yaml").read_text())
    return body


def context(body: dict[str, Any] | None = None) -> Context:
    body = body or example()
    return Context.of(body, api.parse(body).spec, SETTINGS)


names = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
labels = st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.just("x"), max_size=2)
gpus = st.fixed_dictionaries(
    {
        "product": st.sampled_from(["NVIDIA-L4", "NVIDIA-H100-80GB-HBM3", "NVIDIA-L4-SHARED"]),
        "computeCapability": st.sampled_from(["8.9", "9.0"]),
    },
    optional={
        "count": st.integers(1, 4),
        "resource": st.just("nvidia.com/mig-1g.5gb"),
        "nodeSelection": st.sampled_from(list(api.NodeSelection)),
    },
)
scaling = st.fixed_dictionaries(
    {
        "maxReplicas": st.integers(4, 9),
    },
    optional={
        "minReplicas": st.integers(1, 4),
        "provider": st.sampled_from(["HPA", "KEDA"]),
        "target": st.sampled_from([{"audioSecondsPerSecond": 8000}, {"pendingRequests": 8}]),
        "behavior": st.just({"scaleDown": {"stabilizationWindowSeconds": 0}}),
    },
)
pools = st.fixed_dictionaries(
    {"name": names},
    optional={
        "gpu": gpus,
        "nodeSelector": labels,
        "podLabels": labels,
        "env": st.just([{"name": "A", "value": "b"}]),
        "batching": st.fixed_dictionaries(
            {}, optional={"maxBatchSize": st.integers(1, 8), "instances": st.integers(1, 4)}
        ),
        "resources": st.just({"limits": {"cpu": "1000m", "memory": 1024}}),
        "terminationGracePeriodSeconds": st.integers(30, 3600),
        "topologySpreadConstraints": st.just(
            [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]
        ),
        "modelVolume": st.sampled_from(
            [{"claimName": "cache"}, {"claimName": "cache", "sizeLimit": "4Gi"}, {"sizeLimit": "4Gi"}]
        ),
    },
).flatmap(
    lambda pool: st.one_of(
        st.just(pool),
        st.integers(0, 5).map(lambda count: pool | {"replicas": count}),
        scaling.map(lambda found: pool | {"autoscaling": found}),
    )
)
sources = st.sampled_from(
    [
        {"huggingFace": {"repository": "nvidia/x"}},
        {"objectStore": {"uri": "s3://models/x.nemo"}},
        {"persistentVolumeClaim": {"claimName": "models", "path": "x.nemo"}},
    ]
)
specs = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries({"name": st.just("english_stt"), "source": sources}),
        "storage": st.fixed_dictionaries(
            {"uri": st.just("s3://asr-models/prod")},
            optional={"secretRef": st.just({"name": "s3"}), "caBundle": st.just({"name": "ca"})},
        ),
        "pools": st.lists(pools, min_size=1, max_size=4, unique_by=lambda pool: pool["name"]),
    },
    optional={
        "runtime": st.fixed_dictionaries(
            {},
            optional={"preferred": st.sampled_from(["TensorRT", "OnnxRuntime"]), "fallback": st.sampled_from(["None"])},
        ),
        "service": st.fixed_dictionaries({}, optional={"tlsSecretRef": st.just({"name": "tls"})}),
        "networkPolicy": st.just({"from": []}),
        "rollout": st.fixed_dictionaries({}, optional={"strategy": st.sampled_from(["Surge", "Recreate"])}),
        "image": st.sampled_from([{"tensorrt": "10.7"}, {"pullSecrets": [{"name": "registry"}]}]),
    },
)
resources = st.builds(
    lambda name, spec: {
        "apiVersion": api.API_VERSION,
        "kind": api.KIND,
        "metadata": {"name": name, "namespace": "speech", "uid": "1-2-3", "generation": 1},
        "spec": spec,
    },
    names,
    specs,
)
