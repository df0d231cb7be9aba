"""Where the acoustic model runs: one that silently runs on the CPU is a hundred times slower than it looks."""

from collections.abc import Sequence
from typing import Any

from asr_cli.conform.outcome import Result, failed, passed, skipped
from asr_cli.conform.prometheus import Metrics

MEMORY = "GPU memory"
USED, TOTAL = "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes"
LEAST_BYTES = 200 * 1024 * 1024
"""What CUDA itself takes of a GPU, at least."""
MIB = 1024 * 1024
NO_CUDA = (
    "CUDA did not start in the container: look for errors of CUDA in Triton's log, compare the driver with what the "
    "image needs, and see that the pod asks for a GPU."
)


def judge_kind(model: str, kinds: Sequence[str], *, gpu: bool | None, visible: bool) -> Result:
    """Whether the instances of the acoustic model are where they should be.

    Args:
        model: Its name.
        kinds: Kind of each instance group in the configuration as served, such as `KIND_GPU`.
        gpu: Whether a GPU is expected; None where nothing says so.
        visible: Whether the server's metrics show a GPU.
    """
    check = f"instance kind {model}"
    figures: dict[str, Any] = {"kinds": list(kinds), "gpu_expected": gpu, "gpu_in_metrics": visible}
    expected = visible if gpu is None else gpu
    shown = ", ".join(kinds) or "none"
    if expected and (not kinds or set(kinds) != {"KIND_GPU"}):
        reason = "this pool has GPUs" if gpu else "the server has a GPU"
        return failed(check, f"instances are {shown}, and {reason}: the model runs on the CPU", NO_CUDA, **figures)
    if not expected and "KIND_GPU" in kinds:
        hint = "The pool is for CPUs, but its server uses a GPU: write spec.pools[].gpu, or take the GPU away."
        return failed(check, f"instances are {shown}, and no GPU is expected", hint, **figures)
    if not expected and (not kinds or "KIND_AUTO" in kinds):
        return failed(check, f"instances are {shown}: nothing says where they run", "Update the artifact.", **figures)
    where = "on the GPU" if expected else "on the CPU"
    unsaid = "; --gpu makes a GPU required" if gpu is None and not visible else ""
    return passed(check, f"{shown}: the model runs {where}{unsaid}", **figures)


def has_gpu(metrics: Metrics | None) -> bool:
    """Whether a server's metrics show a GPU."""
    return bool(metrics and (metrics.values(TOTAL) or metrics.values(USED)))


def judge_memory(metrics: Metrics, model_bytes: int | None, *, gpu: bool | None) -> Result:
    """Whether GPU memory has grown by at least the model.

    Args:
        metrics: Of the server.
        model_bytes: Size of the acoustic models' files; None where it is not known.
        gpu: Whether a GPU is expected; None where nothing says so.
    """
    used = metrics.values(USED)
    if not used:
        if gpu:
            hint = "DCGM may not report memory of MIG devices; nvidia-smi in the pod shows it."
            return skipped(MEMORY, f"a GPU is expected, but the metrics hold no {USED}", hint)
        return skipped(MEMORY, "no GPU is expected, and the metrics show none")
    least = max(LEAST_BYTES, model_bytes or 0)
    figures: dict[str, Any] = {"used_bytes": used, "expected_bytes": least}
    if max(used) < least:
        message = f"at most {max(used) / MIB:,.0f} MiB of GPU memory are in use; model and CUDA need {least / MIB:,.0f}"
        return failed(MEMORY, message, NO_CUDA, **figures)
    return passed(MEMORY, f"{max(used) / MIB:,.0f} MiB in use, at least {least / MIB:,.0f} expected", **figures)
