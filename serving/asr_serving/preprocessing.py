"""Triton model `preprocessing_N`: checks and converts audio, and pads it to a shape of the grid.

The mel features are computed inside the acoustic graph, or here when NeMo's preprocessor is the front end. Requests of
one length class leave with equal shapes, so that Triton can batch them at the acoustic model. One bad request never
fails its neighbours: errors go out one by one.
"""

from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from asr_serving import audio, frontend, settings


class TritonPythonModel:
    def initialize(self, args: dict[str, Any]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        self._settings = settings.Settings.load(folder)
        self._frontend = frontend.load(self._settings.frontend, folder)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._one(request) for request in requests]

    def _one(self, request: Any) -> Any:  # noqa: ANN401 (Triton's types exist only inside Triton)
        signal = pb_utils.get_input_tensor_by_name(request, "audio_signal").as_numpy()
        try:
            samples = audio.checked(signal, self._settings.limits)
        except audio.AudioError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        # Memory of its own: answers are copied only when all requests of this call are done.
        batch, lengths = audio.Batches().pad([samples], self._settings.grid.shape_of(samples.size).samples)
        feed = self._frontend(batch, lengths)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in feed.items()])
