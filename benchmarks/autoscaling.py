"""Replicas follow the load: KEDA and Prometheus scale a pool of the demo model under a load that quadruples and ends.

    python benchmarks/autoscaling.py benchmarks/results      (as root, after `make benchmark-tools images`)

Clients that wait two seconds after each answer send utterances of 2 to 8 s through the headless Service, over whose
pods gRPC balances; the load is what they say in a second. First a few, then four times as many, then Prometheus is away
while they go on, then few again. What a transcript should be is what the same utterance gave alone, before. How the
load is spread over the pods is read from their own counters, from when all have had time to be found. Nothing is sent
twice. Writes `autoscaling.json` and `autoscaling.png`.
"""

import json
import os
import platform as machine_platform
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import kubernetes
import numpy as np
import typer
from rich.console import Console

from benchmarks.nothing_lost import alone
from tests.support import platform
from tests.support.fleet import Fleet, ready
from tests.support.load import Load, Sent, steady, utterances
from tests.support.platform import Speech
from tools.testcluster import services
from tools.testcluster.cluster import Cluster
from tools.testcluster.machine import until
from tools.testcluster.services import Prometheus

NAME, MODEL, NAMESPACE, DEPLOYMENT = "english", "english_stt", "speech", "english-cpu"
FEW, MANY = 2, 8
"""Clients. Two cores serve, measure and send: the load is small, and so is the target."""
PAUSE_SECONDS = 2.0
UTTERANCES = 31
"""A prime, so that pods that take turns do not each get the same ones again and again."""
TARGET = 5
"""Audio seconds a second that each pod should have."""
BEFORE_SECONDS, AWAY_SECONDS, SPREAD_SECONDS = 45.0, 100.0, 90.0
FOUND_SECONDS = 60.0
"""Until when clients have found new pods: connections are asked to be left each half a minute."""
FORGOTTEN_SECONDS = 75.0
"""Until nothing of a former load is in the rate."""
PATIENCE_SECONDS = 420.0
POOL = {
    "name": "cpu",
    "resources": {"requests": {"cpu": "100m"}},
    "batching": {"instances": 1},
    "autoscaling": {
        "minReplicas": 1,
        "maxReplicas": 6,
        "provider": "KEDA",
        "target": {"audioSecondsPerSecond": TARGET},
        # Quicker than by default, so that the run takes minutes; up is as it is by default.
        "behavior": {
            "scaleDown": {
                # A Prometheus that has lost its data takes a minute to see the whole load again.
                "stabilizationWindowSeconds": 60,
                "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}],
            }
        },
    },
}
Object = dict[str, Any]
console = Console(stderr=True, highlight=False)


@dataclass(slots=True)
class Run:
    """What happened, in seconds since it began.

    Attributes:
        began: On the monotonic clock.
        pods: At each change: time, replicas wanted, pods ready, starting, ending.
        sent: When each request was answered, and what became of it.
        cases: Records of what is over.
    """

    began: float = field(default_factory=time.monotonic)
    pods: list[tuple[float, int, int, int, int]] = field(default_factory=list)
    loads: list[tuple[float, Load]] = field(default_factory=list)
    cases: list[Object] = field(default_factory=list)

    def now(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self.began

    @property
    def sent(self) -> list[tuple[float, Sent]]:
        """All requests, by the time of their end."""
        found = [(began + item.at, item) for began, load in self.loads for item in load.sent]
        return sorted(found, key=lambda pair: pair[0])

    def ready(self) -> int:
        """Pods that serve now."""
        return self.pods[-1][2] if self.pods else 0


class Pool(Fleet):
    """The served pool, on a cluster with Prometheus and KEDA."""

    def __init__(self, speech: Speech, prometheus: Prometheus) -> None:
        super().__init__(speech, NAME)
        self.prometheus = prometheus
        self.apps = kubernetes.client.AppsV1Api(self.core.api_client)

    def sample(self) -> tuple[int, int, int, int]:
        """Replicas wanted; pods that are ready, start, end."""
        wanted = self.apps.read_namespaced_deployment(DEPLOYMENT, NAMESPACE).spec.replicas
        pods = self.pods()
        ending = sum(pod.metadata.deletion_timestamp is not None for pod in pods)
        serving = sum(pod.metadata.deletion_timestamp is None and ready(pod) for pod in pods)
        return wanted, serving, len(pods) - serving - ending, ending

    def spread(self, seconds: float) -> dict[str, float]:
        """Audio seconds that each pod has transcribed in this time, by its own counter."""
        query = f'sum by (pod) (increase(asr_audio_seconds_total{{namespace="{NAMESPACE}"}}[{round(seconds)}s]))'
        return {item["metric"]["pod"]: round(float(item["value"][1]), 1) for item in self.prometheus.query(query)}

    def scale_prometheus(self, replicas: int) -> None:
        """Take it away, or bring it back."""
        self.cluster.kubectl("scale", "deployment", "prometheus", "-n", "monitoring", f"--replicas={replicas}")


@contextmanager
def watching(pool: Pool, run: Run) -> Iterator[None]:
    """Note the pods while the block runs."""
    ending = threading.Event()

    def look() -> None:
        while not ending.wait(0.5):
            sample = pool.sample()
            if not run.pods or run.pods[-1][1:] != sample:
                run.pods.append((round(run.now(), 1), *sample))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def prepare(cluster: Cluster) -> Pool:
    """Prometheus, KEDA, the operator, and the model served by one pod."""
    os.environ.update(cluster.environment)
    for name in platform.IMAGES:
        cluster.use_image(name)
    prometheus = services.start_prometheus(cluster)
    services.start_keda(cluster)
    console.print("KEDA answers")
    cluster.helm(*platform.INSTALL, "--set", f"settings.keda.prometheusAddress={prometheus.address}", seconds=200)
    speech = Speech(cluster, NAMESPACE, platform.add_namespace(cluster, NAMESPACE))
    speech.apply(NAME, pools=[POOL])
    speech.ready(NAME, seconds=900)
    pool = Pool(speech, prometheus)
    until(lambda: pool.sample() == (1, 1, 0, 0), "one pod", seconds=PATIENCE_SECONDS)
    condition = ("--for=condition=Ready", f"scaledobject/{DEPLOYMENT}", "-n", NAMESPACE, "--timeout=120s")
    cluster.kubectl("wait", *condition, seconds=130)
    return pool


def record(run: Run, case: str, since: float, right: Sequence[str], **more: object) -> None:
    """Write down a case that began at `since` and is over now."""
    until_now = run.now()
    sent = [item for at, item in run.sent if since <= at < until_now]
    before = [sample for sample in run.pods if sample[0] <= since][-1:]
    samples = before + [sample for sample in run.pods if since < sample[0] < until_now]
    keys = ("at", "wanted", "ready", "starting", "ending")
    found: Object = {
        "case": case,
        "requests": len(sent),
        "failed": sum(item.error is not None for item in sent),
        "wrong": sum(item.text is not None and item.text != right[item.utterance] for item in sent),
        "expected_failed": 0,
        "at": round(since, 1),
        "seconds": round(until_now - since, 1),
        "p50_ms": round(1000 * float(np.percentile([item.seconds for item in sent], 50))),
        "p99_ms": round(1000 * float(np.percentile([item.seconds for item in sent], 99))),
        "errors": sorted({item.error[:200] for item in sent if item.error is not None}),
        "replicas": [dict(zip(keys, sample, strict=True)) for sample in samples],
        **more,
    }
    run.cases.append(found)
    console.print({key: value for key, value in found.items() if key != "replicas"})


def measure(pool: Pool, results: Path) -> None:
    """All cases, with the few clients there all the time; each is written as soon as it is over."""
    signals = utterances(UTTERANCES, seed=11, shortest=2, longest=8)
    address = pool.addresses["headless"]
    right = alone(address, signals)
    time.sleep(FORGOTTEN_SECONDS)
    run = Run()
    options: Object = {"pause": PAUSE_SECONDS, "signals": signals}
    with watching(pool, run), steady(address, MODEL, in_flight=FEW, **options) as few:
        run.loads.append((run.now(), few))
        time.sleep(BEFORE_SECONDS)
        record(run, "few clients", 0.0, right)
        write(run, results)
        quadrupled = run.now()
        with steady(address, MODEL, in_flight=MANY - FEW, **options) as many:
            run.loads.append((run.now(), many))
            wanted = MANY // FEW
            until(lambda: run.ready() >= wanted, f"{wanted} pods", seconds=PATIENCE_SECONDS)
            followed = run.now() - quadrupled
            time.sleep(FOUND_SECONDS + SPREAD_SECONDS)
            spread = pool.spread(SPREAD_SECONDS)
            served = [value for value in spread.values() if value > 0]
            apart = (max(served) - min(served)) / (sum(served) / len(served))
            record(
                run,
                "the load quadruples",
                quadrupled,
                right,
                followed_seconds=round(followed, 1),
                audio_seconds_by_pod=spread,
                spread_percent=round(100 * apart, 1),
            )
            write(run, results)
            away = run.now()
            pool.scale_prometheus(0)
            time.sleep(AWAY_SECONDS)
            since = [sample for sample in run.pods if sample[0] > away]
            least = min([run.pods[-1][1], *(sample[1] for sample in since)])
            pool.scale_prometheus(1)
            record(run, "Prometheus is away", away, right, fewest_replicas_wanted=least)
            write(run, results)
            time.sleep(90)  # its data went with it
        fell = run.now()
        until(lambda: run.ready() == 1, "one pod", seconds=PATIENCE_SECONDS)
        came_down = run.now() - fell
        until(lambda: run.pods[-1][1:] == (1, 1, 0, 0), "the others to have ended", seconds=PATIENCE_SECONDS)
        time.sleep(10)
        record(run, "the load falls to a quarter", fell, right, followed_seconds=round(came_down, 1))
    write(run, results)


def main(
    results: Annotated[Path, typer.Argument(help="Folder for autoscaling.json and .png.", file_okay=False)],
    folder: Annotated[Path | None, typer.Option(help="State of a cluster that runs, and goes on running.")] = None,
) -> None:
    """Measure, and write the figures."""
    with tempfile.TemporaryDirectory(prefix="asr-benchmark-") as temporary:
        if folder is not None:
            measure(prepare(Cluster(folder)), results)
        else:
            with Cluster(Path(temporary) / "cluster") as cluster:
                measure(prepare(cluster), results)


def write(run: Run, results: Path) -> None:
    """What is known so far."""
    found = {
        "command": "python benchmarks/autoscaling.py benchmarks/results",
        "machine": f"{os.cpu_count()} cores, {machine_platform.machine()}, shared; one node, server and load on it",
        "load_average": os.getloadavg()[0],
        "load": f"{FEW}, then {MANY}, then {FEW} clients, each with {PAUSE_SECONDS:g} s between answer and request",
        "pool": POOL,
        "cases": run.cases,
    }
    (results / "autoscaling.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(run, results / "autoscaling.png")


def draw(run: Run, path: Path) -> None:
    """One time-line: replicas, audio seconds a second, latency, failures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(13, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    pods, latency = figure.subplots(2, 1, sharex=True)
    end = max(case["at"] + case["seconds"] for case in run.cases)
    times = [sample[0] for sample in run.pods] + [end]
    for index, (label, colour) in enumerate(
        (("replicas wanted", "black"), ("pods ready", "tab:green"), ("starting", "tab:orange"), ("ending", "tab:gray"))
    ):
        counts = [sample[index + 1] for sample in run.pods]
        pods.step(times, [*counts, counts[-1]], where="post", color=colour, label=label, ls="--" if index == 0 else "-")
    pods.set(ylabel="pods", ylim=(0, 8), xlim=(0, end))
    sent = run.sent
    bins = np.arange(0, end + 5, 5)
    rate = pods.twinx()
    answered = [at for at, item in sent if item.error is None]
    rate.step(bins[:-1], np.histogram(answered, bins)[0] / 5, where="post", color="tab:blue", alpha=0.5)
    rate.set(ylabel="answers/s", ylim=(0, 6))
    pods.legend(loc="center right", fontsize=8)
    latency.plot(answered, [1000 * item.seconds for _, item in sent if item.error is None], ".", ms=2, color="tab:blue")
    failed = [at for at, item in sent if item.error is not None]
    latency.plot(failed, [10.0] * len(failed), "x", color="tab:red")
    latency.set(yscale="log", ylabel="ms to the answer", xlabel="seconds; x: failed")
    for number, case in enumerate(run.cases):
        for axis in (pods, latency):
            axis.axvline(case["at"], color="tab:purple", alpha=0.4)
        told = f"{case['case']}: {case['failed']} failed, {case['wrong']} wrong"
        pods.text(case["at"] + 2, 7.5 - number % 2 * 0.6, told, fontsize=8)
    figure.savefig(path, format="png", dpi=90)


if __name__ == "__main__":
    typer.run(main)
