"""Keeps a cluster's programs running: `python -m tools.testcluster.supervisor SPECIFICATION`.

All that it starts dies with it, so that killing this one process ends a cluster. For a cluster with a node it is the
first process of a *sandbox*: mount, process and network namespaces of their own. The kernel then takes every process,
mount, network device and iptables rule away with it, and the host's own are out of reach while it runs.

Standard input is the tether: when it closes without the word `stay`, because the starter ended or was killed, all of it
ends too. Standard library only, since it starts before anything else does.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

STAY = b"stay\n"
SANDBOX_FOLDER = Path("/run/cluster")
SETUP_SECONDS, POLL_SECONDS = 20.0, 0.1
FIRST_PAUSE, LONGEST_PAUSE = 0.3, 5.0
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
KUBELET_SETTINGS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def main(specification: Path) -> None:
    """Set the sandbox up if one is wanted, then run all components until told to stop."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_watch_tether, daemon=True).start()
    spec = json.loads(specification.read_text())
    folder = Path(spec["folder"])
    if spec["sandbox"]:
        folder = _enter_sandbox(folder, spec["sandbox"])
    _Supervisor(folder, spec["components"]).run()


class _Supervisor:
    """Starts components, and starts them again when they end."""

    def __init__(self, folder: Path, components: list[dict[str, Any]]) -> None:
        self._folder = folder
        self._commands = {component["name"]: component["command"] for component in components}
        self._after = {component["name"]: folder / component["after"] for component in components if component["after"]}
        self._running: dict[int, str] = {}
        self._ends = dict.fromkeys(self._commands, 0)
        self._due = dict.fromkeys(self._commands, 0.0)

    def run(self) -> None:
        while True:
            now = time.monotonic()
            for name in [name for name, due in self._due.items() if due <= now]:
                if name in self._after and not self._after[name].exists():
                    self._due[name] = now + POLL_SECONDS
                    continue
                del self._due[name]
                self._start(name)
            wait = max(0.0, min(self._due.values()) - time.monotonic()) if self._due else 3600.0
            received = signal.sigtimedwait(SIGNALS, wait)
            if received is not None and received.si_signo != signal.SIGCHLD:
                self._end_all()
                return
            self._bury()

    def _start(self, name: str) -> None:
        with (self._folder / "logs" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self._commands[name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_supervisor,  # noqa: PLW1509 - the other thread only reads standard input
            )
        self._running[process.pid] = name
        self._note(name, pid=process.pid)

    def _bury(self) -> None:
        """Collect what ended: components, and in a sandbox the orphans of all pods."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name = self._running.pop(pid, None)
            if name is None:
                continue
            self._ends[name] += 1
            self._due[name] = time.monotonic() + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._ends[name] - 1))
            self._note(name, pid=None, exit_code=os.waitstatus_to_exitcode(status))

    def _end_all(self) -> None:
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)
        for pid in self._running:
            os.waitpid(pid, 0)

    def _note(self, name: str, **state: int | None) -> None:
        path = self._folder / "state" / f"{name}.json"
        path.with_suffix(".new").write_text(json.dumps({"ends": self._ends[name], **state}))
        path.with_suffix(".new").rename(path)


def _die_with_supervisor() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch_tether() -> None:
    if sys.stdin.buffer.readline() != STAY:
        os.kill(os.getpid(), signal.SIGTERM)


def _enter_sandbox(folder: Path, sandbox: dict[str, Any]) -> Path:
    """Arrange mounts and network; returns the state folder's path in here, short enough for sockets."""
    here = os.open(folder, os.O_PATH)
    _do("mount", "--make-rshared", "/")
    _do("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
    SANDBOX_FOLDER.mkdir()
    _do("mount", "--bind", f"/proc/{os.getpid()}/fd/{here}", str(SANDBOX_FOLDER))
    os.close(here)
    for path in sandbox["private"]:  # fixed in the programs that write there
        Path(path).mkdir(parents=True, exist_ok=True)
        _do("mount", "-t", "tmpfs", "tmpfs", path)
    for name in KUBELET_SETTINGS:
        _shadow(Path("/proc/sys") / name)
    for group in sandbox["cgroups"]:
        _make_cgroup(Path(group))
    _do("ip", "link", "set", "lo", "up")
    _await_device(sandbox["device"])
    _do("ip", "address", "add", sandbox["address"], "dev", sandbox["device"])
    _do("ip", "link", "set", sandbox["device"], "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    return SANDBOX_FOLDER


def _shadow(setting: Path) -> None:
    """Let the sandbox have a copy of a kernel setting; the kubelet insists on writing what is the whole machine's."""
    copy = Path("/run/settings") / setting.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_text(setting.read_text())
    _do("mount", "--bind", str(copy), str(setting))


def _make_cgroup(group: Path) -> None:
    group.mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):  # in version 1 these start empty, and nothing may then run
        own, parent = group / name, group.parent / name
        if own.exists() and parent.exists() and not own.read_text().strip():
            own.write_text(parent.read_text())


def _await_device(name: str) -> None:
    """Wait for the network device that the starter moves in here, unless told to end meanwhile."""
    deadline = time.monotonic() + SETUP_SECONDS
    while name not in {line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()}:
        if signal.SIGTERM in signal.sigpending():
            sys.exit("told to end before all was set up")
        if time.monotonic() > deadline:
            raise TimeoutError(f"no network device {name} within {SETUP_SECONDS:.0f} s")
        time.sleep(0.01)


def _do(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
