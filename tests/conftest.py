"""Fixtures that many tests share; what is heavy lives in `tests/builder/conftest.py`."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Read once, when onnxruntime is loaded; nothing here reports anywhere.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

pytest_plugins = ["tests.cluster.fixtures"]


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run side by side, those of a folder stay together: they share servers that take long to start."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder != "unit":
            item.add_marker(pytest.mark.xdist_group(folder))
