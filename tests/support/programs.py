"""Programs of this environment."""

import sys
from pathlib import Path


def program(name: str) -> str:
    """Path of a program beside the running interpreter, such as `model-builder`."""
    return str(Path(sys.executable).parent / name)
