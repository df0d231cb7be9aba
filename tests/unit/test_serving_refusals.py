"""Which failures a client may send again elsewhere."""

import pytest

from asr_serving import refusals

TAKEN_DOWN = "GetElementType is not implemented"
"""Of ONNX Runtime's C++ backend that is torn down while it computes."""


@pytest.mark.parametrize(
    "message",
    [
        "Server not ready",
        "Failed for execute the inference request. Model 'onnx_english_stt' is not ready.",
        "Server is stopping, scheduler for model has stopped accepting new inference requests",
        "Request for unknown model: 'onnx_english_stt' has no available versions",
    ],
)
@pytest.mark.parametrize("ending", [False, True])
def test_what_a_server_that_ends_refuses_is_unavailable_in_the_words_of_each_release(
    message: str, ending: bool
) -> None:
    assert refusals.status(message, ending=ending) == "UNAVAILABLE"


def test_whatever_fails_once_the_server_ends_is_unavailable() -> None:
    assert refusals.status(TAKEN_DOWN, ending=True) == "UNAVAILABLE"


@pytest.mark.parametrize(
    "message", [TAKEN_DOWN, "Stub process 'onnx_english_stt_0_0' is not healthy.", "out of memory"]
)
def test_what_a_server_that_goes_on_fails_is_its_own_fault(message: str) -> None:
    assert refusals.status(message, ending=False) == "INTERNAL"
