"""Triton backend `tensorrt`, written in Python, for GPU machines without NVIDIA's Triton image.

It serves an unchanged `backend: "tensorrt"` repository through TensorRT's Python bindings, and keeps the rules of the
C++ backend: one context for each profile that the configuration names, the profile chosen by the real batch, a CUDA
graph only for exactly the shapes that `graph_spec` lists. It serves models whose inputs are not ragged.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from asr_contract.errors import BuilderError
from model_builder import tensorrt


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:  # noqa: ANN401
        return auto_complete_model_config

    def initialize(self, args: dict[str, Any]) -> None:
        config = json.loads(args["model_config"])
        if any(tensor.get("allow_ragged_batch") for tensor in config["input"]):
            raise pb_utils.TritonModelException("this local tensorrt backend does not serve ragged inputs")
        path = (
            Path(args["model_repository"]) / args["model_version"] / (config["default_model_filename"] or "model.plan")
        )
        self._outputs = [tensor["name"] for tensor in config["output"]]
        try:
            self._plan = tensorrt.Plan(path.read_bytes())
            named = [int(profile) for group in config["instance_group"] for profile in group.get("profile", [])] or [0]
            self._executions = {profile: self._plan.execution(profile) for profile in dict.fromkeys(named)}
            self._capture(config.get("optimization", {}).get("cuda", {}))
        except BuilderError as error:
            raise pb_utils.TritonModelException(str(error)) from error

    def _capture(self, cuda: dict[str, Any]) -> None:
        if not cuda.get("graphs"):
            return
        for spec in cuda.get("graph_spec", []):
            shapes = {
                name: (int(spec["batch_size"]), *(int(size) for size in shape["dim"]))
                for name, shape in spec["input"].items()
            }
            self._executions[self._plan.choose(shapes)].capture(shapes)

    def execute(self, requests: list[Any]) -> list[Any]:
        feeds = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._plan.inputs}
            for request in requests
        ]
        asked = [set(request.requested_output_names()) for request in requests]
        wanted = [name for name in self._outputs if any(name in names for names in asked)]
        try:
            # Batches come whole from the scheduler: the usual call holds one, which need not be copied once more.
            feed = (
                feeds[0]
                if len(feeds) == 1
                else {name: np.concatenate([feed[name] for feed in feeds]) for name in self._plan.inputs}
            )
            whole = self._run(feed, wanted)
        except (BuilderError, ValueError) as error:
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))] * len(requests)
        ends = np.cumsum([len(feed[self._plan.inputs[0]]) for feed in feeds])[:-1]
        parts = {name: np.split(array, ends) for name, array in whole.items()}
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, np.ascontiguousarray(parts[name][index])) for name in wanted if name in names]
            )
            for index, names in enumerate(asked)
        ]

    def _run(self, feed: dict[str, Any], outputs: list[str]) -> dict[str, Any]:
        profile = self._plan.choose({name: array.shape for name, array in feed.items()})
        if profile not in self._executions:
            raise ValueError(f"the configuration names no instance for profile {profile}")
        return self._executions[profile].run(feed, outputs)
