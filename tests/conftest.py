"""Fixtures that many tests share; what is heavy lives in `tests/builder/conftest.py`."""

import os

from hypothesis import settings

# Read once, when onnxruntime is loaded; nothing here reports anywhere.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

pytest_plugins = ["tests.cluster.fixtures"]
