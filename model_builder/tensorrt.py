"""TensorRT: building, loading, running and timing plans. Adapter of tensorrt, and of tensorrt_rtx, which needs no GPU.

The network is strongly typed: precision is what the ONNX says, so that one path serves TensorRT 10 and 11.
"""

import importlib
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from asr_contract.errors import IncompatiblePlanError, MissingExtraError, PlanError
from model_builder.cuda import Buffer, Graph, Stream
from model_builder.progress import Task

Arrays = dict[str, npt.NDArray[Any]]
Shape = tuple[int, ...]
ShapeRange = tuple[Shape, Shape, Shape]
"""Smallest, optimum, largest."""

UNITS = 1_000
"""Of progress in a build."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a build may take.

    Attributes:
        seconds: Of time; the build is stopped then.
        workspace: Bytes of GPU memory for the scratch space of one layer; None leaves it to TensorRT.
        optimization_level: TensorRT's, 0 to 5: how many ways of computing a layer it tries. On an H100, level 1 gives
            the throughput of TensorRT's default, 3, in a third of the time.
    """

    seconds: float = 3600.0
    workspace: int | None = None
    optimization_level: int = 1


@dataclass(frozen=True, slots=True)
class Built:
    """A plan's bytes, the timing cache that a later build starts from, and the seconds that it took."""

    plan: bytes
    timing_cache: bytes
    seconds: float


def _library(name: str) -> Any:  # noqa: ANN401 (TensorRT's types are behind this adapter)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"{name} cannot be imported ({error}); use the builder image, or", "tensorrt"
        ) from error


def version(library: str = "tensorrt") -> str:
    """Version of the library, such as 10.6.0.

    Raises:
        MissingExtraError: It is not installed.
    """
    found = re.match(r"\d+(\.\d+)*", str(_library(library).__version__))
    assert found is not None  # noqa: S101 (versions start with numbers)
    return found[0]


def _logger(trt: Any) -> Any:  # noqa: ANN401
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps what TensorRT complains of, for the error that follows."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            if severity in {trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR}:
                self.errors.append(message.strip()[:600])

        def told(self) -> str:
            return "\n".join(self.errors[-3:]) or "TensorRT gave no reason"

    return Logger()


def _monitor(trt: Any, task: Task, deadline: float) -> Any:  # noqa: ANN401
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Turns TensorRT's nested phases into one fraction, and stops the build at the deadline."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, tuple[str | None, int, int]] = {}
            self.shown = 0.0
            self.started = time.monotonic()
            self.late = False

        def _done(self, phase: str) -> float:
            _, steps, step = self.phases[phase]
            inner = [self._done(name) for name, (parent, _, _) in self.phases.items() if parent == phase]
            return min(1.0, (step + max(inner, default=0.0)) / max(steps, 1))

        def _show(self) -> None:
            roots = [self._done(name) for name, (parent, _, _) in self.phases.items() if parent is None]
            done = UNITS * max(roots, default=0.0)
            if done > self.shown:
                task.advance(done - self.shown)
                self.shown = done
                spent = time.monotonic() - self.started
                task.note(f"about {spent * (UNITS - done) / done:.0f} s to go")

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            known = parent_phase if parent_phase in self.phases else None
            self.phases[phase_name] = (known, num_steps, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.phases:
                parent, steps, _ = self.phases[phase_name]
                self.phases[phase_name] = (parent, steps, step + 1)
                self._show()
            self.late = time.monotonic() > deadline
            return not self.late

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

    return Monitor()


def build(
    model: Path,
    profiles: Sequence[Mapping[str, ShapeRange]],
    *,
    limits: Limits,
    timing_cache: bytes,
    task: Task,
    library: str = "tensorrt",
    compute_capability: tuple[int, int] | None = None,
) -> Built:
    """Build a plan.

    Args:
        model: ONNX file.
        profiles: For each optimisation profile, the shapes of each input.
        limits: What it may take.
        timing_cache: Of an earlier build on the same GPU product and TensorRT, or empty. A foreign one is not used.
        task: Told of the progress, in `UNITS`.
        library: `tensorrt`, or `tensorrt_rtx` to build without a GPU.
        compute_capability: For `tensorrt_rtx`, which builds for GPUs that are not here.

    Raises:
        PlanError: TensorRT cannot parse or build it; the message holds its reason.
        MissingExtraError: The library is not installed.
    """
    trt = _library(library)
    logger = _logger(trt)
    started = time.monotonic()
    builder = trt.Builder(logger)
    if not builder:
        raise PlanError(f"TensorRT does not start: {logger.told()}")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        reasons = [parser.get_error(index) for index in range(parser.num_errors)]
        told = "; ".join(f"{reason.node_operator()} {reason.node_name()}: {reason.desc()}" for reason in reasons[:3])
        raise PlanError(f"TensorRT {version(library)} cannot take {model.name}: {told or logger.told()}")
    config = builder.create_builder_config()
    # Features are FP32 and stay so; what may be lower says so in the ONNX.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = limits.optimization_level
    if limits.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limits.workspace)
    if compute_capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, "SM{}{}".format(*compute_capability)), 0)
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, (smallest, optimum, largest) in shapes.items():
            profile.set_shape(name, smallest, optimum, largest)
        config.add_optimization_profile(profile)
    cache = _use_timing_cache(config, timing_cache)
    monitor = _monitor(trt, task, started + limits.seconds)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        if monitor.late:
            raise PlanError(
                f"the plan was not built within {limits.seconds:.0f} s; allow more, or build fewer or smaller shapes"
            )
        raise PlanError(f"TensorRT {version(library)} cannot build the plan: {logger.told()}")
    return Built(bytes(plan), bytes(cache.serialize()) if cache else b"", time.monotonic() - started)


def _use_timing_cache(config: Any, content: bytes) -> Any:  # noqa: ANN401
    """Start from `content` if this TensorRT on this GPU wrote it, else from nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TensorRT for RTX keeps the calls, which do nothing there
        cache = config.create_timing_cache(content)
        if not cache or not config.set_timing_cache(cache, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
        return config.get_timing_cache()


class Plan:
    """A plan on this GPU."""

    def __init__(self, content: bytes, *, library: str = "tensorrt") -> None:
        """Load it.

        Raises:
            IncompatiblePlanError: It is damaged, or was built by another TensorRT or for another GPU.
        """
        self._trt = _library(library)
        self._logger = _logger(self._trt)
        self._runtime = self._trt.Runtime(self._logger)
        self.engine = self._runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise IncompatiblePlanError(
                f"TensorRT {version(library)} cannot load the plan ({len(content)} bytes): {self._logger.told()}"
            )
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        is_input = {name: self.engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT for name in names}
        self.inputs = [name for name in names if is_input[name]]
        self.outputs = [name for name in names if not is_input[name]]
        self.profiles: list[dict[str, ShapeRange]] = [
            {
                name: tuple(tuple(shape) for shape in self.engine.get_tensor_profile_shape(name, profile))  # type: ignore[misc]
                for name in self.inputs
            }
            for profile in range(self.engine.num_optimization_profiles)
        ]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Of a tensor."""
        return np.dtype(self._trt.nptype(self.engine.get_tensor_dtype(name)))

    def memory(self) -> int:
        """Bytes of activations that one execution of the largest profile needs."""
        return int(self.engine.device_memory_size_v2)

    def execution(self, profile: int) -> "Execution":
        """What runs one profile."""
        return Execution(self, profile)

    def choose(self, shapes: Mapping[str, Shape]) -> int:
        """The profile for these shapes: of those that hold them, the nearest.

        Triton's C++ backend measures nearness otherwise; profiles that do not overlap leave neither a choice.

        Raises:
            ValueError: No profile holds them.
        """
        best: tuple[int, int] | None = None
        for index, profile in enumerate(self.profiles):
            fits = all(
                all(
                    low <= size <= high
                    for low, size, high in zip(profile[name][0], shape, profile[name][2], strict=True)
                )
                for name, shape in shapes.items()
            )
            if fits:
                away = sum(
                    abs(optimum - size)
                    for name, shape in shapes.items()
                    for optimum, size in zip(profile[name][1], shape, strict=True)
                )
                best = min(best or (away, index), (away, index))
        if best is None:
            held = "; ".join(str({name: shape[2] for name, shape in profile.items()}) for profile in self.profiles)
            raise ValueError(f"no profile of the plan holds {dict(shapes)}; the largest shapes are {held}")
        return best[1]


class Execution:
    """One context of a plan with its own memory: not for two threads at once."""

    def __init__(self, plan: Plan, profile: int) -> None:
        self._plan = plan
        self._stream = Stream()
        self._context = plan.engine.create_execution_context()
        if self._context is None:
            raise PlanError(f"TensorRT cannot make room for profile {profile}: {plan._logger.told()}")  # noqa: SLF001
        self._context.set_optimization_profile_async(profile, self._stream.handle)
        self._stream.wait()
        self._largest = {name: shapes[2] for name, shapes in plan.profiles[profile].items()}
        self._set_shapes(self._largest)
        shapes = self._largest | {name: self._shape(name) for name in plan.outputs}
        self._buffers = {
            name: Buffer(int(np.prod(shape)) * plan.dtype(name).itemsize) for name, shape in shapes.items()
        }
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.device)
        self._graphs: dict[tuple[Shape, ...], Graph] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for graph in self._graphs.values():
            graph.free()
        for buffer in self._buffers.values():
            buffer.free()
        del self._context

    def _set_shapes(self, shapes: Mapping[str, Shape]) -> None:
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise PlanError(f"the plan does not take {name} of shape {list(shape)}: {self._plan._logger.told()}")  # noqa: SLF001

    def _shape(self, name: str) -> Shape:
        return tuple(self._context.get_tensor_shape(name))

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise PlanError(f"TensorRT cannot run the plan: {self._plan._logger.told()}")  # noqa: SLF001

    def capture(self, shapes: Mapping[str, Shape]) -> None:
        """Make a CUDA graph for exactly these shapes; `run` uses it from then on."""
        self._set_shapes(shapes)
        self._enqueue()  # the first run of a shape sets things up that cannot be captured
        self._stream.wait()
        self._graphs[tuple(shapes[name] for name in self._plan.inputs)] = self._stream.capture(self._enqueue)

    def run(self, feed: Arrays, outputs: Sequence[str] | None = None) -> Arrays:
        """Run once; `outputs` limits what is copied back."""
        shapes = {name: tuple(array.shape) for name, array in feed.items()}
        for name, array in feed.items():
            dtype = self._plan.dtype(name)
            self._buffers[name].host(array.shape, dtype)[...] = array
            self._buffers[name].upload(array.size * dtype.itemsize, self._stream)
        self._start(shapes)
        results = {}
        for name in outputs or self._plan.outputs:
            shape, dtype = self._shape(name), self._plan.dtype(name)
            self._buffers[name].download(int(np.prod(shape)) * dtype.itemsize, self._stream)
            results[name] = self._buffers[name].host(shape, dtype)
        self._stream.wait()
        return {name: array.copy() for name, array in results.items()}

    def _start(self, shapes: Mapping[str, Shape]) -> None:
        self._set_shapes(shapes)
        graph = self._graphs.get(tuple(shapes[name] for name in self._plan.inputs))
        if graph is not None:
            graph.launch()
        else:
            self._enqueue()

    def time(self, feed: Arrays, *, repeats: int) -> float:
        """Median milliseconds on the GPU for these inputs, copies left out."""
        self.run(feed)
        shapes = {name: tuple(array.shape) for name, array in feed.items()}
        return float(np.median([self._stream.time(lambda: self._start(shapes)) for _ in range(repeats)]))
