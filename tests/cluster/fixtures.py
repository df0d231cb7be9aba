"""pytest fixtures: `api_server`, `cluster`, `namespace`. How to use them: README.md in this folder."""

import secrets
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import ApiServer, Cluster


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real control plane without a node, started once for the session (seconds)."""
    with ApiServer(tmp_path_factory.mktemp("api-server") / "state") as running:
        yield running


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real Kubernetes with one node, started once for the session. Needs root."""
    with Cluster(tmp_path_factory.mktemp("cluster") / "state") as running:
        yield running


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A new namespace of `cluster` that enforces restricted Pod Security."""
    name = f"test-{secrets.token_hex(4)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
