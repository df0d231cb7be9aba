"""What Prometheus can ask about each AsrDeployment: read from the store at each scrape, nothing is kept in step."""

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from kubernetes.utils.quantity import parse_quantity
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from asr_contract import telemetry
from asr_operator import conditions, lifetime, metrics, names
from asr_operator.api import v1alpha1 as api
from asr_operator.observe import time_of
from asr_operator.store import Key, Store, key_of

Object = dict[str, Any]
LOG = logging.getLogger(__name__)

RESOURCE_LABELS = ("namespace", "name")
POOL_LABELS = (*RESOURCE_LABELS, "pool")
CPU = "cpuUtilizationPercent"
SIGNALS = {names.AUDIO_RATE_METRIC: "audioSecondsPerSecond", names.PENDING_METRIC: "pendingRequests"}
"""Of autoscalers, by the metric that they read."""


class Fleet(Collector):
    """Gauges of all resources, and what was seen to happen to their pods and builds since this object was made.

    What happened before, a former operator has told: counted again, it would look like news.

    Args:
        store: What is known of the cluster.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._since = datetime.now(UTC).replace(microsecond=0)
        self._lock = threading.Lock()
        self._counted: dict[str, set[str]] = {"start": set(), "end": set(), "build": set()}
        """Uids of what has been counted."""
        self._undrained: Counter[Key] = Counter()
        for phase in lifetime.Start:
            metrics.STARTS.labels(phase)

    def see(self, kind: str, body: Object, *, gone: bool) -> None:
        """An object of ours has come, changed or gone; it may be told more than once."""
        if kind == "Job":
            self._see_job(body)
        elif kind == "Pod" and names.POOL_LABEL in body["metadata"].get("labels", {}):
            self._see_server(body, gone=gone)
        if gone:
            uid = body["metadata"]["uid"]
            for counted in self._counted.values():
                counted.discard(uid)

    def _see_job(self, job: Object) -> None:
        found = lifetime.build_of(job, since=self._since)
        if found is not None and self._first("build", job):
            succeeded, seconds = found
            metrics.BUILDS.labels("success" if succeeded else "error").observe(seconds)

    def _see_server(self, pod: Object, *, gone: bool) -> None:
        metadata = pod["metadata"]
        created = time_of(metadata.get("creationTimestamp"))
        start = lifetime.start_of(pod)
        if start is not None and created is not None and created >= self._since and self._first("start", pod):
            for phase, seconds in start.items():
                metrics.STARTS.labels(phase).observe(seconds)
        end = lifetime.end_of(pod, gone=gone, since=self._since)
        if end is not None and self._first("end", pod):
            LOG.warning("pod %s/%s ended without draining: %s", metadata["namespace"], metadata["name"], end)
            with self._lock:
                self._undrained[metadata["namespace"], metadata["labels"].get(names.INSTANCE_LABEL, "")] += 1

    def _first(self, what: str, body: Object) -> bool:
        """Whether this is told of this object for the first time."""
        uid = body["metadata"]["uid"]
        first = uid not in self._counted[what]
        self._counted[what].add(uid)
        return first

    def collect(self) -> Iterable[Metric]:
        """All metrics, as they are now."""
        yield from _conditions(self._all(api.KIND))
        autoscalers = itertools.chain(self._all("HorizontalPodAutoscaler"), self._all("ScaledObject"))
        yield from _pools(self._all("Deployment"), autoscalers)
        undrained = CounterMetricFamily(
            "asr_deployment_undrained_pods",
            "Serving pods that ended without draining: killed, out of memory, or gone by force.",
            labels=RESOURCE_LABELS,
        )
        known = set(self._store.keys(api.KIND))
        with self._lock:
            for key in self._undrained.keys() - known:
                del self._undrained[key]
            for key in known:
                undrained.add_metric(key, self._undrained[key])
        yield undrained

    def _all(self, kind: str) -> Iterable[Object]:
        for key in self._store.keys(kind):
            if (body := self._store.get(kind, key)) is not None:
                yield body


def _conditions(resources: Iterable[Object]) -> Iterable[Metric]:
    states = GaugeMetricFamily(
        "asr_deployment_condition", "1 where a condition is True, else 0.", labels=(*RESOURCE_LABELS, "type")
    )
    problems = GaugeMetricFamily(
        "asr_deployment_problem",
        "1 for each condition that is not as it should be, with its reason; there is none where all is well.",
        labels=(*RESOURCE_LABELS, "type", "reason"),
    )
    for body in resources:
        key = key_of(body)
        told = {item["type"]: item for item in body.get("status", {}).get("conditions", ())}
        for kind in conditions.ORDER:
            holds = told.get(kind, {}).get("status") == api.ConditionStatus.TRUE
            states.add_metric((*key, kind), holds)
            if kind in told and holds == (kind in conditions.ABNORMAL):
                problems.add_metric((*key, kind, told[kind]["reason"]), 1)
    return states, problems


def _pools(deployments: Iterable[Object], autoscalers: Iterable[Object]) -> Iterable[Metric]:
    wanted = GaugeMetricFamily("asr_pool_wanted_replicas", "Pods that a pool is to have.", labels=POOL_LABELS)
    ready = GaugeMetricFamily("asr_pool_ready_replicas", "Pods of a pool that answer.", labels=POOL_LABELS)
    most = GaugeMetricFamily("asr_pool_max_replicas", "Most pods that a pool may be scaled to.", labels=POOL_LABELS)
    target = GaugeMetricFamily(
        "asr_pool_target", "Load that each pod of a pool should have, by signal.", labels=(*POOL_LABELS, "signal")
    )
    for body in deployments:
        wanted.add_metric(_pool_of(body), body["spec"].get("replicas", 1))
        ready.add_metric(_pool_of(body), body.get("status", {}).get("readyReplicas", 0))
    for body in autoscalers:
        spec = body["spec"]
        most.add_metric(_pool_of(body), spec.get("maxReplicas") or spec.get("maxReplicaCount") or 0)
        if (found := target_of(body)) is not None:
            signal, value = found
            target.add_metric((*_pool_of(body), signal), value)
    return wanted, ready, most, target


def _pool_of(body: Object) -> tuple[str, str, str]:
    labels = body["metadata"].get("labels", {})
    return body["metadata"]["namespace"], labels.get(names.INSTANCE_LABEL, ""), labels.get(names.POOL_LABEL, "")


def target_of(autoscaler: Object) -> tuple[str, float] | None:
    """What an autoscaler of ours scales by, as autoscaling.target of a pool calls it; None if it was edited by hand."""
    spec = autoscaler["spec"]
    try:
        for metric in spec.get("metrics", ())[:1]:
            if (pods := metric.get("pods")) is not None:
                return SIGNALS[pods["metric"]["name"]], float(parse_quantity(pods["target"]["averageValue"]))
            return CPU, float(metric["resource"]["target"]["averageUtilization"])
        for trigger in spec.get("triggers", ())[:1]:
            told = trigger["metadata"]
            if trigger["type"] == "prometheus":
                audio = telemetry.AUDIO_SECONDS in told["query"]
                return SIGNALS[names.AUDIO_RATE_METRIC if audio else names.PENDING_METRIC], float(told["threshold"])
            return CPU, float(told["value"])
    except (KeyError, ValueError):  # one scrape is of all resources; the next pass puts the autoscaler right
        return None
    return None
