"""What a platform team has before the first AsrDeployment: the operator, a namespace, object storage, a checkpoint."""

from pathlib import Path

import obstore
from obstore.store import S3Store

from tests.cluster.cluster import PROJECT, Cluster
from tests.cluster.services import BUCKET, S3, start_s3

RELEASE = "asr-operator"
OPERATOR_NAMESPACE = "asr-operator"
CHART = PROJECT / "charts" / "asr-operator"
VALUES = PROJECT / "tests" / "demo" / "values.yaml"
MANIFEST = PROJECT / "tests" / "demo" / "asrdeployment.yaml"
CHECKPOINT = PROJECT / "tests" / "demo" / "english_stt.nemo"
CHECK_AUDIO = PROJECT / "model_builder" / "check_audio"
IMAGES = ("s3", "operator", "triton", "builder")
"""All that pods here run, the smallest first."""
INSTALL = ("upgrade", "--install", RELEASE, str(CHART.relative_to(PROJECT)), "--namespace", OPERATOR_NAMESPACE)
INSTALL += ("--create-namespace", "--values", str(VALUES.relative_to(PROJECT)), "--wait", "--timeout", "3m")


def add_namespace(cluster: Cluster, name: str) -> S3:
    """A namespace that enforces restricted Pod Security, with an S3 server that has the demo checkpoint."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    s3 = start_s3(cluster, name)
    obstore.put(bucket(s3), f"checkpoints/{CHECKPOINT.name}", CHECKPOINT)
    return s3


def bucket(s3: S3) -> S3Store:
    """The bucket, for a program on the host."""
    return S3Store(
        BUCKET,
        access_key_id=s3.environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=s3.environment["AWS_SECRET_ACCESS_KEY"],
        endpoint=s3.environment["AWS_ENDPOINT_URL"],
        region=s3.environment["AWS_REGION"],
        client_options={"allow_http": True},
    )


def address(cluster: Cluster, namespace: str, name: str) -> str:
    """Where the host reaches a resource's Service by gRPC."""
    return f"{cluster.get('service', name, '-n', namespace)['spec']['clusterIP']}:8001"


def audio_files(folder: Path = CHECK_AUDIO) -> list[Path]:
    """Speech whose words are known."""
    return sorted(folder.glob("*.wav"))
