"""What clusters ask of this machine: processes, ports, networks, control groups, and whether a URL answers."""

import errno
import fcntl
import hashlib
import http.client
import ipaddress
import json
import os
import select
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from model_builder.ports import reserve

Value = TypeVar("Value")

# The host and a cluster share 10.N.0.0/16 for the first N here that is free.
NETWORKS = range(213, 245)
LOCK = Path(tempfile.gettempdir()) / "asr-cluster.lock"
CGROUPS = Path("/sys/fs/cgroup")
POLL_SECONDS, ANSWER_SECONDS, END_SECONDS = 0.1, 5.0, 30.0
START_TIME_FIELD = 19  # of /proc/<pid>/stat, counted after the program's name


class ClusterError(Exception):
    """A cluster that does not start, work or stop; the message says what to do, or ends with a log."""


def until(
    condition: Callable[[], Value], what: str, *, seconds: float = 120.0, check: Callable[[], None] | None = None
) -> Value:
    """Ask again and again until `condition` returns something true, and return that.

    Args:
        condition: Is asked at least once.
        what: Completes "waited … for ".
        seconds: Until patience ends.
        check: Called after every vain attempt; raises when waiting on is in vain.

    Raises:
        ClusterError: It took too long.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if check:
            check()
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds:.0f} s for {what}; last answer: {value!r}")
        time.sleep(POLL_SECONDS)
    return value


def run(command: Sequence[str], *, environment: dict[str, str], stdin: str | None = None, seconds: float = 60.0) -> str:
    """Run a program and return what it prints.

    Raises:
        ClusterError: It failed or took too long; in its own words.
    """
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            input=stdin or "",
            env=os.environ | environment,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(command)} took longer than {seconds:.0f} s") from error
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """A free port on loopback for each name, that no other program is given before this process ends."""
    return dict(zip(names, reserve(len(names)), strict=True))


def free_networks() -> list[int]:
    """Every N of `NETWORKS` for which no address or route of this machine overlaps 10.N.0.0/16."""
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"], environment={}))
    taken = [ipaddress.ip_network(route["dst"], strict=False) for route in routes if route["dst"] != "default"]
    # A route as wide as all of 10.0.0.0/8 goes to a company's network; a narrower one wins over it.
    narrow = [network for network in taken if network.prefixlen > 8]
    return [number for number in NETWORKS if not any(network.overlaps(_network(number)) for network in narrow)]


def _network(number: int) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(f"10.{number}.0.0/16")


def answers(url: str, pki: Path) -> bool:
    """Whether a GET of `url` ends with 200, as the administrator of that cluster and never through a proxy."""
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=ANSWER_SECONDS) as response:
            return bool(response.status == http.client.OK)
    except (OSError, http.client.HTTPException):  # not listening yet, or not ready (HTTPError is an OSError)
        return False


def save_process(path: Path, pid: int) -> None:
    """Write down which process `pid` is now: a number alone may be another process's tomorrow."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"pid": pid, "started": _start_time(pid)}))
    new.replace(path)  # whole or not at all, also when this program is killed now


def saved_process(path: Path) -> int | None:
    """The process that was written down, if it still runs."""
    try:
        saved = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return saved["pid"] if _start_time(saved["pid"]) == saved["started"] else None


def sandbox_process(pid: int) -> int | None:
    """The first process of the sandbox that the `unshare` with this id made; `None` if it is not one (any more)."""
    try:
        if Path(f"/proc/{pid}/comm").read_text().strip() != "unshare":
            return None
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(children[0]) if children else None


def end(pid: int) -> None:
    """End a supervisor, or the `unshare` around it, with all that dies with it; wait until it is gone.

    Raises:
        ClusterError: It is still there after half a minute.
    """
    with suppress(ProcessLookupError):
        first = sandbox_process(pid)
        # A sandbox goes as a whole with its first process. Without one, the supervisor buries what it started.
        for target, by in ((first, signal.SIGKILL),) if first else ((pid, signal.SIGTERM), (pid, signal.SIGKILL)):
            with _process(pid) as handle:
                os.kill(target, by)
                if select.select([handle], [], [], END_SECONDS)[0]:
                    return
        raise ClusterError(f"process {pid} does not end")


@contextmanager
def _process(pid: int) -> Iterator[int]:
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def starting() -> Iterator[None]:
    """Held while a cluster claims its folder and network, so that two never claim the same."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start_time(pid: int) -> int | None:
    """In clock ticks since the machine started; `None` when there is no such process, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[START_TIME_FIELD])


def cgroup_name(folder: Path) -> str:
    """Of the control group for the cluster in `folder`."""
    return f"asr-cluster-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def cgroups(name: str) -> list[Path]:
    """The group of that name in each hierarchy: one a controller in version 1, one in version 2; both may be there."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS / name]
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(fields[1]) / name for fields in mounts if fields[2] in {"cgroup", "cgroup2"}]


def remove_cgroups(name: str) -> None:
    """Remove the groups of that name with all below them; their processes are ended already."""
    for group in cgroups(name):
        for folder, _, _ in os.walk(group, topdown=False):
            until(lambda folder=folder: _removed(Path(folder)), f"{folder} to be empty", seconds=END_SECONDS)  # type: ignore[misc]


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # the kernel has not buried the last process yet
        return False
    return True


def remove_folder(folder: Path) -> None:
    """Remove a folder, unless something is still mounted below it.

    Raises:
        ClusterError: A mount is below it.
    """
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if below := [mount for mount in mounts if Path(mount).is_relative_to(folder)]:
        raise ClusterError(f"{below[0]} is mounted below {folder}; unmount it first")
    until(lambda: _emptied(folder), f"{folder} to be free", seconds=END_SECONDS)


def _emptied(folder: Path) -> bool:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return not folder.exists()
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:  # a process that was just killed wrote its last
            return False
        raise
    return True
