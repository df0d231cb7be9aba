"""Shared memory, by which Triton's Python models take and give tensors: what there is, what a repository needs.

Docker gives a container 64 MB of it by default. Triton starts in that, and fails requests for want of more.
"""

import json
import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_contract.errors import ServerError
from asr_contract.server import MIB, REGION_BYTES, SHARED_MEMORY

FOLDER = Path(SHARED_MEMORY)
LEAST_START = MIB
ROUNDED_TO = 64 * MIB
SETTINGS = "settings.json"
TYPE_INT16 = 7
"""Of Triton's `DataType`."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a repository takes.

    Attributes:
        models: Instances of Python models; each has a region of its own.
        batches: Bytes of the batches that are under way at once, in and out.
    """

    models: int
    batches: int

    @property
    def total(self) -> int:
        """Bytes, rounded up to what one writes."""
        return math.ceil((self.models * REGION_BYTES + self.batches) / ROUNDED_TO) * ROUNDED_TO

    def start(self, free: int) -> int:
        """Bytes that each model's region starts with; regions grow, so less than usual where there is little.

        Raises:
            ServerError: `free` bytes are too few for all of them.
        """
        little = free // (4 * max(self.models, 1)) // MIB * MIB
        start = REGION_BYTES if free >= self.total else min(REGION_BYTES, little)
        if start < LEAST_START:
            raise ServerError(f"{self.shortage(free)}, and Triton does not start; {self.advice}")
        return start

    def shortage(self, free: int) -> str:
        """How much there is and how much is needed, in words."""
        return f"{FOLDER} has {free // MIB} MiB free, {self.total // MIB} MiB are needed under load"

    @property
    def advice(self) -> str:
        """What to do about a shortage."""
        size = f"{self.total // MIB}m"
        return f"run the container with --shm-size={size} (Docker, Podman), or mount -o remount,size={size} {FOLDER}"


def free(folder: Path = FOLDER) -> int:
    """Bytes that are free in `folder`."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def needs(repository: Path, python_backends: Collection[str]) -> Needs:
    """What the models of `repository` take.

    Args:
        repository: A Triton model repository; a model whose configuration cannot be read is Triton's to refuse.
        python_backends: Backends that are written in Python.
    """
    models = 0
    batches: dict[str, int] = {}
    for path in repository.glob("*/config.pbtxt"):
        config = _read(path)
        if config is not None and config.backend in python_backends:
            models += sum(group.count or 1 for group in config.instance_group) or 1
            batches |= _batches(path.parent, config)
    return Needs(models, sum(batches.values()))


def _read(path: Path) -> Any:  # noqa: ANN401 (protobuf)
    from google.protobuf import text_format  # noqa: PLC0415
    from tritonclient.grpc import model_config_pb2  # noqa: PLC0415

    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError):
        return None


def _batches(model: Path, config: Any) -> dict[str, int]:  # noqa: ANN401 (protobuf)
    """Bytes of the batches that this project's scheduler sends to an acoustic model, by its name.

    Each batch is in the regions of both. The scheduler's preprocessing has the same settings.
    """
    found = {}
    for file in model.glob(f"*/{SETTINGS}"):
        settings = json.loads(file.read_text(encoding="utf-8"))
        largest = max((samples * batch for samples, batch, *_ in settings.get("shapes", ())), default=0)
        sample = 2 if any(item.data_type == TYPE_INT16 for item in config.input) else 4
        found[str(settings.get("acoustic_model"))] = 2 * int(settings.get("in_flight", 1)) * largest * sample
    return found
