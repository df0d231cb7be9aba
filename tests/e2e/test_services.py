"""S3 and Prometheus work in the cluster as demo and tests need them."""

import sys

from tools.testcluster import machine, services
from tools.testcluster.cluster import Cluster
from tools.testcluster.machine import until
from tools.testcluster.pods import pod, pod_spec, run_to_end

PUT_AND_GET = """
import os
from obstore.store import S3Store
store = S3Store("asr-models", client_options={"allow_http": True})
store.put("from/a/pod", b"hello")
print(bytes(store.get("from/a/pod").bytes()).decode(), [each["path"] for each in store.list().collect()])
"""
METRICS = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(b"# TYPE answers_total counter\\nanswers_total 42\\n")
http.server.HTTPServer(("", 8002), Handler).serve_forever()
"""


def test_a_pod_puts_and_gets_an_object_through_the_service(cluster: Cluster, namespace: str) -> None:
    found = services.start_s3(cluster, namespace)
    spec = pod_spec(cluster.use_image("operator"), "python", "-c", PUT_AND_GET)
    spec["containers"][0]["envFrom"] = [{"secretRef": {"name": found.secret}}]
    assert run_to_end(cluster, namespace, "client", spec) == "hello ['from/a/pod']\n"


def test_a_program_on_the_host_puts_and_gets_an_object(cluster: Cluster, namespace: str) -> None:
    found = services.start_s3(cluster, namespace)
    script = PUT_AND_GET.replace("from/a/pod", "from/the/host")
    assert machine.run([sys.executable, "-c", script], environment=found.environment) == "hello ['from/the/host']\n"


def test_prometheus_scrapes_each_port_that_is_named_metrics(cluster: Cluster, namespace: str) -> None:
    prometheus = services.start_prometheus(cluster)
    spec = pod_spec(cluster.use_image("base"), "python3", "-c", METRICS)
    spec["containers"][0]["ports"] = [{"name": "metrics", "containerPort": 8002}]
    cluster.apply(pod("counts", namespace, spec))
    (found,) = until(lambda: prometheus.query(f'answers_total{{namespace="{namespace}"}}'), "the metric")
    assert (found["metric"]["pod"], found["value"][1]) == ("counts", "42")
