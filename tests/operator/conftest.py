"""The CRD on a real API server, and the operator as a process over it."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_operator import crd
from tests.support.chart import service_account
from tests.support.operator import Acting, Operator
from tools.testcluster.cluster import ApiServer
from tools.testcluster.nodes import add_nodes, gpu_labels, node


def prepared(server: ApiServer) -> ApiServer:
    """It knows the CRD and has a node with GPUs."""
    server.kubectl("apply", "--server-side", "-f", "-", stdin=crd.to_yaml())
    server.wait_for_definitions()
    add_nodes(server, node("acted", gpus=64, labels=gpu_labels("NVIDIA-L4", "8.9")))
    return server


@pytest.fixture(scope="session")
def api(api_server: ApiServer) -> ApiServer:
    """The API server that `running` works at."""
    return prepared(api_server)


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Another one, for operators of a test's own: `running` would do their work."""
    with ApiServer(tmp_path_factory.mktemp("alone") / "state") as server:
        yield prepared(server)


@pytest.fixture(scope="session")
def running(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """One operator for all namespaces, with the chart's rights and no others."""
    folder = tmp_path_factory.mktemp("operator")
    operator = Operator(api, folder, kubeconfig=service_account(api, folder))
    operator.start()
    yield operator
    assert operator.stop() == 0, operator.log.read_text()[-3000:]


def new_space(server: ApiServer) -> str:
    """A new namespace that enforces restricted Pod Security."""
    name = f"test-{secrets.token_hex(4)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    return name


@pytest.fixture
def space(api: ApiServer) -> str:
    """A new namespace of `api`."""
    return new_space(api)


@pytest.fixture
def acting(api: ApiServer, space: str) -> Acting:
    """Acts the kubelet in a namespace of `api`."""
    return Acting(api, space)


@pytest.fixture
def acting_alone(alone: ApiServer) -> Acting:
    """Acts the kubelet in a new namespace of `alone`."""
    return Acting(alone, new_space(alone))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """For files of an operator of the test's own."""
    return tmp_path / "operator"
