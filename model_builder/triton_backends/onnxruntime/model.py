"""Triton backend `onnxruntime`, written in Python, for machines without NVIDIA's Triton image.

It serves an unchanged `backend: "onnxruntime"` repository through the onnxruntime wheel. Like the C++ backend, it runs
the requests of one execution as one batch and computes only the outputs that some request asks for. It runs on the GPU
of an instance of kind GPU (what Triton makes of AUTO where there is one) by the CUDA provider of onnxruntime-gpu. It
serves models whose inputs are not ragged.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the module is loaded

import onnx_providers
import onnxruntime


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:  # noqa: ANN401
        return auto_complete_model_config

    def initialize(self, args: dict[str, Any]) -> None:
        config = json.loads(args["model_config"])
        if any(tensor.get("allow_ragged_batch") for tensor in config["input"]):
            raise pb_utils.TritonModelException("this local onnxruntime backend does not serve ragged inputs")
        options = onnxruntime.SessionOptions()
        threads = config["parameters"].get("intra_op_thread_count")
        if threads is not None:
            options.intra_op_num_threads = int(threads["string_value"])
        model = config["default_model_filename"] or "model.onnx"
        path = Path(args["model_repository"]) / args["model_version"] / model
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        self._batched = config["max_batch_size"] > 0
        self._session = self._load(path, options, args, config["parameters"])

    @staticmethod
    def _load(path: Path, options: Any, args: dict[str, Any], parameters: dict[str, Any]) -> Any:  # noqa: ANN401
        # The kind that comes here was AUTO perhaps, which may also be CPU; only the file tells.
        required = "KIND_GPU" in (Path(args["model_repository"]) / "config.pbtxt").read_text(encoding="utf-8")
        kind, device = args["model_instance_kind"], int(args["model_instance_device_id"])
        available = onnxruntime.get_available_providers()
        try:
            chosen = onnx_providers.choose(kind, device, parameters, available, required=required)
        except onnx_providers.ProviderError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        on_gpu = len(chosen) > 1
        if on_gpu:
            onnxruntime.preload_dlls()  # CUDA and cuDNN of NVIDIA's Python packages, which the loader does not look in
        session = onnxruntime.InferenceSession(str(path), options, providers=chosen)
        if on_gpu and onnx_providers.CUDA not in session.get_providers():
            # ONNX Runtime goes on with the CPU then, and is a hundred times slower without anybody knowing why.
            raise pb_utils.TritonModelException(
                f"onnxruntime {onnxruntime.__version__} cannot load {onnx_providers.CUDA}: the log says which library "
                "of CUDA or cuDNN it misses"
            )
        pb_utils.Logger.log_info(f"{args['model_instance_name']} runs on {', '.join(session.get_providers())}")
        return session

    def execute(self, requests: list[Any]) -> list[Any]:
        feeds = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            for request in requests
        ]
        asked = [set(request.requested_output_names()) for request in requests]
        wanted = [name for name in self._outputs if any(name in names for names in asked)]
        if not self._batched:
            results = [self._run(feed, wanted) for feed in feeds]
        else:
            sizes = [len(feed[self._inputs[0]]) for feed in feeds]
            # The scheduler sends whole batches, one a call: those are not copied once more.
            together = (
                feeds[0]
                if len(feeds) == 1
                else {name: np.concatenate([feed[name] for feed in feeds]) for name in self._inputs}
            )
            whole = self._run(together, wanted)
            ends = np.cumsum(sizes)[:-1]
            parts = {name: np.split(array, ends) for name, array in whole.items()}
            results = [{name: parts[name][index] for name in wanted} for index in range(len(requests))]
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in result.items() if name in names]
            )
            for result, names in zip(results, asked, strict=True)
        ]

    def _run(self, feed: dict[str, Any], outputs: list[str]) -> dict[str, Any]:
        return dict(zip(outputs, self._session.run(outputs, feed), strict=True))
