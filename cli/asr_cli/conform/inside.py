"""Program that runs beside the server, in its container: reads versions, memory and the artifact; ends processes.

`asr conform` sends this file's text to `python3 -c`, so it needs the standard library alone, of Python 3.10 or newer.
It prints one JSON object in ASCII. Arguments: what to do, Triton's gRPC port, and the model. Only `kill-stub` and
`terminate` change anything.
"""

import importlib.metadata
import json
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

PROCESSES = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")
SHARED_MEMORY = "/dev/shm"  # noqa: S108 (where Triton keeps it)
ONNXRUNTIME = Path("/opt/tritonserver/backends/onnxruntime")
VARIABLES = ("TRT_VERSION", "TRITON_SERVER_VERSION", "NVIDIA_TRITON_SERVER_VERSION", "CUDA_VERSION")
PUBLIC_VALUE = re.compile(r"(true|false|none|\d+|python,shm-default-byte-size=\d+)")
"""Values of flags that are shown: others may be paths, addresses or keys."""
NO_LIMIT = 1 << 60
QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader")


def read(path: Path) -> str | None:
    """A file's text; None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def processes() -> dict[int, list[str]]:
    """Command line of each process that may be read, by its number."""
    found = {}
    for folder in PROCESSES.glob("[0-9]*"):
        arguments = (read(folder / "cmdline") or "").split("\0")
        if arguments[0]:
            found[int(folder.name)] = [argument for argument in arguments if argument]
    return found


def server(port: str) -> tuple[int, list[str]]:
    """Process number and arguments of the Triton that listens on this port."""
    servers = {
        number: arguments for number, arguments in processes().items() if Path(arguments[0]).name == "tritonserver"
    }
    exact = {number: arguments for number, arguments in servers.items() if f"--grpc-port={port}" in arguments}
    chosen = exact or servers
    if len(chosen) != 1:
        sys.exit(f"{len(chosen)} tritonserver processes are visible here; one was expected")
    return next(iter(chosen.items()))


def value_of(arguments: list[str], flag: str) -> str | None:
    """Value of a flag, written behind it or as the next argument."""
    for index, argument in enumerate(arguments):
        if argument.startswith(flag + "="):
            return argument.partition("=")[2]
        if argument == flag and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def flags(arguments: list[str]) -> list[str]:
    """Flags of the server; a value that may be a path, an address or a key is left out."""
    found = []
    for argument in arguments[1:]:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            found.append(argument if not equals or PUBLIC_VALUE.fullmatch(value) else f"{name}=...")
    return found


def environment(number: int) -> dict[str, str]:
    """Versions that the server's image states in its environment."""
    pairs = (item.partition("=") for item in (read(PROCESSES / str(number) / "environ") or "").split("\0"))
    return {name: value for name, _, value in pairs if name in VARIABLES}


def package(name: str) -> str | None:
    """Version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def onnxruntime() -> str | None:
    """Version of ONNX Runtime, by the name of its library or by its package."""
    for path in ONNXRUNTIME.glob("libonnxruntime.so.*.*"):
        return path.name.partition(".so.")[2]
    return package("onnxruntime")


def gpus() -> list[dict[str, str]]:
    """Name, driver and compute capability of each GPU; none where there is no driver."""
    try:
        done = subprocess.run(QUERY, check=False, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    names = ("name", "driver", "compute_capability")
    return [dict(zip(names, (cell.strip() for cell in line.split(",")), strict=False)) for line in lines]


def versions(port: str, _model: str) -> dict[str, Any]:
    """Versions of what serves, and the server's flags."""
    number, arguments = server(port)
    return {
        "python": platform.python_version(),
        "numpy": package("numpy"),
        "onnxruntime": onnxruntime(),
        "environment": environment(number),
        "gpus": gpus(),
        "flags": flags(arguments),
    }


def group_folders(number: int) -> list[Path]:
    """Folders of the process' memory control group; in a container it is mounted at the root."""
    found = []
    for line in (read(PROCESSES / str(number) / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found.append(GROUPS / path.lstrip("/"))
        elif "memory" in controllers.split(","):
            found.append(GROUPS / "memory" / path.lstrip("/"))
    return [*found, GROUPS, GROUPS / "memory"]


def of_group(number: int, names: tuple[str, ...]) -> int | None:
    """The first number that one of the control group's files holds; None where no file has one, or no limit."""
    for folder in group_folders(number):
        for name in names:
            text = read(folder / name)
            if text is not None and text.isdigit():
                return int(text) if int(text) < NO_LIMIT else None
    return None


def tree(number: int) -> set[int]:
    """Process numbers of the server and of all that it started."""
    parents = {}
    for folder in PROCESSES.glob("[0-9]*"):
        status = read(folder / "stat")
        if status is not None:
            parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
    found: set[int] = set()
    waiting = [number]
    while waiting:
        parent = waiting.pop()
        found.add(parent)
        waiting += [child for child, of in parents.items() if of == parent and child not in found]
    return found


def resident_peak(number: int) -> int | None:
    """Sum of the peak resident sizes of the server's processes in bytes; None where it cannot be read."""
    total = 0
    for process in tree(number):
        found = re.search(r"VmHWM:\s+(\d+) kB", read(PROCESSES / str(process) / "status") or "")
        total += int(found[1]) * 1024 if found else 0
    return total or None


def killed_for_memory(number: int) -> int | None:
    """Processes of the control group that the kernel has killed for lack of memory; None where it does not say."""
    for folder in group_folders(number):
        found = re.search(r"^oom_kill (\d+)$", read(folder / "memory.events") or "", re.MULTILINE)
        if found:
            return int(found[1])
    return None


def memory(port: str, _model: str) -> dict[str, Any]:
    """Peaks and limits of memory, and what is used of shared memory."""
    number, _ = server(port)
    shared = os.statvfs(SHARED_MEMORY)
    return {
        "group_peak": of_group(number, ("memory.peak", "memory.max_usage_in_bytes")),
        "resident_peak": resident_peak(number),
        "limit": of_group(number, ("memory.max", "memory.limit_in_bytes")),
        "out_of_memory_kills": killed_for_memory(number),
        "shared_used": (shared.f_blocks - shared.f_bfree) * shared.f_frsize,
        "shared_limit": shared.f_blocks * shared.f_frsize,
    }


def artifact(port: str, _model: str) -> dict[str, Any]:
    """Manifest and references of the repository that is served."""
    folder = value_of(server(port)[1], "--model-repository")
    if folder is None:
        sys.exit("the server was started without --model-repository")
    found = {}
    for name in ("manifest", "references"):
        text = read(Path(folder) / f"{name}.json")
        if text is None:
            sys.exit(f"{name}.json is not in the server's repository: model-builder fetch writes it there")
        found[name] = json.loads(text)
    return found


def stubs(number: int, model: str) -> list[int]:
    """Processes of the model's Python code that this server started."""
    everything = processes()
    return [
        process
        for process in tree(number)
        if Path(everything.get(process, [""])[0]).name == "triton_python_backend_stub"
        and any(f"/{model}/" in argument for argument in everything[process][1:])
    ]


def kill_stub(port: str, model: str) -> dict[str, Any]:
    """Kill one process of the model's Python code."""
    found = stubs(server(port)[0], model)
    if not found:
        sys.exit(f"no Python process of {model} was found")
    os.kill(found[0], signal.SIGKILL)
    return {"killed": 1, "processes": len(found)}


def terminate(port: str, _model: str) -> dict[str, Any]:
    """Ask the server to end."""
    os.kill(server(port)[0], signal.SIGTERM)
    return {"terminated": 1}


ACTIONS = {
    "versions": versions,
    "memory": memory,
    "artifact": artifact,
    "kill-stub": kill_stub,
    "terminate": terminate,
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(ACTIONS[sys.argv[1]](sys.argv[2], sys.argv[3])))
