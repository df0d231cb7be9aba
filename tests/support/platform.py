"""What a platform team has before the first AsrDeployment: the operator, a namespace, object storage, a checkpoint."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
import yaml
from obstore.store import S3Store

from asr_client import word_errors
from asr_client.word_errors import WordErrors
from tests.support.programs import program
from tools.testcluster.cluster import PROJECT, Cluster
from tools.testcluster.services import BUCKET, S3, start_s3

RELEASE = "asr-operator"
OPERATOR_NAMESPACE = "asr-operator"
CHART = PROJECT / "charts" / "asr-operator"
VALUES = PROJECT / "demo" / "values.yaml"
MANIFEST = PROJECT / "demo" / "asrdeployment.yaml"
CHECKPOINT = PROJECT / "demo" / "english_stt.nemo"
CHECK_AUDIO = PROJECT / "model_builder" / "check_audio"
IMAGES = ("s3", "operator", "triton", "builder")
"""All that pods here run, the smallest first."""
INSTALL = (
    *("upgrade", "--install", RELEASE, str(CHART), "--namespace", OPERATOR_NAMESPACE, "--create-namespace"),
    *("--values", str(VALUES), "--wait", "--timeout", "3m"),
)
"""Of helm."""


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


@dataclass(frozen=True, slots=True)
class Speech:
    """A namespace with object storage where AsrDeployments are made.

    Attributes:
        cluster: The cluster.
        namespace: Its name.
        s3: Its storage.
    """

    cluster: Cluster
    namespace: str
    s3: S3

    def apply(self, name: str, **spec: object) -> None:
        """Apply the demo's AsrDeployment under a name, with parts of its specification replaced."""
        body = yaml.safe_load(MANIFEST.read_text())
        body["metadata"] = {"name": name, "namespace": self.namespace}
        body["spec"] |= spec
        self.cluster.apply(body)

    def delete(self, name: str) -> None:
        """Delete an AsrDeployment; its pods end in their own time."""
        self.cluster.kubectl("delete", "asr", name, "-n", self.namespace)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object."""
        return self.cluster.get(kind, name, "-n", self.namespace)

    def find(self, kind: str, selector: str) -> list[dict[str, Any]]:
        """Objects with these labels that are not being deleted."""
        found = self.cluster.get(kind, "-n", self.namespace, "-l", selector)["items"]
        return [item for item in found if "deletionTimestamp" not in item["metadata"]]

    def status(self, name: str) -> dict[str, Any]:
        """Of an AsrDeployment."""
        found: dict[str, Any] = self.get("asr", name).get("status", {})
        return found

    def condition(self, name: str, kind: str) -> dict[str, str]:
        """A condition of an AsrDeployment; empty when it is not there."""
        conditions: list[dict[str, str]] = self.status(name).get("conditions", [])
        return next((item for item in conditions if item["type"] == kind), {})

    def ready(self, name: str, *, seconds: int) -> None:
        """Wait as a user does."""
        wait = ("wait", "--for=condition=Ready", f"asr/{name}", "-n", self.namespace, f"--timeout={seconds}s")
        self.cluster.kubectl(*wait, seconds=seconds + 10)

    def transcripts(self, name: str, files: Sequence[Path] | None = None) -> list[dict[str, Any]]:
        """Send speech through the Service by `asr transcribe`; each result has `file` and `text`, or `error`."""
        done = subprocess.run(
            [
                *(program("asr"), "transcribe", "--json", "--url", address(self.cluster, self.namespace, name)),
                *("--model", "english_stt", *map(str, files or audio_files())),
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            raise AssertionError(f"asr transcribe: {done.returncode}: {done.stdout}{done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def errors(self, name: str) -> WordErrors:
        """Word errors on the speech whose words are known."""
        known = word_errors.load_references(CHECK_AUDIO / "transcripts.json")
        texts = [(item["file"], item["text"]) for item in self.transcripts(name)]
        found, files = word_errors.of_files(known, texts)
        assert found is not None
        assert files == len(known)
        return found
