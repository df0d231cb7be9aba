"""Shared memory of a server on this machine, or in this container: what `asr doctor` can see of it."""

import os
from ipaddress import ip_address
from pathlib import Path

from asr_contract.findings import Finding, Outcome
from asr_contract.server import MIB, REGION_BYTES, SHARED_MEMORY

FOLDER = Path(SHARED_MEMORY)
REGIONS = "triton*"
"""Names of the regions of Triton's Python models."""
LEAST = 128 * MIB
"""What three Python models and an acoustic one take with a batch or two of long utterances; Docker gives 64 MB."""
FULL = REGION_BYTES
"""A region grows by steps; with less than this left, a batch of long utterances finds no room."""


def examine(address: str) -> Finding | None:
    """Judge the shared memory of the server at `address`; None where it cannot be seen from here.

    It can be seen where the address is this machine's loopback and regions of a Triton are in the shared memory: a
    server behind a forwarded port has other memory.
    """
    if not ip_address(address).is_loopback or not any(FOLDER.glob(REGIONS)):
        return None
    found = os.statvfs(FOLDER)
    return judge(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def judge(total: int, free: int) -> Finding:
    """Whether the Python models have room for tensors."""
    what = f"{FOLDER} has {free // MIB} MiB free of {total // MIB} MiB"
    if total < LEAST or free < FULL:
        hint = "Long audio or many requests at once may fail. Run the container with --shm-size=512m, or give its pod "
        return Finding("memory", Outcome.WARNING, what, hint + "an emptyDir of medium Memory there.")
    return Finding("memory", Outcome.OK, what)
