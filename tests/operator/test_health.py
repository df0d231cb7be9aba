"""What Argo CD and Flux make of an AsrDeployment, by the scripts of `examples/`, at each stage of its life."""

import copy
from collections.abc import Callable
from typing import Any

import cel
import pytest
import yaml
from lupa import lua51

from tests.support.operator import Acting, gpu_pool, manifest
from tools.testcluster.cluster import PROJECT, ApiServer

EXAMPLES = PROJECT / "examples"
Object = dict[str, Any]


def argo(resource: Object) -> str:
    """Health by Argo CD's rules: it runs the script in Lua 5.1 with the resource as `obj`."""
    config = yaml.safe_load((EXAMPLES / "argocd" / "argocd-cm.yaml").read_text())
    runtime = lua51.LuaRuntime()
    runtime.globals().obj = runtime.table_from(resource, recursive=True)
    health = runtime.execute(config["data"]["resource.customizations.health.asr-operator.dev_AsrDeployment"])
    assert health.message
    return str(health.status)


def flux(resource: Object) -> str:
    """Health by Flux's rules: another generation is in progress; then `failed`, then `current`, else in progress."""
    (models,) = [
        item
        for item in yaml.safe_load_all((EXAMPLES / "flux" / "models.yaml").read_text())
        if item["kind"] == "Kustomization"
    ]
    (check,) = models["spec"]["healthCheckExprs"]
    assert set(check) == {"apiVersion", "kind", "current", "failed"}
    if "status" not in resource:
        return "InProgress"  # the expressions cannot be evaluated, and Flux waits
    if resource["status"]["observedGeneration"] != resource["metadata"]["generation"]:
        return "InProgress"
    if cel.evaluate(check["failed"], resource):
        return "Failed"
    return "Current" if cel.evaluate(check["current"], resource) else "InProgress"


@pytest.fixture(scope="module")
def life(api: ApiServer, running: object) -> Callable[[str], Object]:
    """A resource at each stage of its life, as the operator wrote it."""
    del running
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "life"}})
    acting = Acting(api, "life")
    seen: dict[str, Object] = {}

    def keep(stage: str, name: str = "english") -> None:
        seen[stage] = acting.get("asr", name)

    api.apply(manifest("life", pools=[gpu_pool()]))
    onnx = acting.job("onnx")
    acting.until("Reconciling", ("True", "Building"))
    keep("building")
    api.apply(manifest("life", "asleep", pools=[{"name": "cpu", "replicas": 0}]))
    acting.publish(onnx)
    acting.until("Ready", ("False", "ScaledToZero"), "asleep")
    keep("asleep", "asleep")
    acting.serve("l4")
    acting.until("Ready", ("True", "Serving"))
    keep("degraded")
    acting.publish(acting.job("plan"), "b" * 64)
    acting.until("Ready", ("False", "RollingOut"))
    keep("rolling out")
    acting.serve("l4")
    acting.until("Ready", ("True", "Serving"))
    keep("serving")
    newer = {"name": "english_stt", "source": {"objectStore": {"uri": "s3://models/newer.nemo"}}}
    api.apply(manifest("life", pools=[gpu_pool()], model=newer))
    second = acting.job("onnx", other_than=onnx["metadata"]["uid"])
    acting.end(second, 20, {"reason": "Rejected", "message": "WER 12 %", "transient": False})
    acting.until("Stalled", ("True", "Rejected"))
    keep("stalled")
    # Before the operator has come to it: a moment that cannot be caught.
    seen["new"] = {key: value for key, value in seen["building"].items() if key != "status"}
    seen["changed"] = copy.deepcopy(seen["serving"])
    seen["changed"]["metadata"]["generation"] += 1
    return seen.__getitem__


@pytest.mark.parametrize(
    ("stage", "argo_says", "flux_says"),
    [
        ("new", "Progressing", "InProgress"),
        ("building", "Progressing", "InProgress"),
        ("degraded", "Healthy", "Current"),
        ("rolling out", "Progressing", "InProgress"),
        ("serving", "Healthy", "Current"),
        ("changed", "Progressing", "InProgress"),
        ("stalled", "Degraded", "Failed"),
        ("asleep", "Suspended", "Current"),
    ],
)
def test_gitops_tools_see_each_stage_as_it_is(
    life: Callable[[str], Object], stage: str, argo_says: str, flux_says: str
) -> None:
    resource = life(stage)
    assert argo(resource) == argo_says
    assert flux(resource) == flux_says
