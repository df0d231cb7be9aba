"""Peaks of memory and shared memory against their limits, after the load."""

from collections.abc import Mapping
from typing import Any

from asr_cli.conform.outcome import Result, failed, passed, skipped

MEMORY, SHARED = "memory", "shared memory"
SHARE = 0.9
"""Of a limit that may be used at the peak."""
MIB = 1024 * 1024


def judge_memory(found: Mapping[str, Any]) -> Result:
    """Whether the server's peak leaves room below its limit, and nothing was killed for memory.

    Two upper bounds of what it needed are known, and the smaller one counts: the control group's peak holds the page
    cache, the processes' resident peaks hold shared pages several times.

    Args:
        found: What `inside.py memory` printed.
    """
    peaks = [found[name] for name in ("group_peak", "resident_peak") if found.get(name)]
    limit, kills = found.get("limit"), found.get("out_of_memory_kills")
    if not peaks:
        return skipped(MEMORY, "the peak cannot be read: the kernel shows neither memory.peak nor VmHWM")
    peak = min(peaks)
    figures: dict[str, Any] = {"peak_bytes": peak, "limit_bytes": limit, "out_of_memory_kills": kills}
    hint = "Raise spec.pools[].resources.limits.memory."
    if kills:
        return failed(MEMORY, f"{kills} processes were killed for lack of memory", hint, **figures)
    if limit is None:
        return passed(MEMORY, f"peak {peak / MIB:,.0f} MiB, no limit", **figures)
    shown = f"peak {peak / MIB:,.0f} MiB of {limit / MIB:,.0f} MiB ({peak / limit:.0%})"
    if peak > SHARE * limit:
        return failed(MEMORY, f"{shown}; at most {SHARE:.0%} is allowed", hint, **figures)
    return passed(MEMORY, shown, **figures)


def judge_shared(found: Mapping[str, Any]) -> Result:
    """Whether /dev/shm has room left: Triton's Python models pass audio through it, and never give it back."""
    used, limit = found["shared_used"], found["shared_limit"]
    figures: dict[str, Any] = {"used_bytes": used, "limit_bytes": limit}
    shown = f"{used / MIB:,.0f} MiB of {limit / MIB:,.0f} MiB in use after the load"
    if used > SHARE * limit:
        hint = "Give the server a larger /dev/shm: docker run --shm-size=1g; the operator sizes it by batch and length."
        return failed(SHARED, f"{shown}; at most {SHARE:.0%} is allowed", hint, **figures)
    return passed(SHARED, shown, **figures)
