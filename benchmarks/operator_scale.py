"""The operator over many resources, on a real API server.

    python benchmarks/operator_scale.py benchmarks/results --resources 1000

Each resource has a Job, a Deployment, two Services and a budget of its own. What controllers and kubelets do is acted:
they would need longer than the operator, and its CPU. Measured are memory and CPU of the operator's process without
resources, while everything settles, settled, after a restart, and while every resource changes; and by the API server's
audit log, what it writes. Seconds are those of the machine as it was, API server and acting on the same cores; its load
is told beside them. Writes `operator_scale.json` and `operator_scale.png`.
"""

import json
import os
import platform
import re
import secrets
import signal
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import kubernetes
import typer
from kubernetes.dynamic import DynamicClient
from rich.console import Console

from asr_operator import crd, names
from asr_operator.api import v1alpha1 as api
from asr_operator.cluster import KINDS, RESOURCE
from tests.support.operator import Operator, manifest
from tools.testcluster.cluster import ApiServer
from tools.testcluster.machine import until

NAMESPACES = 10
THREADS = 16
IDLE_SECONDS, SETTLED_SECONDS, AFTERWARDS_SECONDS = 20, 90, 30
RESYNC_SECONDS = 60
"""Ten times as often as by default, so that some lie within the measured time."""
POLL_SECONDS = 2
PATIENCE_SECONDS = 900
SCRAPES = 10
METRICS = (
    "asr_operator_reconcile_seconds_bucket",
    "asr_operator_reconcile_seconds_count",
    "asr_operator_queue_depth",
    "asr_operator_last_sync_timestamp_seconds",
)
DIGEST = "a" * 64
Object = dict[str, Any]
console = Console(stderr=True, highlight=False)


class Fleet:
    """All resources, and what is acted around them."""

    def __init__(self, server: ApiServer, resources: int) -> None:
        self.server, self.resources = server, resources
        os.environ.update(server.environment)
        configuration = kubernetes.client.Configuration()
        kubernetes.config.load_kube_config(str(server.kubeconfig), client_configuration=configuration)
        configuration.connection_pool_maxsize = THREADS
        self.client = DynamicClient(kubernetes.client.ApiClient(configuration), discoverer=lambda *_: None)
        self.namespaces = [f"bench-{number}" for number in range(NAMESPACES)]

    def ask(self, method: str, path: str, body: object = None, **query: str) -> Any:  # noqa: ANN401 (any JSON)
        """A request as plain as it can be: this program and the operator share the machine."""
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        response = self.client.request(
            method,
            path,
            body=body,
            query_params=list(query.items()),
            header_params={},
            content_type=content,
            serialize=False,
        )
        return json.loads(response.data)

    def each(self, work: Callable[[Any], object], items: Iterable[Any]) -> None:
        """Do it for all, many at once; fails when one fails."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, items))

    def prepare(self) -> None:
        """Namespaces with their service accounts; afterwards no controller and no scheduler takes part."""
        for name in self.namespaces:
            self.server.kubectl("create", "namespace", name)
        for name in self.namespaces:
            until(lambda name=name: self.server.get("serviceaccounts", "-n", name)["items"], "the service account")  # type: ignore[misc]
        for component in ("kube-controller-manager", "kube-scheduler"):
            os.kill(self.server.pid(component), signal.SIGSTOP)

    def create(self) -> None:
        """Create all resources, each with a checkpoint of its own."""

        def create(number: int) -> None:
            source = {"objectStore": {"uri": f"s3://models/{number}.nemo"}}
            namespace = self.namespaces[number % NAMESPACES]
            body = manifest(namespace, f"model-{number}", model={"name": f"model_{number}", "source": source})
            self.ask("POST", RESOURCE.path(namespace), body)

        self.each(create, range(self.resources))

    def all(self, kind: str) -> list[Object]:
        """The operator's objects of a kind, out of the API server's cache."""
        query = {"resourceVersion": "0"} | ({"labelSelector": names.MANAGED} if KINDS[kind].selected else {})
        return list(self.ask("GET", KINDS[kind].path(), **query)["items"])

    def until_all(self, count: Callable[[], int], what: str) -> None:
        """Wait until it is all resources; asked seldom, for it costs both sides."""

        def there() -> bool:
            time.sleep(POLL_SECONDS)
            return count() == self.resources

        until(there, what, seconds=PATIENCE_SECONDS)

    def build(self) -> None:
        """All Jobs end well, and their pods say what they have published."""
        now = stamp()

        def end(job: Object) -> None:
            name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
            digest = secrets.token_hex(32)
            told = {"engine": "OnnxRuntime", "manifestSha256": digest, "uri": f"s3://asr-models/prod/{digest}"}
            owner = {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": name,
                "uid": job["metadata"]["uid"],
                "controller": True,
            }
            labels = job["spec"]["template"]["metadata"]["labels"] | {"batch.kubernetes.io/job-name": name}
            self.pod(namespace, f"{name}-1", labels, {}, owner)
            ended = {"exitCode": 0, "reason": "Completed", "message": json.dumps(told), "finishedAt": now}
            status = {"phase": "Succeeded", "containerStatuses": [container("build", {"terminated": ended})]}
            self.ask("PATCH", KINDS["Pod"].path(namespace, f"{name}-1", "status"), {"status": status})
            conditions = [condition("SuccessCriteriaMet", now), condition("Complete", now)]
            done = {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": conditions}
            self.ask("PATCH", KINDS["Job"].path(namespace, name, "status"), {"status": done})

        self.each(end, self.all("Job"))

    def serve(self) -> None:
        """All pods of Deployments as they are now are ready."""

        def ready(deployment: Object) -> None:
            name, namespace = deployment["metadata"]["name"], deployment["metadata"]["namespace"]
            template = deployment["spec"]["template"]["metadata"]
            pod = f"{name}-{template['annotations'][names.REVISION_ANNOTATION]}"
            self.pod(namespace, pod, template["labels"], template["annotations"], None)
            status: Object = {
                "phase": "Running",
                "conditions": [condition("Ready", stamp())],
                "containerStatuses": [container("triton", {"running": {}}, ready=True)],
            }
            self.ask("PATCH", KINDS["Pod"].path(namespace, pod, "status"), {"status": status})
            counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
            progressing = condition("Progressing", stamp()) | {"reason": "NewReplicaSetAvailable"}
            whole: Object = dict(counts) | {
                "observedGeneration": deployment["metadata"]["generation"],
                "conditions": [progressing],
            }
            self.ask("PATCH", KINDS["Deployment"].path(namespace, name, "status"), {"status": whole})

        self.each(ready, self.all("Deployment"))

    def pod(self, namespace: str, name: str, labels: Object, annotations: Object, owner: Object | None) -> None:
        """A pod as small as it can be."""
        metadata: Object = {"name": name, "labels": labels, "annotations": annotations}
        metadata |= {"ownerReferences": [owner]} if owner else {}
        spec = {"containers": [{"name": "x", "image": "none"}]}
        self.ask("POST", KINDS["Pod"].path(namespace), {"metadata": metadata, "spec": spec})

    def change(self) -> None:
        """Change every resource, so that its pods change."""

        def change(number: int) -> None:
            namespace = self.namespaces[number % NAMESPACES]
            patch = {"spec": {"pools": [{"name": "cpu", "podLabels": {"changed": "yes"}}]}}
            self.ask("PATCH", RESOURCE.path(namespace, f"model-{number}"), patch)

        self.each(change, range(self.resources))

    def ready(self) -> int:
        """How many resources are Ready in their newest generation."""
        return sum(
            item["type"] == "Ready"
            and item["status"] == "True"
            and item["observedGeneration"] == each["metadata"]["generation"]
            for each in self.all(api.KIND)
            for item in each.get("status", {}).get("conditions", ())
        )

    def all_ready(self) -> None:
        self.until_all(self.ready, "all to be ready")

    def writes(self) -> Counter[str]:
        """What the operator has asked to change so far: by verb and kind."""
        return Counter(
            f"{item['verb']} {item['objectRef']['resource']}"
            + (f"/{item['objectRef']['subresource']}" if "subresource" in item["objectRef"] else "")
            for item in self.server.writes()
            if item.get("userAgent") == names.OPERATOR
        )

    def answers(self, after: int) -> Object:
        """How long the API server itself took for what the operator asked it to change, by the audit log."""
        seconds = sorted(
            (datetime.fromisoformat(item["stageTimestamp"]) - datetime.fromisoformat(item["requestReceivedTimestamp"]))
            / timedelta(seconds=1)
            for item in self.server.writes()[after:]
            if item.get("userAgent") == names.OPERATOR
        )
        return {f"p{share}_of_an_answer_seconds": round(seconds[len(seconds) * share // 100], 3) for share in (50, 99)}


def stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, now: str) -> Object:
    return {"type": kind, "status": "True", "lastTransitionTime": now, "lastProbeTime": None}


def container(name: str, state: Object, *, ready: bool = False) -> Object:
    return {"name": name, "image": "x", "imageID": "x", "restartCount": 0, "ready": ready, "state": state}


class Watch:
    """What the operator's process uses, from one moment to another."""

    def __init__(self, operator: Operator) -> None:
        assert operator.process is not None
        self.operator, self.pid = operator, operator.process.pid
        self.began, self.cpu = time.monotonic(), self.seconds()

    def seconds(self) -> float:
        """Of CPU, so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def told(self) -> Object:
        """Since the beginning."""
        passed = time.monotonic() - self.began
        status = Path(f"/proc/{self.pid}/status").read_text()
        kib = {name: int(found) for name, found in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE)}
        return {
            "seconds": round(passed, 1),
            "cpu_seconds": round(self.seconds() - self.cpu, 1),
            "cpu_percent_of_a_core": round(100 * (self.seconds() - self.cpu) / passed, 2),
            "memory_mib": round(kib["VmRSS"] / 1024, 1),
            "memory_mib_at_most": round(kib["VmHWM"] / 1024, 1),
            "load": round(os.getloadavg()[0], 1),
        }


def metrics(operator: Operator) -> str:
    """Those of the operator's metrics that are asked for here; all of them would cost it more than a pass."""
    return scrape(operator, "&".join(f"name[]={name}" for name in METRICS))


def scrape(operator: Operator, query: str = "") -> str:
    """What Prometheus gets."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{operator.metrics}/metrics?{query}", timeout=60) as response:
            return str(response.read().decode())
    except OSError:
        return ""  # not up yet


def value(text: str, name: str) -> float:
    """Of a metric without labels; 0 when it is not there."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def passes(before: str, after: str) -> Object:
    """Durations of the passes between two readings, by the histogram's buckets."""
    name = "asr_operator_reconcile_seconds"
    buckets = {}
    for edge, count in re.findall(rf'^{name}_bucket{{le="([^"]+)"}} (\S+)$', after, re.MULTILINE):
        former = re.search(rf'^{name}_bucket{{le="{re.escape(edge)}"}} (\S+)$', before, re.MULTILINE)
        buckets[float(edge)] = float(count) - (float(former[1]) if former else 0.0)
    total = buckets[float("inf")]
    below = {
        f"p{share}_at_most_seconds": next(
            edge for edge, count in sorted(buckets.items()) if count >= total * share / 100
        )
        for share in (50, 99)
    }
    return {"passes": int(total)} | below


def idle(operator: Operator) -> bool:
    """Whether every known resource has been looked at, and none waits."""
    text = metrics(operator)
    return value(text, "asr_operator_queue_depth") == 0 and bool(
        value(text, "asr_operator_last_sync_timestamp_seconds")
    )


def main(
    folder: Annotated[Path, typer.Argument(help="For operator_scale.json and .png.", file_okay=False)],
    resources: Annotated[int, typer.Option(min=10)] = 1000,
) -> None:
    """Measure, and write the figures."""
    found: Object = {
        "command": f"python benchmarks/operator_scale.py benchmarks/results --resources {resources}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "resources": resources,
    }
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an image has its bytecode; else each start compiles everything
    with tempfile.TemporaryDirectory() as temporary, ApiServer(Path(temporary) / "server") as server:
        server.kubectl("apply", "--server-side", "-f", "-", stdin=crd.to_yaml())
        server.wait_for_definitions()
        fleet = Fleet(server, resources)
        fleet.prepare()
        operator = Operator(server, Path(temporary) / "operator", resyncSeconds=RESYNC_SECONDS)
        operator.start()
        try:
            measure(fleet, operator, found)
        finally:
            operator.stop()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "operator_scale.json").write_text(json.dumps(found, indent=1) + "\n")
    plot(found, folder / "operator_scale.png")
    console.print_json(data=found)


def measure(fleet: Fleet, operator: Operator, found: Object) -> None:
    """All phases, one after another."""
    until(lambda: idle(operator), "the operator")
    watch = Watch(operator)
    time.sleep(IDLE_SECONDS)
    found["without_resources"] = told(watch)

    watch = Watch(operator)
    fleet.create()
    fleet.until_all(lambda: len(fleet.all("Job")), "all Jobs")
    found["created_to_jobs"] = told(watch)

    watch, before = Watch(operator), metrics(operator)
    fleet.build()
    fleet.until_all(lambda: len(fleet.all("Deployment")), "all Deployments")
    fleet.serve()
    fleet.all_ready()
    found["built_to_ready"] = told(watch) | passes(before, metrics(operator))

    until(lambda: idle(operator), "the queue to be empty")
    time.sleep(5)
    watch, before, written = Watch(operator), metrics(operator), fleet.writes()
    time.sleep(SETTLED_SECONDS)
    settled = dict(fleet.writes() - written)
    found["settled"] = told(watch) | passes(before, metrics(operator)) | {"mutating_requests": settled}

    watch = Watch(operator)
    sizes = [len(scrape(operator)) for _ in range(SCRAPES)]
    found["scrape"] = {"bytes": sizes[-1], "cpu_seconds": round((watch.seconds() - watch.cpu) / SCRAPES, 3)}

    written = fleet.writes()
    operator.kill()
    operator.start()
    watch = Watch(operator)
    until(
        lambda: value(metrics(operator), "asr_operator_reconcile_seconds_count") >= fleet.resources and idle(operator),
        "every resource to be looked at",
        seconds=PATIENCE_SECONDS,
    )
    found["restart_to_settled"] = told(watch)
    time.sleep(AFTERWARDS_SECONDS)
    # kopf lists everything once more; what it finds is no news.
    afterwards = {f"{name}_afterwards": watch.told()[name] for name in ("cpu_seconds", "memory_mib")}
    found["restart_to_settled"] |= afterwards | {"mutating_requests": dict(fleet.writes() - written)}

    watch, before, written, audited = Watch(operator), metrics(operator), fleet.writes(), len(fleet.server.writes())
    fleet.change()
    fleet.until_all(lambda: changed(fleet), "every Deployment to change")
    rolled = told(watch)
    fleet.serve()
    fleet.all_ready()
    after = metrics(operator)
    found["change_to_all"] = rolled | passes(before, after) | fleet.answers(audited)
    found["change_to_all"]["mutating_requests"] = dict(fleet.writes() - written)


def changed(fleet: Fleet) -> int:
    """Deployments whose pods are to have the new label."""
    return sum("changed" in item["spec"]["template"]["metadata"]["labels"] for item in fleet.all("Deployment"))


def told(watch: Watch) -> Object:
    """Print and return."""
    figures = watch.told()
    console.print(figures)
    return figures


def plot(found: Object, path: Path) -> None:
    """CPU for each resource and memory, phase by phase."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    phases = [name for name, figures in found.items() if isinstance(figures, dict) and "memory_mib" in figures]
    titles = [name.replace("_", " ") for name in phases]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.5), sharey=True)
    left.barh(titles, [1000 * found[name]["cpu_seconds"] / found["resources"] for name in phases])
    left.set_xlabel("operator's CPU, milliseconds a resource")
    right.barh(titles, [found[name]["memory_mib_at_most"] for name in phases], color="tab:orange")
    right.set_xlabel("operator's memory at most, MiB")
    left.invert_yaxis()
    figure.suptitle(f"{found['resources']} AsrDeployments, {found['machine']}")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    typer.run(main)
