"""Where the local `onnxruntime` backend runs a model."""

import pytest

from model_builder.triton_backends.onnxruntime.onnx_providers import CPU, CUDA, ProviderError, choose

BOTH = ["TensorrtExecutionProvider", CUDA, CPU]
HEURISTIC = {"cudnn_conv_algo_search": {"string_value": "1"}}


@pytest.mark.parametrize("available", [BOTH, [CPU]])
def test_instances_on_the_cpu_stay_there(available: list[str]) -> None:
    assert choose("CPU", 0, HEURISTIC, available, required=False) == [CPU]


def test_instances_on_a_gpu_use_that_gpu_first() -> None:
    assert choose("GPU", 1, HEURISTIC, BOTH, required=False) == [
        (CUDA, {"device_id": 1, "cudnn_conv_algo_search": "HEURISTIC"}),
        CPU,
    ]


def test_convolutions_are_searched_exhaustively_by_default_like_in_the_real_backend() -> None:
    chosen = choose("GPU", 0, {}, BOTH, required=True)
    assert chosen == [(CUDA, {"device_id": 0, "cudnn_conv_algo_search": "EXHAUSTIVE"}), CPU]


def test_what_may_run_anywhere_runs_on_the_cpu_where_onnxruntime_has_no_cuda() -> None:
    assert choose("GPU", 0, HEURISTIC, [CPU], required=False) == [CPU]


def test_what_must_run_on_a_gpu_says_what_to_install() -> None:
    with pytest.raises(ProviderError, match=r"KIND_GPU, but .*CPUExecutionProvider only; install onnxruntime-gpu"):
        choose("GPU", 0, HEURISTIC, [CPU], required=True)


def test_an_unknown_search_is_named() -> None:
    with pytest.raises(ProviderError, match="cudnn_conv_algo_search is 'EXHAUSTIVE'; one of 0, 1, 2"):
        choose("GPU", 0, {"cudnn_conv_algo_search": {"string_value": "EXHAUSTIVE"}}, BOTH, required=True)
