"""What the chart renders: an example that one can read, what holds for all values, and which values it refuses.

`python -m tests.chart.test_render` writes the golden files anew.
"""

import json
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr_operator import crd
from asr_operator import settings as operator_settings
from tests.support.chart import CHART, OPTIONAL, Object, one, render
from tools.testcluster import machine
from tools.testcluster.cluster import HELM, PROJECT
from tools.testcluster.machine import ClusterError

GOLDEN = PROJECT / "tests" / "golden" / "chart"
NAME = "asr-asr-operator"


def golden() -> dict[str, str]:
    """The default's and the optional objects, but for files that are put in as they are."""
    found = {}
    for name, values in {"default": {}, "optional": OPTIONAL}.items():
        objects = [item for item in render(values) if item["kind"] != "CustomResourceDefinition"]
        if name == "optional":
            known = [(item["kind"], item["metadata"]["name"]) for item in render()]
            objects = [item for item in objects if (item["kind"], item["metadata"]["name"]) not in known]
        for item in objects:
            if item["kind"] == "PrometheusRule":
                item["spec"] = "files/alerts.yaml"
            if item["metadata"]["name"] == f"{NAME}-dashboard":
                item["data"] = "files/dashboard.json"
        objects.sort(key=lambda item: (item["kind"], item["metadata"]["name"]))
        found[name] = "---\n".join(yaml.safe_dump(item, sort_keys=False, width=120) for item in objects)
    return found


@pytest.mark.parametrize("name", ["default", "optional"])
def test_the_objects_are_those_of_the_golden_file(name: str) -> None:
    assert golden()[name] == (GOLDEN / f"{name}.yaml").read_text()


def test_helm_finds_nothing_to_complain_of() -> None:
    told = machine.run([str(HELM), "lint", "--strict", str(CHART)], environment={})
    assert "1 chart(s) linted, 0 chart(s) failed" in told


def test_the_crd_is_that_of_the_models_and_kept() -> None:
    rendered = one(render({"crds": {"annotations": {"a": "b"}}}), "CustomResourceDefinition")
    assert rendered["spec"] == crd.manifest()["spec"]
    assert rendered["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep", "a": "b"}
    given_up = one(render({"crds": {"keep": False}}), "CustomResourceDefinition")
    assert "annotations" not in given_up["metadata"]
    assert not [item for item in render({"crds": {"enabled": False}}) if item["kind"] == "CustomResourceDefinition"]


@given(
    release=st.from_regex(r"[a-z]([-a-z0-9]{0,51}[a-z0-9])?", fullmatch=True),
    override=st.one_of(st.just(""), st.from_regex(r"[a-z][-a-z0-9]{0,80}[a-z0-9]", fullmatch=True)),
    labels=st.dictionaries(st.sampled_from(["team", "app.kubernetes.io/name", "helm.sh/chart"]), st.just("mine")),
)
@example(release="on", override="on", labels={})  # words that YAML takes for true
@settings(max_examples=8, deadline=None)
def test_names_fit_and_selectors_find_the_pod_whatever_it_is_called(
    release: str, override: str, labels: dict[str, str]
) -> None:
    values = OPTIONAL | {"fullnameOverride": override, "commonLabels": labels, "podLabels": labels}
    objects = render(values, release=release)
    for item in objects:
        assert len(item["metadata"]["name"]) <= 63 or ":" in item["metadata"]["name"]
        assert item["metadata"]["name"][-1] != "-"
        assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == release
    deployment = one(objects, "Deployment")
    pod = deployment["spec"]["template"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        one(objects, "Service")["spec"]["selector"],
        one(objects, "PodMonitor")["spec"]["selector"]["matchLabels"],
        one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector == selectors[0] for selector in selectors)
    assert selectors[0].items() <= pod["metadata"]["labels"].items()
    account = one(objects, "ServiceAccount")["metadata"]["name"]
    assert pod["spec"]["serviceAccountName"] == account
    assert one(objects, "ClusterRoleBinding")["subjects"][0]["name"] == account
    mounted = {volume["configMap"]["name"] for volume in pod["spec"]["volumes"] if "configMap" in volume}
    assert mounted == {item["metadata"]["name"] for item in objects if item["kind"] == "ConfigMap"} - {
        one([item for item in objects if "grafana_dashboard" in item["metadata"]["labels"]], "ConfigMap")["metadata"][
            "name"
        ]
    }


def test_two_releases_have_no_object_in_common_but_the_crd() -> None:
    def identities(namespace: str) -> set[tuple[str, str, str]]:
        found = render(OPTIONAL, namespace=namespace)
        return {(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in found}

    shared = identities("a") & identities("b")
    assert shared == {("CustomResourceDefinition", "", crd.NAME)}


def read_settings(values: Object, monkeypatch: pytest.MonkeyPatch, folder: Any) -> operator_settings.Settings:  # noqa: ANN401
    """The settings as the operator reads them from the chart's ConfigMap."""
    text = one(render(values), "ConfigMap", NAME)["data"]["settings.yaml"]
    path = folder / "settings.yaml"
    path.write_text(text)
    monkeypatch.setenv(operator_settings.FILE_VARIABLE, str(path))
    return operator_settings.load()


def test_the_operator_reads_the_settings_and_the_defaults_are_its_own(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,  # noqa: ANN401
) -> None:
    read = read_settings({}, monkeypatch, tmp_path)
    assert read.operator_image == "registry.test/asr-operator:0.1.0"
    assert read.builder_image == "registry.test/builder:0.1.0"
    own = {"triton", "operator_image", "builder_image"}
    expected = operator_settings.Settings.model_construct(
        triton=read.triton, operator_image=read.operator_image, builder_image=read.builder_image
    )
    assert read.model_dump(exclude=own) == expected.model_dump(exclude=own)
    # Each can be set, and the chart has no others.
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    derived = {"triton", "builderImage", "operatorImage", "namespaces", "metricsPort", "healthPort"}
    assert (
        set(values["settings"]) == {field.alias for field in operator_settings.Settings.model_fields.values()} - derived
    )


def test_large_numbers_and_images_by_digest_arrive_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:  # noqa: ANN401
    digest = "sha256:" + "a" * 64
    values = {"settings": {"jobs": {"keepSeconds": 31_536_000}}, "image": {"digest": digest}}
    images = [{"image": "registry.test/triton:1", "tensorrt": "10.6", "builder": "registry.test/builder:10.6"}]
    read = read_settings(values | {"triton": {"images": images}, "namespaces": ["a"]}, monkeypatch, tmp_path)
    assert read.jobs.keep_seconds == 31_536_000
    assert read.operator_image == f"registry.test/asr-operator@{digest}"
    assert read.triton.images[0].tensorrt == "10.6"
    assert read.namespaces == ("a",)


def test_a_change_of_settings_restarts_the_pod() -> None:
    def annotations(values: Object) -> Any:  # noqa: ANN401
        return one(render(values), "Deployment")["spec"]["template"]["metadata"]["annotations"]

    assert annotations({}) != annotations({"settings": {"workers": 8}})
    assert annotations({}) == annotations({"metrics": {"podMonitor": {"enabled": True}}})


def test_a_parent_chart_may_hand_down_what_turns_it_on() -> None:
    assert render({"enabled": True, "global": {"team": "speech"}}) == render()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"image": {"repository": ""}}, "image.repository is empty: build the image, push it"),
        ({"builderImage": {"repository": ""}}, "builderImage.repository is empty"),
        ({"image": {"repsitory": "x"}}, "at '/image': additional properties 'repsitory' not allowed"),
        ({"image": {"repository": "registry.test/x:1"}}, "at '/image/repository': 'registry.test/x:1' does not match"),
        ({"image": {"digest": "abc"}}, "at '/image/digest': 'abc' does not match pattern '^(sha256:"),
        ({"image": {"tag": 1.0}}, "at '/image/tag': got number, want string"),
        ({"triton": {"images": []}}, "at '/triton/images': minItems: got 0, want 1"),
        ({"triton": {"images": [{"image": "x"}]}}, "at '/triton/images/0': missing property 'tensorrt'"),
        (
            {"triton": {"images": [{"image": "x", "tensorrt": 10.6}]}},
            "at '/triton/images/0/tensorrt': got number, want string",
        ),
        ({"triton": {"apis": "Some"}}, "at '/triton/apis': value must be one of 'Inference', 'All'"),
        ({"settings": {"workers": 0}}, "at '/settings/workers': minimum: got 0, want 1"),
        ({"settings": {"jobs": {"backoffLimit": 21}}}, "at '/settings/jobs/backoffLimit': maximum: got 21, want 20"),
        ({"settings": {"podMonitor": {"interval": "15"}}}, "at '/settings/podMonitor/interval': '15' does not match"),
        ({"namespaces": ["A"]}, "at '/namespaces/0': 'A' does not match pattern"),
        ({"namespaces": ["a", "a"]}, "at '/namespaces': items at 0 and 1 are equal"),
        ({"replicas": 2}, "additional properties 'replicas' not allowed"),
        ({"podLabels": {"a": 1}}, "at '/podLabels/a': got number, want string"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_refused_with_the_values_path(values: Object, told: str) -> None:
    with pytest.raises(ClusterError) as error:
        render(values)
    assert told in str(error.value)


def test_the_bounds_of_settings_are_the_operators() -> None:
    """What the schema lets through, the operator reads: bounds are compared one by one."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    theirs = operator_settings.Settings.model_json_schema(by_alias=True)
    bounds = {"minimum", "maximum"}

    def walk(ours: Object, other: Object, path: str) -> list[str]:
        reference = other.get("$ref") or (other.get("allOf") or [{}])[0].get("$ref")
        other = theirs["$defs"][reference.rpartition("/")[2]] if reference else other
        found = [
            f"{path}.{name}" for name in bounds if ours.get(name) != other.get(name) and ours.get("type") == "integer"
        ]
        for name, inner in ours.get("properties", {}).items():
            found += walk(inner, other["properties"][name], f"{path}.{name}")
        return found

    assert walk(schema["properties"]["settings"], theirs, "settings") == []


def releases() -> list[Object]:
    """The Triton releases that the project knows."""
    found: list[Object] = yaml.safe_load((CHART / "files" / "triton-releases.yaml").read_text())
    return found


def test_the_offered_triton_images_are_those_of_the_table_with_the_newest_as_default() -> None:
    offered = [item for item in releases() if item["offered"]]
    images = yaml.safe_load((CHART / "values.yaml").read_text())["triton"]["images"]
    assert [(item["image"], item["tensorrt"]) for item in images] == [
        (f"nvcr.io/nvidia/tritonserver:{item['release']}-py3", item["tensorrt"]) for item in offered
    ]
    assert offered[0] == releases()[0]


def test_one_offered_image_has_the_last_tensorrt_of_the_former_major_version() -> None:
    majors = [item["tensorrt"].split(".")[0] for item in releases()]
    last = next(item for item, major in zip(releases(), majors, strict=True) if major != majors[0])
    assert last["offered"]


def test_the_builder_is_made_upon_the_default_image() -> None:
    base = (PROJECT / "model_builder" / "Dockerfile").read_text().partition("ARG BASE_IMAGE=")[2].splitlines()[0]
    assert base == yaml.safe_load((CHART / "values.yaml").read_text())["triton"]["images"][0]["image"]


def test_the_table_of_releases_goes_from_new_to_old_and_says_what_was_run() -> None:
    names = [item["release"] for item in releases()]
    assert names == sorted(names, reverse=True)
    for item in releases():
        assert set(item) == {"release", "triton", "tensorrt", "onnxruntime", "cuda", "driver", "offered", "ran"}
        assert item["ran"]


@pytest.mark.parametrize(("values", "apis"), [({}, "Inference"), ({"triton": {"apis": "All"}}, "All")])
def test_the_operator_is_told_which_apis_clients_may_use(
    values: Object,
    apis: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,  # noqa: ANN401
) -> None:
    assert read_settings(values, monkeypatch, tmp_path).triton.apis == apis


def write() -> None:
    """Write the golden files."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, text in golden().items():
        (GOLDEN / f"{name}.yaml").write_text(text)


if __name__ == "__main__":
    write()
