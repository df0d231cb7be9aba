"""Triton model `postprocessing_N`: from best tokens to text."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from asr_serving import tensors, text

VOCABULARY_FILE = "vocabulary.json"


def transcript_tensors(transcript: text.Transcript, wanted: Collection[str]) -> list[Any]:
    """The outputs that the client asked for, each with a batch axis of 1."""
    arrays: dict[tensors.Tensor, Callable[[], npt.NDArray[Any]]] = {
        tensors.DECODED_TEXTS: lambda: np.array([[transcript.text.encode()]], dtype=np.object_),
        tensors.CONFIDENCE: lambda: np.array([[transcript.confidence]], dtype=np.float32),
        tensors.WORDS: lambda: np.array([[word.encode() for word in transcript.words]], dtype=np.object_),
        tensors.WORD_OFFSETS: lambda: transcript.offsets[None],
    }
    return [pb_utils.Tensor(tensor.name, make()) for tensor, make in arrays.items() if tensor.name in wanted]


class TritonPythonModel:
    def initialize(self, args: dict[str, Any]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        self._vocabulary = text.Vocabulary.load(folder / VOCABULARY_FILE)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._one(request) for request in requests]

    def _one(self, request: Any) -> Any:  # noqa: ANN401 (Triton's types exist only inside Triton)
        tokens, logprobs, length = (
            pb_utils.get_input_tensor_by_name(request, tensor.name).as_numpy() for tensor in tensors.ACOUSTIC
        )
        if tokens.shape[0] != 1 or logprobs.shape != tokens.shape:
            message = f"tokens {list(tokens.shape)} and token_logprobs {list(logprobs.shape)} must both be [1, steps]"
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
        if tokens.size and not 0 <= tokens.min() <= tokens.max() <= self._vocabulary.blank:
            message = f"tokens must be between 0 and {self._vocabulary.blank}"
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
        (transcript,) = text.transcribe(tokens, logprobs, length[:, 0], self._vocabulary)
        return pb_utils.InferenceResponse(transcript_tensors(transcript, request.requested_output_names()))
