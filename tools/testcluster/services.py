"""What demo, tests and benchmarks need beside the product, in the cluster: S3, Prometheus, KEDA (`manifests/`)."""

import base64
import json
import secrets
import socket
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import definitions
from tools.testcluster.cluster import PROJECT, Cluster
from tools.testcluster.machine import until

MANIFESTS = Path(__file__).parent / "manifests"
RULES = PROJECT / "charts" / "asr-operator" / "files" / "alerts.yaml"
BUCKET = "asr-models"
S3_SECRET = "s3"  # noqa: S105 - its name
ROLLOUT_SECONDS = 90
KEDA_SECONDS = 240


@dataclass(frozen=True, slots=True)
class S3:
    """An S3 server in the cluster, with an empty bucket.

    Attributes:
        uri: Of the bucket.
        secret: Name of the Secret, in the server's namespace, that has all that a pod needs, for `envFrom`.
        environment: What a program on the host needs.
    """

    uri: str
    secret: str
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """The cluster's Prometheus.

    Attributes:
        address: In the cluster.
        host_address: On the host.
    """

    address: str
    host_address: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate a PromQL expression now: each result has `metric`, the labels, and `value`, time and a text.

        Raises:
            OSError: Prometheus does not answer, or refuses the expression.
        """
        found: list[dict[str, Any]] = self._ask("query", query=expression)["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Recording rules and alerts: each has `name`, `query`, `health`, and `lastError` if that is not good."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def _ask(self, what: str, **parameters: str) -> dict[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        address = f"{self.host_address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with opener.open(address, timeout=10) as response:
            data: dict[str, Any] = json.load(response)["data"]
            return data


def start_s3(cluster: Cluster, namespace: str) -> S3:
    """Start an S3 server in a namespace, if there is none yet, and wait until it is ready."""
    cluster.use_image("s3")
    if not cluster.kubectl("get", "secret", S3_SECRET, "-n", namespace, "--ignore-not-found"):
        _create_s3_secret(cluster, namespace)
    address = _start(cluster, "s3", namespace)
    data = cluster.get("secret", S3_SECRET, "-n", namespace)["data"]
    inside = {name: base64.b64decode(value).decode() for name, value in data.items()}
    outside = {"AWS_ENDPOINT_URL": f"http://{address}:9000", "NO_PROXY": address, "no_proxy": address}
    return S3(f"s3://{BUCKET}", S3_SECRET, inside | outside)


def start_prometheus(cluster: Cluster) -> Prometheus:
    """Start the cluster's Prometheus, in the namespace `monitoring`, with the chart's rules; wait until it is ready."""
    cluster.use_image("prometheus")
    metadata = {"name": "prometheus-rules", "namespace": "monitoring"}
    rules = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {RULES.name: RULES.read_text()}}
    address = _start(cluster, "prometheus", "monitoring", rules)
    return Prometheus("http://prometheus.monitoring.svc.cluster.local:9090", f"http://{address}:9090")


def start_keda(cluster: Cluster) -> None:
    """Start KEDA, in the namespace `keda`, and wait until autoscalers get its metrics.

    Raises:
        ImageError: It was not built: `make benchmark-tools`.
    """
    cluster.use_image("keda")
    definitions.install(cluster, *definitions.KEDA)
    _apply(cluster, "keda", "keda")
    # Its operator makes itself a certificate, and the node brings it into both pods some time later.
    condition = ("--for=condition=Available", "apiservice/v1beta1.external.metrics.k8s.io")
    cluster.kubectl("wait", *condition, f"--timeout={KEDA_SECONDS}s", seconds=KEDA_SECONDS + 10)


def _create_s3_secret(cluster: Cluster, namespace: str) -> None:
    values = {
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(24),
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://s3.{namespace}.svc.cluster.local:9000",
    }
    metadata = {"name": S3_SECRET, "namespace": namespace}
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values})


def _start(cluster: Cluster, name: str, namespace: str, *more: dict[str, Any]) -> str:
    """Apply a manifest and what it refers to; wait until its Deployment answers by its Service, at this address."""
    _apply(cluster, name, namespace)
    if more:
        cluster.apply(*more)
    waited = f"--timeout={ROLLOUT_SECONDS}s"
    cluster.kubectl("rollout", "status", "-n", namespace, f"deployment/{name}", waited, seconds=ROLLOUT_SECONDS + 10)
    spec = cluster.get("service", name, "-n", namespace)["spec"]
    address: str = spec["clusterIP"]
    # The proxy writes the node's rules a moment after the pod is ready.
    until(lambda: _listens(address, spec["ports"][0]["port"]), f"{name} to answer by its Service")
    return address


def _apply(cluster: Cluster, name: str, namespace: str) -> None:
    manifest = MANIFESTS / f"{name}.yaml"
    cluster.kubectl("apply", "--server-side", "--field-manager=tests", "--namespace", namespace, "-f", str(manifest))


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True
