"""A real Triton on this machine: finding it, starting it, waiting for it, stopping it.

Inside NVIDIA's image that is `tritonserver` with its own backends. Elsewhere it is the server in the `nvidia-pytriton`
wheel (2.51, CPU) with the Python backend of the wheel and the `onnxruntime` backend of this package.
"""

import errno
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from asr_contract import server
from asr_contract.errors import MissingExtraError, ServerError
from model_builder import shared_memory, triton_paths
from model_builder.ports import reserve
from model_builder.stop import StopRequest

NVIDIA_BACKENDS = Path("/opt/tritonserver/backends")
LOCAL_BACKENDS = Path(__file__).parent / "triton_backends"
BACKENDS = "backends"
START_SECONDS = 600.0
"""A server that dies is noticed at once: this is for large models, many profiles to warm up, and slow disks."""
STOP_SECONDS = 30.0
EXIT_SECONDS = 10
"""That Triton itself gives what it has accepted."""
POLL_SECONDS = 0.1
LINE_LENGTH = 600
"""Python tracebacks come as one line of many thousand characters."""
MEMORY_EXHAUSTED = "shared memory pool"
"""In the error of a request for which /dev/shm had no room: no fault of the model's."""
WITHOUT_GPU = ("CudaDriverHelper has not been", "unable to create stream for", "Failed to initialize NVML")
"""Errors that Triton logs wherever there is no GPU, and serves."""


@dataclass(frozen=True, slots=True)
class Ports(server.Ports):
    """TCP ports on `host`."""

    host: str = "127.0.0.1"

    @classmethod
    def free(cls) -> "Ports":
        """Three ports that no other program is given before this process ends."""
        grpc, http, metrics = reserve(3)
        return cls(grpc, http, metrics)

    def check(self) -> None:
        """Refuse ports that cannot be listened on, before a server is started in vain.

        Raises:
            ServerError: One is in use, or twice among these, or not for this user.
        """
        with ExitStack() as held:
            for name, port in ((server.GRPC, self.grpc), (server.HTTP, self.http), (server.METRICS, self.metrics)):
                try:
                    held.enter_context(socket.create_server((self.host, port)))
                except (OSError, OverflowError) as error:
                    taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
                    why = "is in use" if taken else f"cannot be used ({error})"
                    raise ServerError(f"port {port} {why}; choose another with --{name}-port") from error

    @property
    def grpc_url(self) -> str:
        """`host:port` for gRPC clients."""
        return f"{self.host}:{self.grpc}"


def version() -> str:
    """The server that `serve` would start.

    Raises:
        MissingExtraError: There is none.
    """
    if _nvidia_server() is not None:
        release = os.environ.get("TRITON_SERVER_VERSION", "unknown")
        return f"{release} (NVIDIA image {os.environ.get('NVIDIA_TRITON_SERVER_VERSION', 'unknown')})"
    _pytriton()
    return f"2.51 (nvidia-pytriton {importlib.metadata.version('nvidia-pytriton')})"


def tensorrt_version() -> str | None:
    """TensorRT of the server that `serve` would start, as NVIDIA's image states it; None where nothing states it."""
    return os.environ.get("TRT_VERSION") if _nvidia_server() is not None else None


def shared_memory_needs(repository: Path) -> shared_memory.Needs:
    """Shared memory that the Python models of `repository` take in the server that `serve` would start."""
    local = [] if _nvidia_server() is not None else [backend.name for backend in LOCAL_BACKENDS.iterdir()]
    return shared_memory.needs(repository, {"python", *local})


def _nvidia_server() -> str | None:
    return shutil.which("tritonserver") if NVIDIA_BACKENDS.is_dir() else None


def _pytriton() -> Path:
    """Folder of the package that has the server."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise MissingExtraError("no Triton on this machine; for a CPU build of it", "builder")
    return Path(spec.origin).parent


def _assemble_backends(folder: Path) -> tuple[str, dict[str, str]]:
    """Put the wheel's backends and ours together below `folder`; returns the server and its environment."""
    package = _pytriton()
    installed = package / "tritonserver"
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = installed / "python_backend_stubs" / minor / "triton_python_backend_stub"
    if not stub.is_file():
        raise ServerError(f"the Triton of nvidia-pytriton has no Python backend for Python {minor}")
    # Copies, not links: Triton refuses a backend whose files lie outside its folder.
    backends = folder / BACKENDS
    shutil.copytree(installed / "backends" / "python", backends / "python")
    shutil.copy2(stub, backends / "python" / stub.name)
    for backend in LOCAL_BACKENDS.iterdir():
        shutil.copytree(backend, backends / backend.name, ignore=shutil.ignore_patterns("__pycache__"))
    # The dynamic loader expands `$` in its path and takes `;` for its end; PATH takes `:` for its own.
    library = triton_paths.linked(package.parent / "nvidia_pytriton.libs", folder, "libraries")
    own = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    programs = triton_paths.linked(Path(sys.prefix), folder, "environment") / "bin"
    environment = {
        # The Python backend embeds the interpreter that it finds on PATH: this virtual environment's.
        "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", "")]),
        "LD_LIBRARY_PATH": os.pathsep.join(
            [
                str(library),
                str(triton_paths.linked(own, folder, "python-libraries")),
                os.environ.get("LD_LIBRARY_PATH", ""),
            ]
        ),
    }
    return str(installed / "bin" / "tritonserver"), environment


def command(repository: Path, backends: Path, binary: str, ports: Ports, *, region: int) -> list[str]:
    """The server's command line; the shared memory of each Python model starts with `region` bytes."""
    regions = f"triton-{uuid.uuid4().hex}-"
    own = [
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={regions}",
        *(f"--{name}-address={ports.host}" for name in (server.GRPC, server.HTTP, server.METRICS)),
    ]
    return [
        *(sys.executable, "-m", "model_builder.tether", regions),
        binary,
        *server.arguments(str(repository), ports, exit_seconds=EXIT_SECONDS, region_bytes=region, own=own),
    ]


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    ports: Ports
    process: subprocess.Popen[bytes]
    log: Path

    def check_alive(self) -> None:
        """Tell a server that died from a server that refused.

        Raises:
            ServerError: It ended; the message holds its exit code and the log's errors.
        """
        code = self.process.poll()
        if code is not None:
            raise ServerError(f"Triton ended with {_exit_code(code)}:\n{errors_in(self.log)}")


def _exit_code(code: int) -> str:
    """An exit code in words; of the tether, so that 128 + N stands for signal N."""
    names = {128 + number: number.name for number in signal.Signals}
    return f"exit code {code} ({names[code]})" if code in names else f"exit code {code}"


def _raise_exit(_signal: int, _frame: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into an exit that runs the clean-up, so that no server outlives the process that started it.

    A program that handles SIGTERM itself goes on doing so.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    former = signal.signal(signal.SIGTERM, _raise_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def serve(
    repository: Path, *, ports: Ports | None = None, log: Path | None = None, stop: StopRequest | None = None
) -> Iterator[Server]:
    """Run a Triton over `repository` while the block runs; entered when every model is ready.

    Args:
        repository: A Triton model repository.
        ports: Where to listen; free ones on loopback if None.
        log: Where the server's log goes; a temporary file if None.
        stop: Looked at while the server starts and while it ends; None where signals raise exceptions instead.

    Raises:
        StopRequestedError: `stop` asked for it before the server was ready.
        ServerError: It is not installed, does not start, or a model does not load; the message holds the log's errors.
            Or there is too little shared memory.
        WorkFolderError: The temporary folder, or `log`, cannot be written.
    """
    with _terminable(), triton_paths.safe_folder("triton-") as folder:
        ports = ports or Ports.free()
        nvidia = _nvidia_server()
        environment: dict[str, str] = {}
        if nvidia is None:
            with triton_paths.writing(folder):
                binary, environment = _assemble_backends(folder)
            backends = folder / BACKENDS
        else:
            backends, binary = NVIDIA_BACKENDS, nvidia
        log = log or folder / "triton.log"
        stop = stop or StopRequest()  # that nobody makes
        stop.check()
        region = shared_memory_needs(repository).start(shared_memory.free())
        served = triton_paths.linked(repository.resolve(), folder, "repository")
        with ExitStack() as held:
            with triton_paths.writing(log):
                output = held.enter_context(log.open("wb"))
            process = subprocess.Popen(
                command(served, backends, binary, ports, region=region),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                # Else what ends a terminal's programs ends the tether too, before it can kill the server.
                start_new_session=True,
            )
        try:
            try:
                _await_ready(process, ports, log, stop)
            except BaseException:
                _kill(process)  # nothing is in flight, and Triton would load all its models before it ends
                raise
            yield Server(ports, process, log)
        finally:
            _stop(process, stop)


def _await_ready(process: subprocess.Popen[bytes], ports: Ports, log: Path, stop: StopRequest) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        stop.check()
        if process.poll() is not None:
            raise ServerError(f"Triton stopped with {_exit_code(process.returncode)}:\n{errors_in(log)}")
        if b"failed to load" in log.read_bytes():
            # Triton itself would wait for the other models, and the scheduler model waits for the acoustic one.
            raise ServerError(f"a model does not load:\n{errors_in(log)}")
        try:
            with urllib.request.urlopen(f"http://{ports.host}:{ports.http}/v2/health/ready", timeout=2) as response:
                if response.status == 200:  # noqa: PLR2004
                    return
        except (urllib.error.URLError, OSError):  # not listening yet, or models still loading
            time.sleep(POLL_SECONDS)
    raise ServerError(f"Triton was not ready after {START_SECONDS:.0f} s:\n{errors_in(log)}")


def _stop(process: subprocess.Popen[bytes], stop: StopRequest) -> None:
    """End the server with what it has in flight; kill it when that takes too long, or nobody wants to wait."""
    deadline = time.monotonic() + STOP_SECONDS
    try:
        process.terminate()
        while process.poll() is None and time.monotonic() < deadline and not stop.impatient:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Let the tether kill the server and its Python models, if they still run, and wait for that."""
    if process.stdin is not None:
        process.stdin.close()
    process.wait()


def errors_in(log: Path, lines: int = 12) -> str:
    """The error lines of a Triton log, or its end when there are none."""
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    marks = ("UNAVAILABLE", "rror:", "terminate called", "what():")
    errors = [
        line
        for line in text
        if (line.startswith("E") or any(mark in line for mark in marks))
        and not any(words in line for words in WITHOUT_GPU)
    ]
    return "\n".join(line[:LINE_LENGTH] for line in (errors or text)[-lines:])
