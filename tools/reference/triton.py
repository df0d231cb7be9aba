"""The table of Triton releases in docs/triton.md, from the chart's list."""

import yaml

from tools.reference import CHART, DOCS
from tools.reference.markdown import escape, splice, table

PAGE = DOCS / "triton.md"
RELEASES = CHART / "files" / "triton-releases.yaml"
MARKER = "releases"
COLUMNS = ("release", "triton", "tensorrt", "onnxruntime", "cuda", "driver", "ran")
HEADER = ("release", "Triton", "TensorRT", "ONNX Runtime", "CUDA", "driver that NVIDIA lists", "what was run with it")


def render() -> str:
    """The page with its table as it must be."""
    rows = []
    for index, release in enumerate(yaml.safe_load(RELEASES.read_text())):
        cells = [escape(str(release[key] or "not listed")) for key in COLUMNS]
        offered = "default" if index == 0 else "offered"
        rows.append([f"{cells[0]} ({offered})" if release["offered"] else cells[0], *cells[1:]])
    return splice(PAGE.read_text(), MARKER, table(HEADER, rows))
