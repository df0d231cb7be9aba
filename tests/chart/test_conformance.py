"""`helm test`: what the chart renders of it, and when."""

from typing import Any

import pytest

from tests.support.chart import Object, one, render
from tools.testcluster.machine import ClusterError

NAME = "asr-asr-operator-conform"


def hooks(**values: Any) -> list[Object]:  # noqa: ANN401
    """Objects that exist for the test alone."""
    found = render({"conformance": values})
    return [item for item in found if item["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"]


def rules(objects: list[Object]) -> dict[str, list[str]]:
    """Verbs of the Role by resource."""
    return {name: rule["verbs"] for rule in one(objects, "Role")["rules"] for name in rule["resources"]}


def test_nothing_is_rendered_unless_values_name_a_resource() -> None:
    assert hooks() == []
    assert not [item for item in render() if "conform" in item["metadata"]["name"]]


def test_the_test_runs_asr_conform_on_the_resource_in_its_namespace() -> None:
    found = hooks(resource="english", namespace="models", args=["--tls"])
    container = one(found, "Pod")["spec"]["containers"][0]
    assert container["image"] == one(render(), "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]
    assert container["command"] == ["asr", "conform"]
    assert container["args"] == ["asr/english", "--namespace=models", "--output=-", "--tls"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert one(found, "Pod")["metadata"]["namespace"] == "speech"
    assert one(found, "Role")["metadata"]["namespace"] == "models"


def test_certificates_of_an_authority_can_be_mounted() -> None:
    mount, volume = {"name": "ca", "mountPath": "/ca"}, {"name": "ca", "configMap": {"name": "authority"}}
    values = {"extraVolumes": [volume], "extraVolumeMounts": [mount], "conformance": {"resource": "english"}}
    spec = one(render(values), "Pod")["spec"]
    assert spec["volumes"] == [volume]
    assert spec["containers"][0]["volumeMounts"] == [mount]


def test_its_rights_are_those_of_one_namespace_and_end_with_it() -> None:
    found = hooks(resource="english")
    assert {item["kind"] for item in found} == {"ServiceAccount", "Role", "RoleBinding", "Pod"}
    for item in found:
        policy = item["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        assert ("hook-succeeded" in policy) == (item["kind"] != "Pod")
    assert rules(found) == {
        "asrdeployments": ["get", "list"],
        "pods": ["get", "list"],
        "pods/exec": ["get", "create"],
    }


@pytest.mark.parametrize(
    ("values", "pods", "runs_programs"),
    [({"exec": False}, ["get", "list"], False), ({"kill": True}, ["get", "list", "delete"], True)],
)
def test_rights_are_no_more_than_its_values_need(values: Object, pods: list[str], runs_programs: bool) -> None:
    found = hooks(resource="english", **values)
    assert rules(found)["pods"] == pods
    assert ("pods/exec" in rules(found)) == runs_programs
    assert ("--kill" in one(found, "Pod")["spec"]["containers"][0]["args"]) == bool(values.get("kill"))


@pytest.mark.parametrize("values", [{"resource": "asr/english"}, {"resources": "english"}, {"namespace": "No Such"}])
def test_values_that_name_nothing_are_refused(values: Object) -> None:
    with pytest.raises(ClusterError, match="conformance"):
        render({"conformance": values})
