"""What the adapter calls is in TensorRT 10 and in TensorRT 11, which nothing here has run: by their Python bindings."""

import ast

from tools.testcluster.cluster import PROJECT

NAMES = """
CALIBRATE_BEFORE_FUSION CalibrationAlgoType EXPLICIT_BATCH FP16 BF16 INT8 FP8 INT4 IAlgorithm IAlgorithmSelector
IInt8Calibrator IInt8EntropyCalibrator2 IInt8MinMaxCalibrator IStreamReader OBEY_PRECISION_CONSTRAINTS
PREFER_PRECISION_CONSTRAINTS QuantizationFlag REJECT_EMPTY_ALGORITHMS WEIGHTLESS algorithm_selector
all_shape_inputs_specified compute_precision create_execution_context_without_device_memory device_memory_size
get_calibration_profile get_device_memory_size_for_profile get_dynamic_range get_plugin_creator
get_quantization_flag int8_calibrator minimum_weight_streaming_budget output_type_is_set
parse_with_weight_descriptors plugin_creator_list precision_is_set quantization_flags reset_dynamic_range
reset_output_type reset_precision set_calibration_profile set_dynamic_range set_output_type set_quantization_flag
supports_model weight_streaming_budget
"""
"""In the bindings 10.16.1.11 and no longer in 11.2.1.2, and what went with weak typing."""
REMOVED = frozenset(NAMES.split())
ADAPTERS = ("model_builder/tensorrt.py", "model_builder/triton_backends/tensorrt/model.py")


def test_nothing_that_tensorrt_11_removed_is_called() -> None:
    for path in ADAPTERS:
        tree = ast.parse((PROJECT / path).read_text())
        called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert called & REMOVED == set(), path
