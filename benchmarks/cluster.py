"""The test cluster: how long it takes to start and to end, to get each image, and what it takes of the machine.

    python benchmarks/cluster.py benchmarks/results      (as root, after `make benchmark-tools images`)

Each round starts a cluster in a new folder, gives it every image, and ends it. `build_seconds` is what buildah takes to
find that nothing changed. Writes `cluster.json`.
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from tools.testcluster import images, machine
from tools.testcluster.cluster import ApiServer, Cluster
from tools.testcluster.machine import ClusterError

MIB = 1024 * 1024


def main(
    results: Annotated[Path, typer.Argument(help="Folder for cluster.json.")],
    rounds: Annotated[int, typer.Option(min=1, help="Clusters to start.")] = 3,
) -> None:
    """Measure, and write the figures."""
    built = {name: _build(name) for name in images.IMAGES}
    measured = [_round(list(built)) for _ in range(rounds)]
    for name, image in built.items():
        image["hand_over_seconds"] = median(each["images"][name] for each in measured)
    record = {
        "cpu": f"{os.cpu_count()} cores, {platform.machine()}, shared",
        "load_average": os.getloadavg()[0],
        "images": built,
        "rounds": [{key: value for key, value in each.items() if key != "images"} for each in measured],
    }
    (results / "cluster.json").write_text(json.dumps(record, indent=1) + "\n")
    typer.echo(json.dumps(record, indent=1))


def _build(name: str) -> dict[str, Any]:
    seconds = _seconds(lambda: images.build(name))
    return {"build_seconds": seconds, "mib": round(sum(layer.size for layer in images.build(name).layers) / MIB)}


def _round(names: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="asr-benchmark-") as temporary:
        server = ApiServer(Path(temporary) / "server")
        record: dict[str, Any] = {"api_server_seconds": _seconds(server.start)}
        server.stop()
        cluster = Cluster(Path(temporary) / "cluster")
        record["up_seconds"] = _seconds(cluster.start)
        try:
            record["resident_mib"] = round(_resident(cluster) / MIB)
            record["folder_mib"] = round(_own_bytes(cluster.folder) / MIB)
            record["images"] = {name: _seconds(lambda name=name: cluster.use_image(name)) for name in names}  # type: ignore[misc]
            record["folder_with_images_mib"] = round(_own_bytes(cluster.folder) / MIB)
        finally:
            record["down_seconds"] = _seconds(cluster.stop)
        return record


def _seconds(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return round(time.monotonic() - began, 2)


def _resident(cluster: Cluster) -> int:
    """Memory of all its programs, what they share is counted for each."""
    total = 0
    for name in cluster.status():
        try:
            pid = cluster.pid(name)
        except ClusterError:  # the supervisor is none of its own
            continue
        total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def _own_bytes(folder: Path) -> int:
    """Disk of all files that are nowhere else: hard links into buildah's storage cost nothing."""
    listing = machine.run(["find", str(folder), "-type", "f", "-links", "1", "-printf", "%b\n"], environment={})
    return sum(int(line) * 512 for line in listing.splitlines())


if __name__ == "__main__":
    typer.run(main)
