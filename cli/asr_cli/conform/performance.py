"""Throughput and latency, against what the build measured of the plan on its GPU."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_cli.conform.outcome import Result, failed, passed, skipped
from asr_client.transcription import Client
from asr_serving.tensors import SAMPLE_RATE

THROUGHPUT, LATENCY = "throughput", "latency"
SHARE = 0.5
"""Of the plan's own throughput that must arrive through Triton: 60 % does on an H200."""
FACTOR, OVERHEAD_MS = 2.0, 10.0
"""A request of its own takes the shape's time, and this much for network, queue and decoding."""
REPEATS = 20
LOAD_SECONDS = 10.0
SHORTEST_SECONDS, LONGEST_SECONDS = 2.0, 30.0
"""Lengths of the load's utterances."""
ALONE_SECONDS = 15.0
SATURATED = 0.9
"""Share of a core above which the client itself limits the load."""
NO_MEASUREMENTS = "the artifact holds no measurements: only TensorRT plans are timed when they are built"
NO_FAIR_MEASURE = "measured through a port-forward, which is slower than the network"


def expected_rate(measurements: Mapping[str, Any]) -> float | None:
    """Audio seconds a second that the plan itself reached when it was built; None where nothing was measured."""
    shapes = [float(item["rtfx"]) for item in measurements.get("shapes", ()) if item.get("used")]
    together = [float(rate) for rate in measurements.get("audio_seconds_per_second_by_instances", {}).values()]
    return max([*shapes, *together], default=0.0) or None


def alone(measurements: Mapping[str, Any]) -> tuple[float, float] | None:
    """Length in seconds and milliseconds of the smallest batch nearest to 15 s; None where nothing was measured."""
    shapes = [item for item in measurements.get("shapes", ()) if item.get("used")]
    if not shapes:
        return None
    best = min(shapes, key=lambda item: (item["batch"], abs(item["samples"] - ALONE_SECONDS * SAMPLE_RATE)))
    milliseconds = min(best["plain_ms"], best["graph_ms"] or best["plain_ms"])
    return best["samples"] / SAMPLE_RATE, float(milliseconds)


def judge_throughput(rate: float, measurements: Mapping[str, Any], *, forwarded: bool, cpu_share: float) -> Result:
    """Whether enough of the plan's throughput arrives.

    Args:
        rate: Audio seconds a second, through Triton.
        measurements: The artifact's.
        forwarded: Whether the server was reached through a port-forward.
        cpu_share: CPU time of this client by wall time.
    """
    expected = expected_rate(measurements)
    if expected is None:
        return skipped(THROUGHPUT, f"{rate:,.1f} audio seconds a second; {NO_MEASUREMENTS}", rtfx=round(rate, 1))
    figures: dict[str, Any] = {
        "rtfx": round(rate, 1),
        "measured_at_build": expected,
        "client_cpu_share": round(cpu_share, 2),
    }
    shown = f"{rate:,.0f} audio seconds a second, {rate / expected:.0%} of what the plan reached when it was built"
    if rate >= SHARE * expected:
        return passed(THROUGHPUT, shown, **figures)
    if forwarded:
        return skipped(THROUGHPUT, f"{shown}; {NO_FAIR_MEASURE}", "Run it in the cluster: helm test.", **figures)
    if cpu_share > SATURATED:
        hint = "Run the check on a machine with faster cores, near the server."
        return skipped(THROUGHPUT, f"{shown}; this client used a whole core, and was the limit", hint, **figures)
    hint = "Compare GPU and clocks (nvidia-smi), CPU limits of the pod, and instance counts with the build's report."
    return failed(THROUGHPUT, f"{shown}; at least {SHARE:.0%} is expected", hint, **figures)


def judge_latency(p50_ms: float, expected_ms: float, seconds: float, *, forwarded: bool) -> Result:
    """Whether one request alone is as fast as the plan's smallest batch allows."""
    limit = FACTOR * expected_ms + OVERHEAD_MS
    figures: dict[str, Any] = {
        "p50_ms": round(p50_ms, 2),
        "measured_at_build_ms": expected_ms,
        "allowed_ms": round(limit, 2),
    }
    shown = f"{seconds:g} s of audio alone take {p50_ms:.1f} ms (p50); the plan itself took {expected_ms:.1f} ms"
    if p50_ms <= limit:
        return passed(LATENCY, shown, **figures)
    if forwarded:
        return skipped(LATENCY, f"{shown}; {NO_FAIR_MEASURE}", "Run it in the cluster: helm test.", **figures)
    hint = "CUDA graphs may be off, the GPU busy with others, or the CPU short: look at Triton's log and the GPU."
    return failed(LATENCY, f"{shown}; at most {limit:.1f} ms are allowed", hint, **figures)


async def latency(client: Client, speech: npt.NDArray[np.int16], seconds: float) -> float:
    """Median milliseconds of one request at a time, after one that warms up.

    Raises:
        TranscriptionError: A request failed.
    """
    signal = np.resize(speech, round(seconds * SAMPLE_RATE))
    await client.transcribe(signal)
    spent = []
    for _ in range(REPEATS):
        sent = time.perf_counter()
        await client.transcribe(signal)
        spent.append((time.perf_counter() - sent) * 1e3)
    return float(np.median(spent))


def joined(signals: Sequence[npt.NDArray[np.int16]]) -> npt.NDArray[np.int16]:
    """All speech in a row."""
    return np.concatenate(list(signals))
