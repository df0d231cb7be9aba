"""The server that a conformance run looks at, and the ways to it."""

import json
import subprocess
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from asr_cli.conform.prometheus import Metrics, parse
from asr_client.transcription import Tls
from asr_contract.server import GRPC_PORT

SHELL_SECONDS = 120
METRICS_SECONDS = 15

Shell = Callable[[Sequence[str]], str]
"""Runs a command beside the server and returns what it printed; raises `ShellError`."""


class ShellError(Exception):
    """Nothing can be run beside the server, or it failed; the message says why and what to do."""


class MetricsError(Exception):
    """The metrics cannot be read; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """One server.

    Attributes:
        name: Name of its pool, or `server`.
        url: Host and port of its gRPC.
        tls: None for a server that speaks plain gRPC.
        model: N, the scheduler model.
        page: Reads the page of its metrics; None where nothing says where it is.
        shell: Runs commands beside it.
        port: Port that it listens on for gRPC, as its own flags say.
        forwarded: Whether it is reached through a port-forward, which costs speed.
        gpu: Whether it must run on a GPU; None where nothing says so.
        image: Name and digest of its image; None where they are not known.
    """

    name: str
    url: str
    tls: Tls | None
    model: str
    page: Callable[[], str] | None
    shell: Shell
    port: str = str(GRPC_PORT)
    forwarded: bool = False
    gpu: bool | None = None
    image: str | None = None

    def metrics(self) -> Metrics:
        """Read its metrics.

        Raises:
            MetricsError: They cannot be read.
        """
        if self.page is None:
            raise MetricsError("no metrics; give --metrics-url, such as http://localhost:8002/metrics")
        try:
            return parse(self.page())
        except OSError as error:
            raise MetricsError(f"the metrics cannot be read: {error}; Triton's metrics port is usually 8002") from error

    def ask(self, action: str) -> dict[str, Any]:
        """Run one action of `inside.py` beside the server.

        Raises:
            ShellError: It cannot be run there, or failed.
        """
        program = resources.files("asr_cli.conform").joinpath("inside.py").read_text("utf-8")
        printed = self.shell(["python3", "-c", program, action, self.port, self.model])
        try:
            found: dict[str, Any] = json.loads(printed)
        except ValueError as error:
            raise ShellError("what ran beside the server did not answer with JSON") from error
        return found


def page_reader(url: str) -> Callable[[], str]:
    """Read a page of metrics by HTTP, without a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def read() -> str:
        with opener.open(url, timeout=METRICS_SECONDS) as response:
            page: str = response.read().decode(errors="replace")
            return page

    return read


def no_shell(reason: str) -> Shell:
    """A shell that runs nothing, for a reason that each check states."""

    def run(_command: Sequence[str]) -> str:
        raise ShellError(reason)

    return run


def local_shell(prefix: Sequence[str]) -> Shell:
    """A shell behind a command of the user's, such as `docker exec NAME`."""

    def run(command: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                [*prefix, *command], check=False, capture_output=True, text=True, timeout=SHELL_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ShellError(f"--exec {prefix[0]}: {error}") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise ShellError(f"--exec {prefix[0]} ... ended with {done.returncode}: {lines[-1] if lines else ''}")
        return done.stdout

    return run
