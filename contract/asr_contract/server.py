"""How Triton is started: the one list for serving pods and for the local server in which the builder checks a model.

The check before publishing is worth as much as the two servers are alike. Each adds only what is its own: pods TLS and
the age of connections, the local server its addresses and the folder of its backends.
"""

from collections.abc import Sequence
from dataclasses import dataclass

GRPC, HTTP, METRICS = "grpc", "http", "metrics"
"""Names of the ports."""
GRPC_PORT, HTTP_PORT, METRICS_PORT = 8001, 8000, 8002
"""Triton's own defaults, which pods keep."""

MIB = 1024 * 1024
SHARED_MEMORY = "/dev/shm"  # noqa: S108 (by which Triton's Python models take and give tensors)
REGION_BYTES = 16 * MIB
"""Shared memory that each Python model starts with; Triton's default of 1 MiB holds half a minute of audio."""

NO_MODEL_CONTROL = "--model-control-mode=none"
"""A client that can load models can run code."""
STRICT_READINESS = "--strict-readiness=true"
"""A server is ready when all its models are."""
EXIT_ON_ERROR = "--exit-on-error=true"
CHECKED_CONFIGURATION = "--disable-auto-complete-config"
"""Triton serves the configuration that was checked, and completes nothing in it."""
FIXED = (NO_MODEL_CONTROL, STRICT_READINESS, EXIT_ON_ERROR, CHECKED_CONFIGURATION)
"""Flags of every server."""


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports of a server."""

    grpc: int = GRPC_PORT
    http: int = HTTP_PORT
    metrics: int = METRICS_PORT


def arguments(
    repository: str, ports: Ports, *, exit_seconds: int, region_bytes: int = REGION_BYTES, own: Sequence[str] = ()
) -> list[str]:
    """The server's arguments.

    Args:
        repository: Folder of the models.
        ports: Where it listens.
        exit_seconds: Time that it is given to end with what it has accepted.
        region_bytes: Shared memory that each Python model starts with.
        own: Flags that only this kind of server has.
    """
    return [
        f"--model-repository={repository}",
        *FIXED,
        f"--backend-config=python,shm-default-byte-size={region_bytes}",
        f"--{HTTP}-port={ports.http}",
        f"--{GRPC}-port={ports.grpc}",
        f"--{METRICS}-port={ports.metrics}",
        *own,
        f"--exit-timeout-secs={exit_seconds}",
    ]
