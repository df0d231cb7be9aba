"""How a server starts in a pod: the rendered command, run by a real shell around a stand-in of the server."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from asr_contract.server import HTTP_PORT, SHARED_MEMORY
from asr_operator.api import v1alpha1 as api
from asr_operator.render import pods, start
from tests.support.operator_examples import context, example, resources
from tests.unit.test_operator_render import children, file_name
from tools.testcluster.machine import until

Object = dict[str, Any]
SERVER = """
import pathlib, signal, socket, subprocess, sys, time

stub, port, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
(folder / "arguments").write_text("\\n".join(sys.argv[4:]))
signal.signal(signal.SIGTERM, lambda *_: (folder / "stopped").touch() or (folder / "hang").exists() or sys.exit(7))
stubs = [subprocess.Popen([stub, "-c", "while :; do (:); sleep 0.1; done"]) for _ in range(2)]
if port:
    listening = socket.create_server(("127.0.0.1", port))
(folder / "stubs").write_text(" ".join(str(stub.pid) for stub in stubs))
while True:
    time.sleep(1)
"""
"""Listens, starts two children of the name that Triton's have, and says what it was given and when it is stopped.

The children start others all the time, which have their name for a moment, as those of a Python process have.
"""


def command(pool: str, body: Object | None = None) -> list[str]:
    """Of the container with the server, as rendered."""
    (found,) = (item for item in children(context(body)) if file_name(item) == f"deployment-english-{pool}")
    (container,) = found["spec"]["template"]["spec"]["containers"]
    return list(container["command"])


def opened(body: Object, apis: str) -> Object:
    return body | {"spec": body["spec"] | {"service": body["spec"].get("service", {}) | {"apis": apis}}}


@dataclass(slots=True)
class Started:
    """A stand-in that runs."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def stubs(self) -> list[int]:
        """Its children."""
        return [int(pid) for pid in (self.folder / "stubs").read_text().split()]

    @property
    def pid(self) -> int:
        """Of the server itself."""
        return next(pid for pid in processes() if is_server(pid, self.folder))

    @property
    def arguments(self) -> list[str]:
        """What it was given."""
        return (self.folder / "arguments").read_text().splitlines()

    def looks(self, count: int) -> None:
        """Wait until so many looks at the processes have begun and ended."""
        paused: set[int] = set()
        (watcher,) = (pid for pid, (name, parent) in processes().items() if (name, parent) == ("sh", self.process.pid))

        def look() -> bool:
            paused.update(pid for pid, (name, parent) in processes().items() if (name, parent) == ("sleep", watcher))
            return len(paused) > count + 1

        until(look, "looks at the processes")

    @property
    def log(self) -> str:
        """Termination message of the container."""
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""


@contextmanager
def started(folder: Path, pool: str = "cpu", *, listens: bool = True, body: Object | None = None) -> Iterator[Started]:
    """The rendered command, with paths and port of the test's own."""
    folder.mkdir(exist_ok=True)
    memory, lock, stub, port = folder / "memory", folder / "lock", folder / "triton_python_backend_stub", free_port()
    memory.mkdir()
    lock.touch()
    shutil.copy("/bin/sh", stub)
    (folder / "server.py").write_text(SERVER)
    here = {SHARED_MEMORY: str(memory), f"{HTTP_PORT:04X}": f"{port:04X}"}
    items = [str(lock) if item.endswith(".lock") else here.get(item, item) for item in command(pool, body)]
    # Ten times as many looks, so that the tests take a tenth of the time.
    items = [
        item.replace(pods.TERMINATION_LOG, str(folder / "log")).replace("sleep 2 ", "sleep 0.2 ") for item in items
    ]
    assert items.pop() == start.SERVER
    server = [sys.executable, str(folder / "server.py"), str(stub), str(port if listens else 0), str(folder)]
    process = subprocess.Popen([*items, *server, "--a=$0 b"], start_new_session=True)
    try:
        until(lambda: (folder / "stubs").exists() and len((folder / "stubs").read_text().split()) == 2, "the stand-in")
        yield Started(process, folder)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def processes() -> dict[int, tuple[str, int]]:
    """Name and parent of each process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            stat = (folder / "stat").read_text()
            name, _, rest = stat.partition("(")[2].rpartition(")")
            found[int(folder.name)] = (name, int(rest.split()[1]))
    return found


def is_server(pid: int, folder: Path) -> bool:
    """Whether this is the stand-in's process, and not a shell before it."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:2] == [str(folder / "server.py").encode()]
    return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_a_server_ends_when_one_of_its_python_processes_does_and_says_why(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        server.looks(1)
        os.kill(server.stubs[1], signal.SIGKILL)
        assert server.process.wait(60) == 7
        assert (tmp_path / "stopped").exists()
        assert "a Python process of Triton's models has ended" in server.log
        assert str(server.stubs[1]) in server.log


def test_a_server_that_does_not_end_without_the_process_that_it_lost_is_killed(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        (tmp_path / "hang").touch()
        server.looks(1)
        os.kill(server.stubs[0], signal.SIGKILL)
        assert server.process.wait(60) == 128 + signal.SIGKILL
        assert (tmp_path / "stopped").exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_server_that_is_killed_ends_its_container_with_what_killed_it(how: signal.Signals, tmp_path: Path) -> None:
    with started(tmp_path) as server:
        os.kill(server.pid, how)
        assert server.process.wait(30) == 128 + how
        assert server.log == ""


def test_a_server_whose_python_processes_live_goes_on(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        os.kill(server.stubs[0], signal.SIGSTOP)  # however little it gets done
        server.looks(4)
        assert server.process.poll() is None
        assert server.log == ""


def test_a_server_that_loads_or_ends_says_itself_why_its_processes_go(tmp_path: Path) -> None:
    with started(tmp_path, listens=False) as server:
        server.looks(1)
        os.kill(server.stubs[0], signal.SIGKILL)
        server.looks(4)
        assert server.process.poll() is None
        assert server.log == ""


def test_a_stopped_server_gets_the_signal_and_ends_its_container_with_its_own_exit_code(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        server.process.terminate()
        assert server.process.wait(30) == 7
        assert server.log == ""


@pytest.mark.parametrize("pool", ["cpu", "spare"], ids=["alone", "with a cache volume"])
def test_a_server_starts_without_the_shared_memory_that_a_killed_one_left(pool: str, tmp_path: Path) -> None:
    memory, lock = tmp_path / "memory", tmp_path / "lock"
    memory.mkdir()
    for name in ("triton_python_backend_shm_region_1", "triton_onnxruntime_backend_shm_region_2", "other"):
        (memory / name).touch()
    lock.touch()
    here = {SHARED_MEMORY: str(memory), start.SERVER: "echo"}
    items = [str(lock) if item.endswith(".lock") else here.get(item, item) for item in command(pool)]
    done = subprocess.run([*items, "a server", "$0"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("a server $0 --http-restricted-api=")
    assert [path.name for path in memory.iterdir()] == ["other"]


def test_all_but_inference_and_health_asks_for_a_key_that_differs_in_each_pod(tmp_path: Path) -> None:
    keys = set()
    for name in ("one", "two"):
        with started(tmp_path / name) as server:
            given, http, grpc = server.arguments
        assert given == "--a=$0 b"
        apis, key = re.fullmatch(r"--http-restricted-api=(.*):asr-restricted=([0-9a-f]{64})", http).groups()  # type: ignore[union-attr]
        assert set(apis.split(",")) == set(start.RESTRICTED_HTTP)
        assert grpc == f"--grpc-restricted-protocol=shared-memory,trace,logging:asr-restricted={key}"
        keys.add(key)
    assert len(keys) == 2


def test_a_resource_may_open_all_apis(tmp_path: Path) -> None:
    with started(tmp_path, body=opened(example(), "All")) as server:
        assert server.arguments == ["--a=$0 b"]


def test_a_resource_that_says_nothing_follows_the_operator_and_one_that_does_goes_before_it() -> None:
    found = context()
    open_chart = found.settings.model_copy(update={"triton": found.settings.triton.model_copy(update={"apis": "All"})})
    body = example()
    for said, expected in ((None, "All"), ("Inference", "Inference"), ("All", "All")):
        wanted = body if said is None else opened(body, said)
        spec = api.parse(wanted).spec
        assert type(found).of(wanted, spec, open_chart).apis == expected
    assert found.apis is api.Apis.INFERENCE


def test_a_server_does_not_start_without_a_random_key(tmp_path: Path) -> None:
    (tmp_path / "od").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "od").chmod(0o755)
    items = command("cpu")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    place = items.index("restrict")
    restrict = [*items[place - 3 : place + 1], "echo", "serving"]
    done = subprocess.run(restrict, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no random number for the key" in done.stderr
    assert done.stdout == ""


def test_the_entry_point_of_nvidias_image_is_gone_through_where_there_is_one(tmp_path: Path) -> None:
    entry = tmp_path / "nvidia_entrypoint.sh"
    entry.write_text('#!/bin/sh\necho prepared\nexec "$@"\n')
    entry.chmod(0o755)
    items = [str(entry) if item == start.NVIDIA_ENTRY_POINT else item for item in command("l4")]
    place = items.index(str(entry))
    done = subprocess.run([*items[: place + 1], "echo", "$0 x"], capture_output=True, text=True, check=True)
    assert done.stdout == "prepared\n$0 x\n"
    without = [str(tmp_path / "none") if item == str(entry) else item for item in items[: place + 1]]
    assert subprocess.run([*without, "echo", "$0"], capture_output=True, text=True, check=True).stdout == "$0\n"


def test_a_plan_is_built_behind_the_entry_point_too() -> None:
    for body in children(context()):
        if body["kind"] == "Job":
            (container,) = body["spec"]["template"]["spec"]["containers"]
            on_gpu = any(key.startswith("nvidia.com") for key in container["resources"].get("limits", {}))
            assert (start.NVIDIA_ENTRY_POINT in container["command"]) == on_gpu
            assert container["command"][-2] == "model-builder"


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(resources)
def test_kubernetes_gives_the_shell_what_is_rendered(body: Object) -> None:
    for child in children(context(body)):
        if child["kind"] in {"Job", "Deployment"}:
            pod = child["spec"]["template"]["spec"]
            for container in [*pod.get("initContainers", ()), *pod["containers"]]:
                for item in container.get("command", ()):
                    assert "$$" not in item, "Kubernetes makes one $ of it"
                    assert not re.search(r"\$\([A-Za-z_.-][A-Za-z0-9_.-]*\)", item), "Kubernetes puts a variable there"
