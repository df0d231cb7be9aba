"""Nothing is lost while pods come and go: requests that fail, and transcripts that differ, in each kind of change.

    python benchmarks/nothing_lost.py benchmarks/results      (as root, after `make cluster-setup images`)

An AsrDeployment of the demo model serves from two CPU pods and more, under steady load by two ways: through the
headless Service, over whose pods gRPC balances, and through the Service's one address, by four connections. Nothing is
sent twice but in the case that says so. Each case lasts until all pods that it ends are gone. What a transcript should
be is what the same utterance gave alone, before. Node drain is acted by the eviction API, pod by pod as `kubectl drain`
does: the cluster has one node, and nobody else could take its pods. Writes `nothing_lost.json` and `nothing_lost.png`.
"""

import json
import os
import platform as machine_platform
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from tests.support import platform
from tests.support.fleet import Fleet, ready
from tests.support.load import Pcm, Sent, steady, utterances
from tests.support.platform import Speech
from tools.testcluster.cluster import CTR, Cluster
from tools.testcluster.images import reference
from tools.testcluster.machine import ClusterError, until

NAME, MODEL, NAMESPACE = "english", "english_stt", "speech"
OPERATOR = ("-n", platform.OPERATOR_NAMESPACE, "-l", "app.kubernetes.io/name=asr-operator")
CLIENTS, PAUSE_SECONDS = 4, 0.25
"""By each way. Two cores serve, measure and send: the load is steady, not heavy."""
QUIET_SECONDS = 10.0
"""Before a change, so that it meets connections of all ages, and after it."""
MODEL_SECONDS, OTHER_MODEL_SECONDS = 40, 39
"""Longest audio of the two artifacts: their recipes differ, their texts do not."""
Object = dict[str, Any]
console = Console(stderr=True, highlight=False)


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of change.

    Attributes:
        name: For the record.
        change: Makes it, and returns when it is over; what it returns is how many requests may fail.
        retries: How often a lost request is sent again.
    """

    name: str
    change: Callable[["Fleet"], int]
    retries: int = 0


@dataclass(slots=True)
class Watch:
    """How many pods there were: seconds, ready, starting, ending."""

    samples: list[tuple[float, int, int, int]] = field(default_factory=list)


def scale_up(fleet: Fleet) -> int:
    """From 2 to 4."""
    fleet.pool(replicas=4)
    fleet.settle(4)
    return 0


def scale_down(fleet: Fleet) -> int:
    """From 4 to 2."""
    fleet.pool(replicas=2)
    fleet.settle(2)
    return 0


def another_model(fleet: Fleet) -> int:
    """Another artifact, built before."""
    old = fleet.uids()
    fleet.apply(audio={"maxSeconds": OTHER_MODEL_SECONDS})
    fleet.settle(2, old)
    return 0


def another_image(fleet: Fleet) -> int:
    """The server's image by another name."""
    old, name = fleet.uids(), f"{reference('triton')}-next"
    with suppress(ClusterError):  # of a run before
        fleet.cluster.node(*CTR, "images", "tag", reference("triton"), name)
    fleet.apply(image={"triton": name, "tensorrt": "10.6.0"})
    fleet.settle(2, old)
    return 0


def another_template(fleet: Fleet) -> int:
    """Something else of the pods."""
    old = fleet.uids()
    fleet.pool(podAnnotations={"example.com/rolled": str(time.time())})
    fleet.settle(2, old)
    return 0


def pod_deletion(fleet: Fleet) -> int:
    """One of two pods is deleted."""
    fleet.settle(2, [fleet.delete_pod()])
    return 0


def node_drain(fleet: Fleet) -> int:
    """All pods are evicted, as far and as soon as the budget lets them."""
    old = fleet.uids()
    fleet.evict_all()
    fleet.settle(2, old)
    return 0


def operator_restart(fleet: Fleet) -> int:
    """The operator's pod is killed, and the next one works."""
    fleet.cluster.kubectl("delete", "pod", *OPERATOR, "--grace-period=0", "--force")
    fleet.cluster.kubectl("rollout", "status", "deployment", *OPERATOR, "--timeout=120s", seconds=130)
    time.sleep(QUIET_SECONDS)
    fleet.settle(2)
    return 0


def sigkill(fleet: Fleet) -> int:
    """The server of one of two pods is killed; its container starts again. What was in flight may fail."""
    in_flight = fleet.kill_server()
    until(lambda: not fleet.settled(2), "the kill to be seen", seconds=60)
    fleet.settle(2)
    return in_flight


CASES = (
    Case("scale-up", scale_up),
    Case("scale-down", scale_down),
    Case("rolling update of the model", another_model),
    Case("rolling update of the image", another_image),
    Case("rolling update of the pod template", another_template),
    Case("pod deletion", pod_deletion),
    Case("node drain", node_drain),
    Case("operator restart", operator_restart),
    Case("SIGKILL of a pod", sigkill),
    Case("SIGKILL of a pod, with retries", sigkill, retries=6),
)


@contextmanager
def watching(fleet: Fleet) -> Iterator[Watch]:
    """Count the pods while the block runs."""
    watch, ending, began = Watch(), threading.Event(), time.monotonic()

    def look() -> None:
        while not ending.wait(0.5):
            pods = fleet.pods()
            leaving = sum(pod.metadata.deletion_timestamp is not None for pod in pods)
            serving = sum(ready(pod) and pod.metadata.deletion_timestamp is None for pod in pods)
            sample = (serving, len(pods) - serving - leaving, leaving)
            if not watch.samples or watch.samples[-1][1:] != sample:
                watch.samples.append((round(time.monotonic() - began, 1), *sample))

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            yield watch
        finally:
            ending.set()
            looking.result()


def measure(fleet: Fleet, case: Case, signals: Sequence[Pcm], right: Sequence[str]) -> tuple[Object, list[Sent]]:
    """One case, its record and all requests."""
    began = time.monotonic()
    ways = fleet.addresses
    options: Object = {"in_flight": CLIENTS, "pause": PAUSE_SECONDS, "retries": case.retries, "signals": signals}
    with (
        watching(fleet) as watch,
        steady(ways["headless"], MODEL, **options) as headless,
        steady(ways["service"], MODEL, connections=CLIENTS, **options) as service,
    ):
        loads = {"headless": headless, "service": service}
        fleet.loads = list(loads.values())
        time.sleep(QUIET_SECONDS)
        changed = time.monotonic() - began
        expected = case.change(fleet)
        over = time.monotonic() - began
        time.sleep(QUIET_SECONDS)
    sent = sorted((item for load in loads.values() for item in load.sent), key=lambda item: item.at)
    seconds = [item.seconds * 1000 for item in sent if item.error is None]
    record = {
        "case": case.name,
        "requests": len(sent),
        "failed": sum(len(load.errors) for load in loads.values()),
        "wrong": sum(len(load.wrong(right)) for load in loads.values()),
        "expected_failed": 0 if case.retries else expected,
        "seconds": round(time.monotonic() - began, 1),
        "change_seconds": [round(changed, 1), round(over, 1)],
        "retries": case.retries,
        "sent_again": sum(load.retried for load in loads.values()),
        "by_way": {
            way: {"requests": len(load.sent), "failed": len(load.errors), "sent_again": load.retried}
            for way, load in loads.items()
        },
        "errors": dict(Counter(message[:200] for load in loads.values() for message in load.errors)),
        "p50_ms": round(float(np.percentile(seconds, 50))),
        "p99_ms": round(float(np.percentile(seconds, 99))),
        "longest_ms": round(max(seconds)),
        "replicas": [dict(zip(("at", "ready", "starting", "ending"), item, strict=True)) for item in watch.samples],
    }
    return record, sent


def prepare(cluster: Cluster) -> Fleet:
    """The operator, and the model served, with both artifacts built."""
    os.environ.update(cluster.environment)
    for name in platform.IMAGES:
        cluster.use_image(name)
    cluster.helm(*platform.INSTALL, seconds=200)
    fleet = Fleet(Speech(cluster, NAMESPACE, platform.add_namespace(cluster, NAMESPACE)), NAME)
    for seconds in (OTHER_MODEL_SECONDS, MODEL_SECONDS):
        fleet.apply(audio={"maxSeconds": seconds})
        fleet.speech.ready(NAME, seconds=900)
    fleet.settle(2)
    rate = fleet.speech.errors(NAME).rate
    console.print(f"both artifacts are built; word error rate on known speech {rate:.2%}")
    return fleet


def alone(address: str, signals: Sequence[Pcm]) -> list[str]:
    """What each utterance gives when nothing else is asked."""
    with steady(address, MODEL, in_flight=1, signals=signals) as load:
        until(lambda: len(load.sent) >= len(signals), "all utterances", seconds=120)
    assert load.errors == []
    texts = {item.utterance: item.text or "" for item in load.sent}
    return [texts[index] for index in range(len(signals))]


def main(
    results: Annotated[Path, typer.Argument(help="Folder for nothing_lost.json and .png.", file_okay=False)],
    only: Annotated[str | None, typer.Option(help="Cases with this in their name.")] = None,
    folder: Annotated[Path | None, typer.Option(help="State of a cluster that runs, and goes on running.")] = None,
) -> None:
    """Measure, and write the figures."""
    with tempfile.TemporaryDirectory(prefix="asr-benchmark-") as temporary:
        if folder is not None:
            run(Cluster(folder), results, only)
        else:
            with Cluster(Path(temporary) / "cluster") as cluster:
                run(cluster, results, only)


def run(cluster: Cluster, results: Path, only: str | None) -> None:
    """All cases on a cluster; each is written as soon as it is over."""
    fleet = prepare(cluster)
    signals = utterances(32, seed=11, shortest=2, longest=8)
    right = alone(fleet.addresses["headless"], signals)
    records: list[Object] = []
    requests: list[list[Sent]] = []
    for case in CASES:
        if only is not None and only not in case.name:
            continue
        record, sent = measure(fleet, case, signals, right)
        records.append(record)
        requests.append(sent)
        told = {key: record[key] for key in ("requests", "failed", "wrong", "expected_failed", "seconds", "errors")}
        console.print(f"{case.name}: {told}")
        found = {
            "command": "python benchmarks/nothing_lost.py benchmarks/results",
            "machine": f"{os.cpu_count()} cores, {machine_platform.machine()}, shared; one node, server and load on it",
            "load": f"{2 * CLIENTS} clients by two ways, a pause of {PAUSE_SECONDS} s after each answer",
            "cases": records,
        }
        (results / "nothing_lost.json").write_text(json.dumps(found, indent=1) + "\n")
        draw(records, requests, results / "nothing_lost.png")


def draw(records: Sequence[Object], requests: Sequence[Sequence[Sent]], path: Path) -> None:
    """A time-line for each case: pods, answers a second, failures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(13, 2.1 * len(records)), layout="constrained")
    FigureCanvasAgg(figure)
    colours = {"ready": "tab:green", "starting": "tab:orange", "ending": "tab:gray"}
    for axis, record, sent in zip(figure.subplots(len(records), squeeze=False)[:, 0], records, requests, strict=True):
        end = record["seconds"]
        at = [sample["at"] for sample in record["replicas"]] + [end]
        for kind, colour in colours.items():
            counts = [sample[kind] for sample in record["replicas"]]
            axis.step(at, [*counts, counts[-1]], where="post", color=colour, label=f"pods {kind}")
        axis.axvspan(*record["change_seconds"], color="tab:blue", alpha=0.08)
        axis.set(xlim=(0, end), ylim=(0, 6.5), ylabel="pods")
        rate = axis.twinx()
        good = [item.at for item in sent if item.error is None]
        bins = np.arange(0, end + 2, 2)
        rate.step(bins[:-1], np.histogram(good, bins)[0] / 2, where="post", color="tab:blue", alpha=0.5)
        rate.set(ylabel="answers/s", ylim=(0, None))
        for colour, chosen in (
            ("tab:red", [item.at for item in sent if item.error is not None]),
            ("tab:purple", [item.at for item in sent if item.error is None and item.retries]),
        ):
            axis.plot(chosen, [6.0] * len(chosen), "x", color=colour)
        axis.set_title(
            f"{record['case']}: {record['requests']} requests, {record['failed']} failed, {record['wrong']} wrong"
            + (f", {record['sent_again']} sent again" if record["retries"] else ""),
            loc="left",
            fontsize=10,
        )
    figure.axes[0].legend(loc="upper right", ncols=3, fontsize=8)
    figure.axes[-2].set_xlabel("seconds; shaded: the change; x red: failed, purple: sent again and answered")
    figure.savefig(path, format="png", dpi=90)


if __name__ == "__main__":
    typer.run(main)
