"""The GPU of this machine: which one it is, its memory, its streams and graphs. Adapter of cuda.bindings."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from asr_contract.errors import GpuError, MissingExtraError
from model_builder.driver import product_name


def _runtime() -> Any:  # noqa: ANN401 (the bindings have no types)
    try:
        from cuda.bindings import runtime  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("a GPU needs cuda-bindings", "tensorrt") from error
    return runtime


def _call(function: str, *arguments: Any) -> Any:  # noqa: ANN401
    """Call the CUDA runtime; its results without the status.

    Raises:
        GpuError: CUDA answered with an error, which is named.
    """
    runtime = _runtime()
    status, *results = getattr(runtime, function)(*arguments)
    if int(status):
        _, name = runtime.cudaGetErrorName(status)
        _, text = runtime.cudaGetErrorString(status)
        hint = "" if int(status) != 2 else "; nothing else may use this GPU, or build with smaller batches"  # noqa: PLR2004
        raise GpuError(f"{function}: {name.decode()}: {text.decode()}{hint}")
    return results[0] if len(results) == 1 else results


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as plans and node labels name it.

    Attributes:
        product: Name with dashes, MIG profile included, as GPU feature discovery labels nodes.
        compute_capability: Such as `9.0`.
        memory: Bytes in all.
        cuda: Newest CUDA version that the driver serves.
    """

    product: str
    compute_capability: str
    memory: int
    cuda: str


def gpu() -> Gpu:
    """The first GPU that this process sees.

    Raises:
        GpuError: There is none, or no driver.
        MissingExtraError: The bindings are not installed.
    """
    try:
        count = _call("cudaGetDeviceCount")
    except GpuError as error:
        raise GpuError(
            f"no NVIDIA GPU can be used here; plans are built on the GPU that they are for: {error}"
        ) from error
    if not count:
        raise GpuError("this machine has no NVIDIA GPU; plans are built on the GPU that they are for")
    properties = _call("cudaGetDeviceProperties", 0)
    version = int(_call("cudaDriverGetVersion"))
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return Gpu(
        product=product_name(name),
        compute_capability=f"{properties.major}.{properties.minor}",
        memory=int(properties.totalGlobalMem),
        cuda=f"{version // 1000}.{version % 1000 // 10}",
    )


class Buffer:
    """Memory on the GPU with pinned memory of the host beside it; both are given back by `free`."""

    def __init__(self, size: int) -> None:
        self.size = max(size, 1)
        self.device = int(_call("cudaMalloc", self.size))
        self._host = int(_call("cudaHostAlloc", self.size, 0))

    def host(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The pinned memory as an array."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(self._host))
        return raw.view(dtype).reshape(shape)

    def upload(self, size: int, stream: "Stream") -> None:
        """Copy the first `size` bytes to the GPU."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        _call("cudaMemcpyAsync", self.device, self._host, size, kind, stream.handle)

    def download(self, size: int, stream: "Stream") -> None:
        """Copy the first `size` bytes from the GPU."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call("cudaMemcpyAsync", self._host, self.device, size, kind, stream.handle)

    def free(self) -> None:
        """Give the memory back."""
        _call("cudaFree", self.device)
        _call("cudaFreeHost", self._host)


class Stream:
    """A stream of work on the GPU."""

    def __init__(self) -> None:
        self._stream = _call("cudaStreamCreateWithFlags", _runtime().cudaStreamNonBlocking)
        self.handle = int(self._stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: object, _traceback: TracebackType | None) -> None:
        _call("cudaStreamDestroy", self._stream)

    def wait(self) -> None:
        """Until all of it is done."""
        _call("cudaStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> "Graph":
        """What `work` starts on this stream, as a graph that starts at once.

        Raises:
            GpuError: It holds something that cannot be captured.
        """
        mode = _runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        finally:
            graph = _call("cudaStreamEndCapture", self._stream)
        return Graph(graph, self)

    def time(self, work: Callable[[], None]) -> float:
        """Milliseconds that `work` takes on the GPU."""
        before, after = _call("cudaEventCreate"), _call("cudaEventCreate")
        _call("cudaEventRecord", before, self._stream)
        work()
        _call("cudaEventRecord", after, self._stream)
        _call("cudaEventSynchronize", after)
        milliseconds = float(_call("cudaEventElapsedTime", before, after))
        for event in (before, after):
            _call("cudaEventDestroy", event)
        return milliseconds


class Graph:
    """Work captured once and started as a whole."""

    def __init__(self, graph: Any, stream: Stream) -> None:  # noqa: ANN401 (the bindings have no types)
        self._executable = _call("cudaGraphInstantiate", graph, 0)
        _call("cudaGraphDestroy", graph)
        self._stream = stream

    def launch(self) -> None:
        """Start it on its stream."""
        _call("cudaGraphLaunch", self._executable, self._stream.handle)

    def free(self) -> None:
        """Give it back."""
        _call("cudaGraphExecDestroy", self._executable)


def free_memory() -> int:
    """Bytes of the GPU that nobody uses now."""
    return int(_call("cudaMemGetInfo")[0])
