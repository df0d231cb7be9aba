"""An API server that knows the kinds of Prometheus Operator and KEDA, and the CRD."""

import secrets
from collections.abc import Iterator

import pytest

from asr_operator import crd
from tests.support import definitions
from tools.testcluster.cluster import ApiServer
from tools.testcluster.nodes import add_nodes, gpu_labels, node

KINDS = ("monitoring.coreos.com_podmonitors", "monitoring.coreos.com_prometheusrules", "keda.sh_scaledobjects")
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One of its own: the operator's tests are about clusters without those kinds, too."""
    with ApiServer(tmp_path_factory.mktemp("chart") / "state") as running:
        definitions.install(running, *KINDS)
        add_nodes(running, node("acted", gpus=64, labels=gpu_labels("NVIDIA-L4", "8.9")))
        yield running


@pytest.fixture(scope="package")
def api(server: ApiServer) -> ApiServer:
    """It knows AsrDeployments as well, without any chart."""
    server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=crd.to_yaml())
    server.wait_for_definitions()
    return server


@pytest.fixture
def space(server: ApiServer) -> str:
    """A new namespace that enforces restricted Pod Security."""
    name = f"test-{secrets.token_hex(4)}"
    server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    return name
