"""The operator on the real cluster. All tests share one: the builder's image takes minutes to import."""

import pytest

from tests.cluster.cluster import Cluster
from tests.support import platform
from tests.support.platform import Speech

ONE_ATTEMPT = ("--set", "settings.jobs.backoffLimit=0")


@pytest.fixture(scope="session")
def speech(cluster: Cluster) -> Speech:
    """The operator, by its chart, and a namespace with object storage and a checkpoint."""
    for name in platform.IMAGES:
        cluster.use_image(name)
    cluster.helm(*platform.INSTALL, *ONE_ATTEMPT, seconds=200)
    return Speech(cluster, "speech", platform.add_namespace(cluster, "speech"))
