"""Triton's own statistics of each model: read, subtracted, and turned into means. The arithmetic is pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from asr_serving.tensors import model_names

Statistics = Mapping[str, "ModelStatistics"]
"""By model name."""


@dataclass(frozen=True, slots=True)
class Duration:
    """How often something was done, and how long all of that took."""

    count: int = 0
    ns: int = 0

    def __add__(self, other: "Duration") -> "Duration":
        return Duration(self.count + other.count, self.ns + other.ns)

    def __sub__(self, other: "Duration") -> "Duration":
        return Duration(self.count - other.count, self.ns - other.ns)

    @property
    def mean_ms(self) -> float | None:
        """Milliseconds each, None when it was never done."""
        return self.ns / self.count / 1e6 if self.count else None


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """What Triton counted for one model, all versions together.

    Attributes:
        inferences: Rows computed: a request with a batch of 8 counts 8.
        executions: Calls of the model's backend.
        succeeded: Requests answered. The scheduler model counts those here that it refused, too: Triton sees them as
            answered.
        failed: Requests that failed.
        queue: Waiting in Triton's queue for this model, for each request.
        compute: Input, inference and output together, for each request; those of one batch each count all of it.
        batches: Inference by size of the batch that was executed.
    """

    inferences: int = 0
    executions: int = 0
    succeeded: int = 0
    failed: int = 0
    queue: Duration = Duration()
    compute: Duration = Duration()
    batches: Mapping[int, Duration] = field(default_factory=dict)

    def __add__(self, other: "ModelStatistics") -> "ModelStatistics":
        return ModelStatistics(
            self.inferences + other.inferences,
            self.executions + other.executions,
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.queue + other.queue,
            self.compute + other.compute,
            {
                size: self.batches.get(size, Duration()) + other.batches.get(size, Duration())
                for size in sorted({*self.batches, *other.batches})
            },
        )

    def since(self, before: "ModelStatistics") -> "ModelStatistics":
        """What was counted after `before`; all of it when the server was restarted and counts from zero again."""
        if self.inferences < before.inferences or self.executions < before.executions:
            return self
        batches = {size: spent - before.batches.get(size, Duration()) for size, spent in self.batches.items()}
        return ModelStatistics(
            self.inferences - before.inferences,
            self.executions - before.executions,
            self.succeeded - before.succeeded,
            self.failed - before.failed,
            self.queue - before.queue,
            self.compute - before.compute,
            {size: spent for size, spent in batches.items() if spent.count},
        )

    @property
    def mean_batch(self) -> float | None:
        """Rows an execution, None when there was none."""
        return self.inferences / self.executions if self.executions else None

    def to_json(self) -> dict[str, Any]:
        """Counts and means, for a record."""
        return {
            "inferences": self.inferences,
            "executions": self.executions,
            "mean_batch": _rounded(self.mean_batch),
            "succeeded": self.succeeded,
            "failed": self.failed,
            "mean_queue_ms": _rounded(self.queue.mean_ms),
            "mean_compute_ms": _rounded(self.compute.mean_ms),
            "batches": [
                {"batch": size, "executions": spent.count, "mean_inference_ms": _rounded(spent.mean_ms)}
                for size, spent in sorted(self.batches.items())
            ],
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def parse(response: Any) -> dict[str, ModelStatistics]:  # noqa: ANN401 (tritonclient has no types)
    """Read a `ModelStatisticsResponse` of Triton's gRPC."""
    found: dict[str, ModelStatistics] = {}
    for model in response.model_stats:
        spent = model.inference_stats
        # Three phases of the same requests: their times add up, their counts do not.
        phases = (spent.compute_input, spent.compute_infer, spent.compute_output)
        version = ModelStatistics(
            inferences=int(model.inference_count),
            executions=int(model.execution_count),
            succeeded=int(spent.success.count),
            failed=int(spent.fail.count),
            queue=Duration(int(spent.queue.count), int(spent.queue.ns)),
            compute=Duration(int(spent.compute_infer.count), sum(int(phase.ns) for phase in phases)),
            batches={
                int(batch.batch_size): Duration(int(batch.compute_infer.count), int(batch.compute_infer.ns))
                for batch in model.batch_stats
            },
        )
        found[model.name] = found.get(model.name, ModelStatistics()) + version
    return found


def difference(before: Statistics, after: Statistics) -> dict[str, ModelStatistics]:
    """What each model of `after` did since `before`."""
    return {name: counted.since(before.get(name, ModelStatistics())) for name, counted in after.items()}


def base_name(model: str) -> str:
    """The N of any model of the repository of N: `ensemble_N`, `onnx_N` and so on, or N itself."""
    # The longest prefix first: `ensemble_tensorrt_N` begins with `ensemble_`, too.
    prefixes = sorted((name for name in model_names("").values() if name), key=len, reverse=True)
    return next((model.removeprefix(prefix) for prefix in prefixes if model.startswith(prefix)), model)


def acoustic_candidates(model: str, served: Collection[str]) -> list[str]:
    """Acoustic models that requests to `model` may reach, of those that are served."""
    names = model_names(base_name(model))
    engines = {names["ensemble"]: ("onnx",), names["ensemble_tensorrt"]: ("tensorrt",)}
    return [names[engine] for engine in engines.get(model, ("onnx", "tensorrt")) if names[engine] in served]


def acoustic_model(model: str, statistics: Statistics) -> str | None:
    """The acoustic model behind `model`: of several, the one that did most of the work."""
    candidates = acoustic_candidates(model, statistics)
    return max(candidates, key=lambda name: statistics[name].inferences, default=None)
