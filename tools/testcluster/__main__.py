"""`python -m tools.testcluster up|down|status|kubectl`: the cluster of `make cluster-up`, in `.cache/cluster`."""

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console

from tools.testcluster.cluster import BINARY, DEFAULT_FOLDER, Cluster, ClusterRunsError
from tools.testcluster.machine import ClusterError

console, errors = (Console(highlight=False, markup=False, soft_wrap=True, stderr=stderr) for stderr in (False, True))


def main() -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.testcluster", description=__doc__)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="where all its files go (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start it, and wait until it works; it stays until `down`")
    commands.add_parser("down", help="end it, and remove everything of it, also after a crash")
    commands.add_parser("status", help="say how each of its programs is; exit code 1 unless all work")
    kubectl = commands.add_parser("kubectl", help="run kubectl on it", prefix_chars="\0")
    kubectl.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    cluster = Cluster(options.folder)
    try:
        match options.command:
            case "up":
                _up(cluster)
            case "down":
                cluster.stop()
            case "status":
                return _status(cluster)
            case "kubectl":
                os.execve(BINARY, [str(BINARY), "kubectl", *options.arguments], os.environ | cluster.environment)  # noqa: S606 - a list
    except ClusterError as error:
        errors.print(f"error: {error}")
        return 1
    return 0


def _up(cluster: Cluster) -> None:
    began = time.monotonic()
    try:
        cluster.start()
    except ClusterRunsError:
        console.print(f"It runs already ({cluster.url}).")
    else:
        cluster.stay()
        console.print(f"The cluster works after {time.monotonic() - began:.0f} s ({cluster.url}).")
    console.print(f"export KUBECONFIG={cluster.kubeconfig} NO_PROXY={cluster.environment['NO_PROXY']}")


def _status(cluster: Cluster) -> int:
    found = cluster.status()
    for name, state in found.items():
        console.print(f"{name:<25}{state}")
    return 0 if all(state.startswith("works") for state in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
