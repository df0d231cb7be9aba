"""pytest fixtures: `api_server`, `cluster`, `namespace`. How to use them: README.md in this folder."""

import os
import secrets
from collections.abc import Iterator

import pytest

from tools.testcluster.cluster import ApiServer, Cluster


@pytest.hookimpl(trylast=True)  # when `-k` and `-m` have chosen
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say at once what cannot run, not after 20 minutes; nothing is skipped silently."""
    if os.geteuid() != 0 and any("cluster" in getattr(item, "fixturenames", ()) for item in items):
        raise pytest.UsageError(
            "tests that start a Kubernetes node need root: run as root, or leave them out with `--ignore=tests/e2e`"
        )


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
