"""Memory and processor time of a server with all its children, from /proc (Linux)."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

INTERVAL_SECONDS = 0.2
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Footprint:
    """What a process and its descendants took while they were watched.

    Attributes:
        peak_rss_mb: Highest sum of resident memory, MB (10^6 bytes); pages shared by two processes count in both.
        peak_pss_mb: The same with each shared page counted once.
        cpu_seconds: Processor time by process: a Python model's name, or the program's.
        client_cpu_seconds: Processor time of this process.
        other_cores: Mean cores that were busy with anything else on this machine, this client excluded.
    """

    peak_rss_mb: float = 0.0
    peak_pss_mb: float = 0.0
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    client_cpu_seconds: float = 0.0
    other_cores: float = 0.0


def _members(root: int) -> dict[int, list[str]]:
    """Fields of /proc/PID/stat from the state on (`proc(5)`), of a process and all its descendants."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
    members, grown = {root} & found.keys(), True
    while grown:
        children = {process for process, fields in found.items() if int(fields[1]) in members}
        grown = not children <= members
        members |= children
    return {process: found[process] for process in members}


def _label(process: int) -> str:
    """A Python backend's stub is started with a path in its model's version folder, `<repository>/<model>/1/...`."""
    words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
    models = [Path(word).parents[1].name for word in words if Path(word).parent.name.isdigit()]
    return models[0] if models else Path(words[0]).name


def cpu(root: int) -> dict[str, float]:
    """Seconds of processor time so far, by process of a server with its Python models."""
    spent: dict[str, float] = {}
    for process, fields in _members(root).items():
        label = _label(process)
        spent[label] = spent.get(label, 0.0) + (int(fields[11]) + int(fields[12])) / TICKS
    return spent


def machine_busy() -> float:
    """Seconds that all cores together were not idle."""
    user, nice, system, _idle, _wait, irq, softirq, *_ = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(value) for value in (user, nice, system, irq, softirq)) / TICKS


def _memory_mb(root: int) -> tuple[float, float]:
    """Resident and proportional memory of a process and its descendants."""
    rss = pss = 0.0
    for process, fields in _members(root).items():
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        rss += int(fields[21]) * PAGE / 1e6
        pss += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024 / 1e6
    return rss, pss


@contextmanager
def watch(root: int) -> Iterator[Footprint]:
    """Watch a process and its descendants while the block runs; the figures are complete after it."""
    result = Footprint()
    done = threading.Event()

    def sample() -> None:
        while True:
            rss, pss = _memory_mb(root)
            result.peak_rss_mb, result.peak_pss_mb = max(result.peak_rss_mb, rss), max(result.peak_pss_mb, pss)
            if done.wait(INTERVAL_SECONDS):
                return

    sampler = threading.Thread(target=sample)
    started, own, busy, before = time.monotonic(), time.process_time(), machine_busy(), cpu(root)
    sampler.start()
    try:
        yield result
    finally:
        done.set()
        sampler.join()
        wall, after = time.monotonic() - started, cpu(root)
        result.cpu_seconds = {label: round(spent - before.get(label, 0.0), 2) for label, spent in after.items()}
        result.client_cpu_seconds = round(time.process_time() - own, 2)
        others = machine_busy() - busy - sum(result.cpu_seconds.values()) - result.client_cpu_seconds
        result.other_cores = round(max(0.0, others) / wall, 2)
