"""The GPU that a pod was given, asked of NVIDIA's driver itself: no CUDA package is needed. Adapter of libcuda."""

import ctypes
import re
from collections.abc import Callable

from asr_contract.compatibility import Platform, difference
from asr_contract.errors import GpuError, IncompatiblePlanError

LIBRARY = "libcuda.so.1"
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
"""Numbers of the attributes in the driver's API."""


def first_gpu() -> tuple[str, str]:
    """Product and compute capability of the first GPU that this process sees, as node labels name them.

    Raises:
        GpuError: There is no driver, or no GPU.
    """
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise GpuError(
            f"no NVIDIA driver here ({error}); does the pod ask for a GPU, and has its node NVIDIA's container runtime?"
        ) from error
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    calls: tuple[tuple[str, Callable[[], int]], ...] = (
        ("cuInit", lambda: driver.cuInit(0)),
        ("cuDeviceGet", lambda: driver.cuDeviceGet(ctypes.byref(device), 0)),
        ("cuDeviceGetName", lambda: driver.cuDeviceGetName(name, len(name), device)),
        ("major", lambda: driver.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device)),
        ("minor", lambda: driver.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, device)),
    )
    for what, call in calls:
        if (failed := call()) != 0:
            raise GpuError(f"the NVIDIA driver answers {what} with error {failed}; is there a GPU in this pod?")
    return product_name(name.value.decode(errors="replace")), f"{major.value}.{minor.value}"


def product_name(name: str) -> str:
    """A GPU's name as GPU feature discovery labels nodes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.strip("\0 "))


def check(product: str, capability: str | None, found: tuple[str, str]) -> None:
    """Refuse another GPU than the expected one.

    Raises:
        IncompatiblePlanError: It is another.
    """
    if difference(Platform(product, capability), Platform(*found)) is not None:
        raise IncompatiblePlanError(
            f"this GPU is {found[0]} with compute capability {found[1]}, but {product}"
            f"{f' with {capability}' if capability else ''} is expected; correct gpu.product or the node selector"
        )
