"""Whether a TensorRT plan runs somewhere: the one rule of builder, operator, pods and diagnosis.

A plan runs on the GPU product and the compute capability that it was built on, and on the TensorRT that built it. Two
versions are the same TensorRT if they have the same first three numbers, or as many of these as both name.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

SHARED = "-SHARED"
"""What GPU feature discovery adds to the product of a GPU in time slices."""
RELEASE_NUMBERS = 3
"""Major, minor and patch. The fourth number of TensorRT is that of a build, which plans do not depend on."""


class Aspect(StrEnum):
    """What a plan depends on, in the order in which differences are named."""

    GPU_PRODUCT = "GPU product"
    COMPUTE_CAPABILITY = "compute capability"
    TENSORRT = "TensorRT"


@dataclass(frozen=True, slots=True)
class Platform:
    """What a plan is for, or what is there. None is not known, and is the same as everything.

    Attributes:
        gpu_product: Name of the GPU, as the driver or a node's label has it.
        compute_capability: Of the GPU, such as 8.9.
        tensorrt: Version of TensorRT, with as many numbers as are known.
    """

    gpu_product: str | None = None
    compute_capability: str | None = None
    tensorrt: str | None = None

    def value(self, aspect: Aspect) -> str | None:
        """What it has of an aspect."""
        return {
            Aspect.GPU_PRODUCT: self.gpu_product,
            Aspect.COMPUTE_CAPABILITY: self.compute_capability,
            Aspect.TENSORRT: self.tensorrt,
        }[aspect]


def difference(one: Platform, other: Platform) -> Aspect | None:
    """The first aspect in which two platforms differ; None if a plan of the one runs on the other."""
    for aspect, same in _SAME.items():
        mine, theirs = one.value(aspect), other.value(aspect)
        if mine is not None and theirs is not None and not same(mine, theirs):
            return aspect
    return None


def missing(plan: Platform) -> Aspect | None:
    """What a plan does not name and has to before a pod may be made for it; None if it names enough."""
    if plan.gpu_product is None:
        return Aspect.GPU_PRODUCT
    return Aspect.TENSORRT if plan.tensorrt is None else None


def driver_product(product: str) -> str:
    """A GPU product of node labels as the driver names it: without what feature discovery adds for time slices."""
    return product.removesuffix(SHARED)


def same_tensorrt(one: str, other: str) -> bool:
    """Whether a plan of the one runs on the other: major, minor and patch are the same, as far as both name them."""
    first, second = release(one).split("."), release(other).split(".")
    return all(mine == theirs for mine, theirs in zip(first, second, strict=False))


def release(version: str) -> str:
    """Major, minor and patch of a version. The shell in serving pods compares the image's TensorRT with it."""
    return ".".join(version.split(".")[:RELEASE_NUMBERS])


def is_version_of(version: str, wanted: str) -> bool:
    """Whether a version has all the numbers that are asked for, as 11.2.1 has those of 11.2, and not the reverse."""
    return f"{version}.".startswith(f"{wanted}.")


def _same_product(one: str, other: str) -> bool:
    return driver_product(one) == driver_product(other)


_SAME: dict[Aspect, Callable[[str, str], bool]] = {
    Aspect.GPU_PRODUCT: _same_product,
    Aspect.COMPUTE_CAPABILITY: operator.eq,
    Aspect.TENSORRT: same_tensorrt,
}
