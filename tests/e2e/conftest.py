"""The operator on the real cluster. All tests share one: the builder's image takes minutes to import."""

import pytest

from tests.support import platform
from tests.support.platform import Speech
from tools.testcluster import services
from tools.testcluster.cluster import Cluster
from tools.testcluster.services import Prometheus

ONE_ATTEMPT = ("--set", "settings.jobs.backoffLimit=0")


@pytest.fixture(scope="session")
def prometheus(cluster: Cluster) -> Prometheus:
    """It looks on from before there is an operator: what is built first has to be seen, it is built only once."""
    return services.start_prometheus(cluster)


@pytest.fixture(scope="session")
def speech(cluster: Cluster, prometheus: Prometheus) -> Speech:  # noqa: ARG001
    """The operator, by its chart, and a namespace with object storage and a checkpoint."""
    for name in platform.IMAGES:
        cluster.use_image(name)
    cluster.helm(*platform.INSTALL, *ONE_ATTEMPT, seconds=200)
    return Speech(cluster, "speech", platform.add_namespace(cluster, "speech"))
