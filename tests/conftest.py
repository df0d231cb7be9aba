"""Fixtures that many tests share; what is heavy lives in `tests/builder/conftest.py`."""

import os
import signal
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Read once, when onnxruntime is loaded; nothing here reports anywhere.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# A shell lets what it starts in the background ignore Ctrl-C, and so would all that tests start and send one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

pytest_plugins = ["tools.testcluster.fixtures"]


class Folders(LoadScopeScheduling):
    """Where tests run side by side, those of a folder stay together: they share servers that take long to start."""

    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.split("/")[1]
        return nodeid if folder == "unit" else folder


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Folders:  # noqa: ANN401 (xdist's)
    """For `--dist loadscope`."""
    return Folders(config, log)
