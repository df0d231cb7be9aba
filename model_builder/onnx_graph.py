"""Work on ONNX files: joining, precision, running. Adapter of onnx and onnxruntime."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_serving import tensors

Arrays = dict[str, npt.NDArray[Any]]

FRONTEND_PREFIX = "frontend/"
"""Names of the mel graph's nodes and values start with it in the joined graph."""
LINKS = (tensors.processed_signal(1).name, tensors.PROCESSED_SIGNAL_LENGTH.name)
"""What the mel graph gives and the acoustic graph takes, by the same names."""


def join(frontend: Path, acoustic: Path, target: Path) -> None:
    """Put the mel graph in front of the acoustic graph.

    Args:
        frontend: ONNX file of the mel graph.
        acoustic: ONNX file of the acoustic graph.
        target: Where the joined model goes.
    """
    import onnx  # noqa: PLC0415
    from onnx import compose  # noqa: PLC0415

    first = compose.add_prefix(onnx.load(frontend), FRONTEND_PREFIX, rename_inputs=False, rename_edges=True)
    second = onnx.load(acoustic)
    joined = compose.merge_models(first, second, io_map=[(FRONTEND_PREFIX + name, name) for name in LINKS])
    onnx.save(joined, target)


def split(model: Path, frontend: Path, acoustic: Path) -> None:
    """Take a joined model apart again: the inverse of `join`."""
    import onnx  # noqa: PLC0415
    from onnx.utils import Extractor  # noqa: PLC0415

    joined = onnx.shape_inference.infer_shapes(onnx.load(model))  # the links need types to become inputs and outputs
    between = [FRONTEND_PREFIX + name for name in LINKS]
    extractor = Extractor(joined)
    first = extractor.extract_model([item.name for item in joined.graph.input], between)
    second = extractor.extract_model(between, [item.name for item in joined.graph.output])
    onnx.save(_renamed(first, lambda name: name.removeprefix(FRONTEND_PREFIX)), frontend)
    back = dict(zip(between, LINKS, strict=True))
    onnx.save(_renamed(second, lambda name: back.get(name, name)), acoustic)


def _renamed(model: Any, rename: Callable[[str], str]) -> Any:  # noqa: ANN401 (onnx's own)
    graph = model.graph
    del graph.value_info[:]
    for item in (*graph.input, *graph.output, *graph.initializer, *graph.node):
        item.name = rename(item.name)
    for node in graph.node:
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
    return model


FP32_OPERATORS = ("LogSoftmax", "Softmax", "ReduceMax", "Range", "Floor", "Log", "Sqrt", "ReduceMean")
"""Left in FP32 by `lower_precision`: probabilities, normalisation sums, and the arithmetic of lengths."""


def lower_precision(source: Path, target: Path, precision: str) -> None:
    """Write an acoustic graph's weights and activations as `FP16` or `BF16`; its inputs and outputs stay FP32.

    The mel graph is joined afterwards and is not touched.
    """
    import onnx  # noqa: PLC0415
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415
    from onnxruntime.transformers.onnx_model import OnnxModel  # noqa: PLC0415

    converted = OnnxModel(
        convert_float_to_float16(onnx.load(source), keep_io_types=True, op_block_list=list(FP32_OPERATORS))
    )
    converted.topological_sort()  # the converter appends its casts at the end
    if precision == "BF16":
        _half_to_bfloat(converted.model, onnx.load(source))
    onnx.save(converted.model, target)


def _half_to_bfloat(model: Any, original: Any) -> None:  # noqa: ANN401 (onnx's own)
    """Turn every FP16 of a converted model into BF16; weights are rounded from the original's FP32, once."""
    from onnx import AttributeProto, TensorProto  # noqa: PLC0415

    exact = {item.name: item for item in original.graph.initializer}
    for item in model.graph.initializer:
        if item.data_type == TensorProto.FLOAT16:
            item.CopyFrom(_as_bfloat(item.name, exact.get(item.name, item)))
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    for attribute in (attribute for node in model.graph.node for attribute in node.attribute):
        if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT16:
            attribute.t.CopyFrom(_as_bfloat(attribute.t.name, attribute.t))
        elif attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.BFLOAT16


def _as_bfloat(name: str, tensor: Any) -> Any:  # noqa: ANN401 (onnx's own)
    import ml_dtypes  # noqa: PLC0415
    from onnx import TensorProto, numpy_helper  # noqa: PLC0415

    array = np.ascontiguousarray(numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16))
    return TensorProto(name=name, data_type=TensorProto.BFLOAT16, dims=array.shape, raw_data=array.tobytes())


def summary(path: Path) -> dict[str, Any]:
    """Check a model and say what is in it.

    Raises:
        onnx.checker.ValidationError: The graph is not valid.
    """
    import onnx  # noqa: PLC0415

    onnx.checker.check_model(str(path))
    model = onnx.load(path, load_external_data=False)
    return {
        "nodes": len(model.graph.node),
        "opset": next(item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}),
        "bytes": path.stat().st_size,
    }


def versions() -> dict[str, str]:
    """Versions of the libraries behind this adapter."""
    import onnx  # noqa: PLC0415
    import onnxruntime  # noqa: PLC0415

    return {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def providers() -> list[str]:
    """What the installed ONNX Runtime can run on."""
    import onnxruntime  # noqa: PLC0415

    return list(onnxruntime.get_available_providers())


class Session:
    """ONNX Runtime on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # it would keep the memory of the largest batch
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [item.name for item in self._session.get_inputs()]
        self.outputs = [item.name for item in self._session.get_outputs()]

    def run(self, feed: Arrays, outputs: Sequence[str] | None = None) -> Arrays:
        """Run once."""
        names = list(outputs or self.outputs)
        return dict(zip(names, self._session.run(names, feed), strict=True))


def finite(arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Whether no array holds NaN or infinity."""
    return all(bool(np.isfinite(array).all()) for array in arrays.values())
