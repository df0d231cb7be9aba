"""Every rule of the API, by a manifest that the API server takes and one that it refuses, with what the user reads."""

import copy
import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from asr_operator import check, crd
from tests.support.operator import gpu_pool, manifest
from tools.testcluster.cluster import ApiServer
from tools.testcluster.machine import ClusterError

Change = dict[str, Any]
NOTHING: Change = {}


def source(**member: Any) -> Change:  # noqa: ANN401 (any part of a manifest)
    return {"model": {"name": "english_stt", "source": member}}


def pool(**more: Any) -> Change:  # noqa: ANN401
    return {"pools": [{"name": "cpu"} | more]}


def scaled(target: Change | None = None, **more: Any) -> Change:  # noqa: ANN401
    return {"autoscaling": {"maxReplicas": 4, "target": target or {"pendingRequests": 8}} | more}


CRON: Change = {
    "type": "cron",
    "metadata": {"timezone": "UTC", "start": "0 8 * * *", "end": "0 18 * * *", "desiredReplicas": "2"},
}


# What is refused, the message, and the nearest thing that is accepted.
RULES: list[tuple[Change, str, Change]] = [
    (source(), "write exactly one of huggingFace, objectStore and persistentVolumeClaim", NOTHING),
    (
        source(huggingFace={"repository": "nvidia/x"}, objectStore={"uri": "s3://models/x.nemo"}),
        "write exactly one of huggingFace",
        source(huggingFace={"repository": "nvidia/x"}),
    ),
    (
        source(objectStore={"uri": "s3://models/x.tar"}),
        "write the URI of a .nemo file, such as s3://bucket/model.nemo",
        source(objectStore={"uri": "gs://models/x.nemo"}),
    ),
    (
        source(objectStore={"uri": "s3://key:secret@models/x.nemo"}),
        "credentials go into spec.storage.secretRef",
        source(objectStore={"uri": "s3://models/x.nemo"}),
    ),
    (
        source(persistentVolumeClaim={"claimName": "models", "path": "../x.nemo"}),
        "write a path inside the volume that ends in .nemo, without a leading / and without ..",
        source(persistentVolumeClaim={"claimName": "models", "path": "a/x.nemo"}),
    ),
    (
        {"model": {"name": "onnx_english", "source": {"objectStore": {"uri": "s3://models/x.nemo"}}}},
        "write the name without that prefix",
        {"model": {"name": "english_onnx", "source": {"objectStore": {"uri": "s3://models/x.nemo"}}}},
    ),
    (
        {"storage": {"uri": "/models"}},
        "write s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
        {"storage": {"uri": "az://models"}},
    ),
    (
        {"storage": {"uri": "s3://models", "endpoint": "minio:9000"}},
        "write the address of the S3 service, such as https://minio.storage.svc:9000",
        {"storage": {"uri": "s3://models", "endpoint": "http://minio:9000"}},
    ),
    (
        pool(autoscaling={"provider": "HPA", "target": {"pendingRequests": 8}}),
        "write maxReplicas, the most pods that the autoscaler may ask for",
        pool(autoscaling={"provider": "External"}),
    ),
    (
        pool(autoscaling={"provider": "External", "target": {"pendingRequests": 8}}),
        "with provider External your own autoscaler measures the load",
        pool(autoscaling={"provider": "External", "minReplicas": 0, "maxReplicas": 3}),
    ),
    (
        pool(modelVolume={"claimName": "c", "sizeLimit": "8ki"}),
        "spec.pools[0].modelVolume.sizeLimit",
        pool(modelVolume={"claimName": "c", "sizeLimit": "8388608Ki"}),
    ),
    (
        pool(modelVolume={"claimName": "a..b"}),
        "spec.pools[0].modelVolume.claimName",
        pool(modelVolume={"claimName": "a.b-c"}),
    ),
    (
        {"image": {"builder": "b:1"}},
        "builder and triton must hold the same TensorRT; write triton and tensorrt as well",
        {"image": {"builder": "b:1", "triton": "t:1", "tensorrt": "10.6.0"}},
    ),
    (
        {"image": {"triton": "t:1"}, "pools": [gpu_pool()]},
        "write image.tensorrt, the TensorRT version of image.triton",
        {"image": {"triton": "t:1"}},
    ),
    (
        {"runtime": {"preferred": "OnnxRuntime", "precision": "BF16"}, "pools": [gpu_pool()]},
        "BF16 is for TensorRT; with preferred OnnxRuntime write FP32 or FP16",
        {"runtime": {"precision": "BF16"}, "pools": [gpu_pool()]},
    ),
    (
        {"runtime": {"preferred": "OnnxRuntime", "shapes": [{"seconds": 40, "batch": 8}]}},
        "shapes are for TensorRT plans; leave them out with preferred OnnxRuntime",
        {"runtime": {"shapes": [{"seconds": 40, "batch": 8}]}},
    ),
    (
        {"runtime": {"preferred": "OnnxRuntime", "precision": "FP16"}, "pools": [gpu_pool(), {"name": "cpu"}]},
        "pools without gpu run FP32; with preferred OnnxRuntime write precision FP32, or give every pool a gpu",
        {"runtime": {"preferred": "OnnxRuntime", "precision": "FP16"}, "pools": [gpu_pool()]},
    ),
    (
        {"runtime": {"shapes": [{"seconds": 15, "batch": 8}]}},
        "at least one of runtime.shapes must be as long as audio.maxSeconds",
        {"runtime": {"shapes": [{"seconds": 15, "batch": 8}]}, "audio": {"maxSeconds": 15}},
    ),
    (
        {"acceptance": {"audio": {"uri": "/audio"}}},
        "write the URI of a folder with WAV or FLAC files, such as s3://bucket/check-audio",
        {"acceptance": {"audio": {"uri": "s3://bucket/audio"}}},
    ),
    (
        pool(**scaled({"pendingRequests": 8, "audioSecondsPerSecond": 100})),
        "write exactly one of audioSecondsPerSecond, pendingRequests and cpuUtilizationPercent",
        pool(**scaled({"audioSecondsPerSecond": 100})),
    ),
    (
        pool(**scaled(minReplicas=5)),
        "minReplicas must not be more than maxReplicas",
        pool(**scaled(minReplicas=4)),
    ),
    (
        pool(**scaled(minReplicas=0, provider="KEDA")),
        "nothing would start the pool from 0; write minReplicas of at least 1, or a trigger in triggers",
        pool(**scaled(minReplicas=0, provider="KEDA", triggers=[CRON])),
    ),
    (
        pool(**scaled(triggers=[CRON])),
        "triggers are KEDA's; write provider: KEDA, or leave them out",
        pool(**scaled(triggers=[CRON], provider="KEDA")),
    ),
    (
        pool(**scaled({"cpuUtilizationPercent": 50})),
        "is in per cent of the CPU that pods request; write resources.requests.cpu, or another target",
        pool(resources={"requests": {"cpu": "500m"}}, **scaled({"cpuUtilizationPercent": 50})),
    ),
    (
        pool(autoscaling={"maxReplicas": 4}),
        "CPU utilisation, the default target of a pool without GPU",
        pool(resources={"limits": {"cpu": 2}}, autoscaling={"maxReplicas": 4}),
    ),
    (
        pool(replicas=2, **scaled()),
        "write replicas or autoscaling, not both: an autoscaler sets the replicas",
        pool(replicas=2),
    ),
    (
        {"pools": [gpu_pool(**scaled({"cpuUtilizationPercent": 50}))]},
        "a GPU pool's CPU says little about its load; write audioSecondsPerSecond or pendingRequests",
        {"pools": [gpu_pool(autoscaling={"maxReplicas": 4})]},
    ),
    (
        pool(podLabels={"app.kubernetes.io/name": "x"}),
        "labels of asr-operator.dev and app.kubernetes.io are set by the operator; use another prefix",
        pool(podLabels={"example.com/name": "x"}),
    ),
    (
        pool(podAnnotations={"asr-operator.dev/artifact": "x"}),
        "annotations of asr-operator.dev are set by the operator; use another prefix",
        pool(podAnnotations={"example.com/name": "x"}),
    ),
    (
        {"service": {"loadBalancerClass": "example.com/lb"}},
        "loadBalancerClass is for type LoadBalancer",
        {"service": {"loadBalancerClass": "example.com/lb", "type": "LoadBalancer"}},
    ),
]
NAMES: list[tuple[str, bool]] = [
    ("english", True),
    ("e" * 40, True),
    ("e" * 41, False),
    ("9english", False),
    ("a.b", False),
]
BOUNDS: list[tuple[Change, str]] = [
    ({"pools": []}, "spec.pools"),
    ({"pools": [{"name": "cpu"}, {"name": "cpu"}]}, "spec.pools[1]"),
    ({"pools": [{"name": f"p{index}"} for index in range(9)]}, "spec.pools"),
    (pool(replicas=-1), "spec.pools[0].replicas"),
    (pool(name="CPU"), "spec.pools[0].name"),
    ({"audio": {"maxSeconds": 0}}, "spec.audio.maxSeconds"),
    ({"audio": {"encoding": "MP3"}}, "spec.audio.encoding"),
    ({"model": {"name": "nvidia/english", "source": {"objectStore": {"uri": "s3://m/x.nemo"}}}}, "spec.model.name"),
    ({"build": {"scratch": "much"}}, "spec.build.scratch"),
    (pool(resources={"limits": {"cpu": "two"}}), "spec.pools[0].resources.limits.cpu"),
    (pool(resources={"requests": {"memory": "6 GB"}}), "spec.pools[0].resources.requests.memory"),
    (pool(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]), "spec.pools[0].env[1]"),
    (
        pool(**scaled(behavior={"scaleDown": {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 60}]}})),
        "spec.pools[0].autoscaling.behavior.scaleDown.policies[0].value",
    ),
]


def dry_run(api: ApiServer, body: dict[str, Any]) -> str:
    """What a user reads who applies it."""
    try:
        return api.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(body))
    except ClusterError as error:
        return str(error)


@pytest.mark.parametrize(("refused", "message", "accepted"), RULES, ids=[rule[1][:60] for rule in RULES])
def test_a_rule_refuses_with_what_to_write_and_accepts_that(
    api: ApiServer, refused: Change, message: str, accepted: Change
) -> None:
    body = manifest("default", f"r-{secrets.token_hex(4)}", **refused)
    assert message in dry_run(api, body)
    assert "created (server dry run)" in dry_run(api, manifest("default", **accepted))


@pytest.mark.parametrize(("refused", "message", "accepted"), RULES, ids=[rule[1][:60] for rule in RULES])
def test_the_check_without_a_cluster_says_the_same(refused: Change, message: str, accepted: Change) -> None:
    assert message in "\n".join(map(str, check.check(manifest("default", **refused))))
    assert check.check(manifest("default", **accepted)) == []


def rules_in(node: Any) -> Iterator[str]:  # noqa: ANN401 (any JSON)
    if isinstance(node, dict):
        for rule in node.get("x-kubernetes-validations", ()):
            yield rule["message"]
        for value in node.values():
            yield from rules_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from rules_in(value)


def test_no_rule_is_without_an_example() -> None:
    examples = [message for _, message, _ in RULES] + ["the name of an AsrDeployment has at most"]
    assert [rule for rule in rules_in(crd.schema()) if not any(example in rule for example in examples)] == []


MODELS: list[tuple[str, bool]] = [
    ("stt_en_fastconformer_hybrid_large_streaming_multi", True),
    ("parakeet-tdt_ctc-110m", True),
    ("parakeet-tdt-0.6b-v2", True),
    ("STT-German.v2", True),
    ("m" * 96, True),
    ("m" * 97, False),
    ("nvidia/parakeet-ctc-0.6b", False),
    ("a..b", False),
    ("-model", False),
    ("onnx_model", False),
]


@pytest.mark.parametrize(("model", "accepted"), MODELS)
def test_a_model_may_be_named_as_on_the_hub(api: ApiServer, model: str, *, accepted: bool) -> None:
    body = manifest("default", model={"name": model, "source": {"objectStore": {"uri": "s3://m/x.nemo"}}})
    assert ("created (server dry run)" in dry_run(api, body)) == accepted
    assert bool(check.check(body)) != accepted


@pytest.mark.parametrize(("name", "accepted"), NAMES)
def test_names_are_such_that_services_can_be_named_after_them(api: ApiServer, name: str, *, accepted: bool) -> None:
    body = manifest("default", name)
    answer = dry_run(api, body)
    assert ("created (server dry run)" in answer) == accepted
    assert ("the name of an AsrDeployment has at most 40 characters" in answer) != accepted
    assert bool(check.check(body)) != accepted


@pytest.mark.parametrize(("change", "field"), BOUNDS, ids=[field for _, field in BOUNDS])
def test_bounds_are_refused_with_the_path_of_the_field(api: ApiServer, change: Change, field: str) -> None:
    body = manifest("default", f"b-{secrets.token_hex(4)}", **change)
    assert field in dry_run(api, body)


@pytest.mark.parametrize(("change", "field"), BOUNDS, ids=[field for _, field in BOUNDS])
def test_the_check_without_a_cluster_knows_the_same_bounds(change: Change, field: str) -> None:
    assert field in "\n".join(map(str, check.check(manifest("default", **change))))


def test_a_field_that_does_not_exist_is_told_here_and_there(api: ApiServer) -> None:
    body = manifest("default", **pool(replica=2))
    assert 'unknown field "spec.pools[0].replica"' in dry_run(api, body)
    assert [str(finding).split(":")[0] for finding in check.check(body)] == ["spec.pools[0].replica"]


def test_what_the_api_server_has_defaulted_is_what_the_models_default(api: ApiServer) -> None:
    from asr_operator.api import v1alpha1  # noqa: PLC0415

    slower = {"scaleDown": {"stabilizationWindowSeconds": 600}}
    body = manifest("default", pools=[gpu_pool(autoscaling={"maxReplicas": 3, "behavior": slower})])
    created = api.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(body))
    assert v1alpha1.parse(json.loads(created)).spec == v1alpha1.parse(copy.deepcopy(body)).spec


def test_an_older_crd_is_replaced_by_this_one_and_resources_stay(api: ApiServer, space: str) -> None:
    api.apply(manifest(space))
    definition = crd.manifest()
    older = copy.deepcopy(definition)
    properties = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    del properties["networkPolicy"]
    api.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(older))
    api.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(definition))
    assert api.get("asr", "english", "-n", space)["spec"]["model"]["name"] == "english_stt"


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("pools", "one Deployment for each kind of GPU"),
        ("pools.gpu.product", "such as NVIDIA-L4"),
        ("storage.secretRef", "The operator never reads it"),
        ("pools.autoscaling.minReplicas", "0 needs a trigger that can wake it"),
        ("pools.autoscaling.target", "audioSecondsPerSecond of 40 % of the throughput that was measured"),
    ],
)
def test_kubectl_explain_reads_well(api: ApiServer, field: str, text: str) -> None:
    told = " ".join(api.kubectl("explain", f"asrdeployment.spec.{field}").split())
    assert text in told
