"""Where a model of the local `onnxruntime` backend runs, by the rules of NVIDIA's C++ backend. Pure."""

from collections.abc import Collection, Mapping
from typing import Any

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
CONVOLUTION_SEARCHES = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}
"""Values of the parameter `cudnn_conv_algo_search`, in `config.pbtxt` and in ONNX Runtime."""

Provider = str | tuple[str, dict[str, Any]]


class ProviderError(Exception):
    """The model cannot run as its configuration says."""


def choose(
    kind: str, device: int, parameters: Mapping[str, Mapping[str, str]], available: Collection[str], *, required: bool
) -> list[Provider]:
    """Execution providers, the preferred one first.

    Args:
        kind: Of the instance, `CPU` or `GPU`; Triton makes one of the two from `KIND_AUTO` before a model is loaded.
        device: The GPU's number.
        parameters: Of the model's configuration.
        available: Providers that the installed onnxruntime has.
        required: The configuration itself asks for a GPU; else the CPU does where there is no provider for one.

    Raises:
        ProviderError: There is no provider for the GPU, or a parameter has no meaning.
    """
    if kind != "GPU" or (CUDA not in available and not required):
        return [CPU]
    if CUDA not in available:
        raise ProviderError(
            f"KIND_GPU, but this onnxruntime has {', '.join(available)} only; install onnxruntime-gpu in its place"
        )
    search = parameters.get("cudnn_conv_algo_search", {}).get("string_value", "0")
    if search not in CONVOLUTION_SEARCHES:
        raise ProviderError(f"cudnn_conv_algo_search is {search!r}; one of {', '.join(CONVOLUTION_SEARCHES)} is known")
    return [(CUDA, {"device_id": device, "cudnn_conv_algo_search": CONVOLUTION_SEARCHES[search]}), CPU]
