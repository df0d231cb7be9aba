"""Fixtures that many tests share; what is heavy lives in `tests/builder/conftest.py`."""

import os

# Read once, when onnxruntime is loaded; nothing here reports anywhere.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

pytest_plugins = ["tests.cluster.fixtures"]
