"""HorizontalPodAutoscalers and ScaledObjects, where the API server knows both."""

from pathlib import Path

import pytest

from tests.support.chart import service_account
from tests.support.operator import Acting, Operator, manifest
from tests.support.operator_examples import GOLDEN
from tools.testcluster.cluster import ApiServer
from tools.testcluster.machine import until


@pytest.mark.parametrize("file", ["horizontalpodautoscaler-english-cpu", "scaledobject-english-l4"])
def test_what_scales_a_pool_has_no_field_that_its_kind_does_not_know(api: ApiServer, space: str, file: str) -> None:
    options = ("--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors")
    text = (GOLDEN / f"{file}.yaml").read_text().replace("namespace: speech", f"namespace: {space}")
    assert "serverside-applied (server dry run)" in api.kubectl("apply", *options, "-f", "-", stdin=text)


def test_a_former_autoscaler_goes_before_its_successor_comes(api: ApiServer, space: str, tmp_path: Path) -> None:
    kubeconfig = service_account(api, tmp_path, namespace=f"{space}-operator")
    operator, acting = (
        Operator(api, tmp_path / "operator", kubeconfig=kubeconfig, namespaces=[space]),
        Acting(api, space),
    )
    scaling = {"maxReplicas": 3, "target": {"pendingRequests": 8}}
    operator.start()
    for provider, kind in (("HPA", "hpa"), ("KEDA", "scaledobjects"), ("HPA", "hpa")):
        api.apply(manifest(space, pools=[{"name": "cpu", "autoscaling": scaling | {"provider": provider}}]))
        if not acting.find("deployments"):
            acting.publish(acting.job("onnx"))
        until(lambda kind=kind: acting.find(kind), f"the {provider}")  # type: ignore[misc]
    assert operator.stop() == 0
    kinds = {"horizontalpodautoscalers", "scaledobjects"}
    written = [
        (item["verb"], item["objectRef"]["resource"])
        for item in api.writes()
        if item["objectRef"].get("namespace") == space
        and item["objectRef"]["resource"] in kinds
        and not item["objectRef"].get("subresource")
        and "dryRun=" not in item["requestURI"]
        and f":{space}-operator:" in item["user"]["username"]
    ]
    assert written == [
        ("patch", "horizontalpodautoscalers"),
        ("delete", "horizontalpodautoscalers"),
        ("patch", "scaledobjects"),
        ("delete", "scaledobjects"),
        ("patch", "horizontalpodautoscalers"),
    ]
