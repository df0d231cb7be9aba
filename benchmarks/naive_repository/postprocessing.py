"""`model.py` of the naive pipeline: all log-probabilities come here, all steps are decoded, those of padding too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class TritonPythonModel:
    def initialize(self, args: dict[str, Any]) -> None:
        """Read the vocabulary; the blank follows its last token."""
        path = Path(args["model_repository"]) / args["model_version"] / "tokens.json"
        self._tokens: list[str] = json.loads(path.read_text(encoding="utf-8"))

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            logprobs = pb_utils.get_input_tensor_by_name(request, "logprobs").as_numpy()  # [1, steps, classes]
            text, previous = "", -1
            for token in logprobs[0].argmax(axis=1).tolist():
                if token not in (previous, len(self._tokens)):
                    text += self._tokens[token]
                previous = token
            decoded = np.array([[text.replace(SPACE, " ").strip().encode()]], dtype=np.object_)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("decoded_texts", decoded)]))
        return responses
