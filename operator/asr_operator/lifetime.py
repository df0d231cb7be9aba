"""How long builds and the starts of serving pods took, and how servers ended. Pure: it reads what statuses say.

Kubernetes tells times in whole seconds.
"""

import itertools
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from asr_operator import names
from asr_operator.observe import time_of

Object = Mapping[str, Any]

KILLED_CODE = 137
"""Of a container that got SIGKILL: its grace period is over, or its memory used up."""
TERMINATED_CODE = 143
"""Of a server that got SIGTERM before it had begun to serve."""


class Start(StrEnum):
    """Parts of a serving pod's start, in their order, and the whole."""

    SCHEDULE = "schedule"
    """From its creation until it has a node."""
    PREPARE = "prepare"
    """Until the artifact is being fetched: images are pulled, volumes are made."""
    FETCH = "fetch"
    """Until the artifact is there and verified."""
    LOAD = "load"
    """Until the pod is ready: the server starts, loads its models and warms them up."""
    TOTAL = "total"
    """From its creation until it is ready."""


class End(StrEnum):
    """How a server ended that did not drain."""

    OUT_OF_MEMORY = "OutOfMemory"
    """It needed more memory than it may use."""
    KILLED = "Killed"
    """It got SIGKILL, mostly since its grace period was over."""
    FAILED = "Failed"
    """It ended with an error while it was to drain."""
    GONE = "Gone"
    """Its pod was deleted by force, or went with its node."""


def start_of(pod: Object) -> dict[Start, float] | None:
    """Seconds of each part of a serving pod's start; None as long as it is not ready, or what it tells is not whole."""
    metadata, status = pod["metadata"], pod.get("status", {})
    times = {item["type"]: item for item in status.get("conditions", ())}
    if any(times.get(kind, {}).get("status") != "True" for kind in ("PodScheduled", "Ready")):
        return None
    fetch = _container(status.get("initContainerStatuses", ()), names.FETCH_CONTAINER)
    fetched = fetch.get("state", {}).get("terminated", {})
    server = _container(status.get("containerStatuses", ()), names.TRITON_CONTAINER)
    if fetch.get("restartCount") or server.get("restartCount"):
        return None  # what it tells is of its last attempt
    moments = [
        time_of(text)
        for text in (
            metadata.get("creationTimestamp"),
            times["PodScheduled"].get("lastTransitionTime"),
            fetched.get("startedAt"),
            fetched.get("finishedAt"),
            times["Ready"].get("lastTransitionTime"),
        )
    ]
    known = [moment for moment in moments if moment is not None]
    if len(known) < len(moments):
        return None
    parts = (Start.SCHEDULE, Start.PREPARE, Start.FETCH, Start.LOAD)
    # The node's clock may be behind that of the API server.
    seconds = [max((after - before).total_seconds(), 0) for before, after in itertools.pairwise(known)]
    whole = max((known[-1] - known[0]).total_seconds(), 0)
    return dict(zip(parts, seconds, strict=True)) | {Start.TOTAL: whole}


def end_of(pod: Object, *, gone: bool, since: datetime) -> End | None:
    """How the server of a pod ended; None if it runs, drained as it should, or ended before `since`.

    Args:
        pod: A serving pod.
        gone: Whether the pod is gone, and this is what it was last.
        since: Earlier ends do not count.
    """
    server = _container(pod.get("status", {}).get("containerStatuses", ()), names.TRITON_CONTAINER)
    state = server.get("state", {})
    for ended in (state.get("terminated"), server.get("lastState", {}).get("terminated")):
        at = time_of(ended.get("finishedAt")) if ended else None
        if not ended or at is None or at < since:
            continue
        if ended.get("reason") == "OOMKilled":
            return End.OUT_OF_MEMORY
        if ended.get("exitCode") == KILLED_CODE:
            return End.KILLED
        asked = _asked_to_end(pod)
        if ended.get("exitCode") not in {0, TERMINATED_CODE} and asked is not None and at >= asked:
            return End.FAILED
    return End.GONE if gone and "running" in state else None


def _asked_to_end(pod: Object) -> datetime | None:
    """When the pod was deleted: its deletionTimestamp is when it has to be gone."""
    deadline = time_of(pod["metadata"].get("deletionTimestamp"))
    return deadline and deadline - timedelta(seconds=pod["metadata"].get("deletionGracePeriodSeconds", 0))


def build_of(job: Object, *, since: datetime) -> tuple[bool, float] | None:
    """Whether a build's Job ended well, and after how many seconds; None if it runs, or ended before `since`."""
    status = job.get("status", {})
    began = time_of(status.get("startTime"))
    for condition in status.get("conditions", ()):
        if condition["type"] in {"Complete", "Failed"} and condition["status"] == "True":
            ended = time_of(condition.get("lastTransitionTime"))
            if began is not None and ended is not None and ended >= since:
                return condition["type"] == "Complete", (ended - began).total_seconds()
    return None


def _container(statuses: Any, name: str) -> Object:  # noqa: ANN401 (a list, from JSON)
    found: Object = next((item for item in statuses if item["name"] == name), {})
    return found
