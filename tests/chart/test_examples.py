"""The examples: the API server accepts them, with the kinds of Argo CD and Flux as their projects define them."""

from typing import Any

import pytest
import yaml

from asr_operator import names
from tests.support import definitions, monitoring
from tests.support.chart import render
from tools.testcluster import machine
from tools.testcluster.cluster import BINARY, PROJECT, ApiServer

EXAMPLES = PROJECT / "examples"
KINDS = (
    "application-crd",
    "helm.toolkit.fluxcd.io_helmreleases",
    "kustomize.toolkit.fluxcd.io_kustomizations",
    "source.toolkit.fluxcd.io_gitrepositories",
)
NO_OBJECTS = {"kustomization.yaml", "values.yaml"}
FILES = sorted(
    path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.yaml") if path.name not in NO_OBJECTS
)
Object = dict[str, Any]


def documents(file: str) -> list[Object]:
    return [item for item in yaml.safe_load_all((EXAMPLES / file).read_text()) if item]


@pytest.fixture(scope="module")
def knowing(api: ApiServer) -> ApiServer:
    """The API server knows the GitOps tools' kinds, and has their namespaces."""
    definitions.install(api, *KINDS)
    names = ("argocd", "flux-system", "speech")
    api.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names))
    return api


def dry_run(server: ApiServer, text: str) -> None:
    options = ("--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors")
    server.kubectl("apply", *options, "-f", "-", stdin=text)


@pytest.mark.parametrize("file", FILES)
def test_the_api_server_accepts_it(knowing: ApiServer, file: str) -> None:
    dry_run(knowing, (EXAMPLES / file).read_text())


def test_kustomize_renders_what_the_api_server_accepts(knowing: ApiServer) -> None:
    rendered = machine.run(
        [str(BINARY), "kubectl", "kustomize", str(EXAMPLES / "kustomize/production")], environment={}
    )
    dry_run(knowing, rendered)
    (resource,) = yaml.safe_load_all(rendered)
    assert [pool["name"] for pool in resource["spec"]["pools"]] == ["cpu", "l4"]
    assert resource["spec"]["storage"]["uri"] == "s3://asr-models/prod"
    assert resource["metadata"]["namespace"] == "speech"


def test_the_charts_values_in_them_are_valid() -> None:
    argo = documents("argocd/applications.yaml")[0]["spec"]["source"]
    flux = documents("flux/operator.yaml")[1]["spec"]
    assert argo["path"] == flux["chart"]["spec"]["chart"] == "charts/asr-operator"
    for values in (argo["helm"]["valuesObject"], flux["values"]):
        assert render(values, images=False)


def test_flux_would_find_the_models_where_the_kustomization_says() -> None:
    models = documents("flux/models.yaml")[1]["spec"]
    assert (EXAMPLES / "kustomize" / models["path"] / "kustomization.yaml").exists()
    assert models["targetNamespace"] == "speech"


def test_the_adapters_metrics_are_those_that_autoscalers_ask_for() -> None:
    assert set(monitoring.adapter_queries("speech")) == {names.AUDIO_RATE_METRIC, names.PENDING_METRIC}
