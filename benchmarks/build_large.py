"""Time and memory of the build of a large checkpoint, stage by stage.

    python benchmarks/build_large.py benchmarks/results

Makes a FastConformer-CTC checkpoint of 115.6 M random parameters, builds it by the command line into a local folder,
and writes `build_115m.json`. Memory is the peak of the largest single process, as the operating system counts it.
"""

import json
import os
import platform
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from tests.support.checkpoints import made
from tests.support.programs import program


def main(results: Annotated[Path, typer.Argument(help="Folder for build_115m.json.")]) -> None:
    """Build once and write what it took."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = made(folder, "large")["large"]
        made_with = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        started = time.monotonic()
        subprocess.run(
            [
                *(program("model-builder"), "build", "--source", str(source), "--name", "english_stt"),
                *("--storage", (folder / "store").as_uri(), "--work", str(folder / "work")),
            ],
            check=True,
        )
        wall = time.monotonic() - started
        report = json.loads((folder / "work" / "report.json").read_text())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    if peak == made_with:
        raise RuntimeError("making the checkpoint took more memory than the build; its peak is not known")
    stages = report["stages"]
    record = {
        "case": f"build of {stages['export']['parameters'] / 1e6:.1f} M parameters (FastConformer CTC large, random "
        "weights), ONNX Runtime, FP32",
        "seconds": {name: stage["seconds"] for name, stage in stages.items()} | {"wall": round(wall, 1)},
        "peak_rss_mb": round(peak / 1024),
        "versions": report["versions"],
        "cpu": f"{os.cpu_count()} cores, {platform.machine()}, shared",
        "command": "python benchmarks/build_large.py benchmarks/results",
    }
    (results / "build_115m.json").write_text(json.dumps([record], indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
