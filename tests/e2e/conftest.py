"""The operator on the real cluster. All tests share one: the builder's image takes minutes to import."""

from collections.abc import Iterator

import pytest

from tests.cluster import images
from tests.cluster.cluster import Cluster
from tests.support import platform
from tests.support.operator import Operator
from tests.support.platform import Speech


@pytest.fixture(scope="session")
def operator(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    for name in ("s3","operator"):
        cluster.use_image(name)
    from asr_operator import crd
    cluster.apply(crd.manifest())
    cluster.kubectl("wait", "--for=condition=Established", "crd/" + crd.NAME)
    op = Operator(
        cluster,
        tmp_path_factory.mktemp("operator"),
        triton={"images": [{"image": images.reference("triton"), "tensorrt": "10.6.0"}]},
        builderImage=images.reference("builder"),
        operatorImage=images.reference("operator"),
    )
    op.start()
    yield op
    assert op.stop() == 0


@pytest.fixture(scope="session")
def speech(cluster: Cluster, operator: Operator) -> Speech:
    """A namespace with object storage and a checkpoint, and the operator at work."""
    del operator
    return Speech(cluster, "speech", platform.add_namespace(cluster, "speech"))
