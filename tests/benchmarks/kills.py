"""Kill -9 at random moments: what builds leave behind, and whether the next one succeeds.

    python tests/benchmarks/kills.py tests/benchmarks/results --kills 50

Builds of the demo checkpoint are killed at uniformly distributed moments, some in a fresh work folder and some in the
one of the build before. After each kill: no artifact is visible (or, if the kill came after publishing, a whole one),
and no Triton is left. After every tenth, a build must succeed and its artifact verify. Writes `kills.json`.
"""

import json
import os
import platform
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from model_builder.pipeline import versions
from tests.support.processes import servers_over
from tests.support.programs import program
from tests.support.s3 import S3Server, s3_server

CHECKPOINT = Path(__file__).parents[1] / "demo" / "english_stt.nemo"
FRESH = 0.6
"""Share of the builds that begin in an empty work folder; the others continue."""
SURVIVORS_SECONDS = 30.0


class Run:
    """Builds against one server, each into a prefix that lasts until something was published there."""

    def __init__(self, s3: S3Server, folder: Path) -> None:
        self.s3, self.work, self.prefixes = s3, folder / "work", 0
        self.environment = os.environ | s3.environment

    @property
    def prefix(self) -> str:
        return f"kills-{self.prefixes}"

    def command(self) -> list[str]:
        return [
            *(program("model-builder"), "build", "--source", str(CHECKPOINT), "--name", "english_stt", "--json"),
            *("--storage", f"{self.s3.uri}/{self.prefix}", "--work", str(self.work)),
        ]

    def manifests(self) -> list[Path]:
        return list((self.s3.folder / self.prefix).rglob("manifest.json"))

    def verified(self) -> bool:
        """Whether the one artifact of this prefix is whole; the next build has a prefix of its own."""
        (manifest,) = self.manifests()
        uri = f"{self.s3.uri}/{manifest.parent.relative_to(self.s3.folder)}"
        done = subprocess.run(
            [program("model-builder"), "verify", uri], env=self.environment, capture_output=True, check=False
        )
        self.prefixes += 1
        return done.returncode == 0

    def kill_after(self, seconds: float) -> dict[str, Any]:
        """Start a build and kill it; what it was doing, and what it left."""
        log = self.work.with_suffix(".log")
        with log.open("wb") as output:
            process = subprocess.Popen(self.command(), env=self.environment, stdout=subprocess.DEVNULL, stderr=output)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        tasks = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        last = tasks[-1] if tasks else {"message": "finished", "task": "start"}
        during = str(last.get("task", last["message"]))
        if process.returncode == 0:
            during = "end"
        elif last["message"] == "finished":
            during = f"after {during}"
        deadline = time.monotonic() + SURVIVORS_SECONDS
        while (alive := servers_over(self.work)) and time.monotonic() < deadline:
            time.sleep(0.1)
        visible = len(self.manifests())
        whole = self.verified() if visible else None
        return {"seconds": round(seconds, 2), "during": during, "visible": visible, "whole": whole, "alive": len(alive)}

    def build(self) -> bool:
        """A build that is left alone; whether it succeeded and its artifact is whole."""
        done = subprocess.run(self.command(), env=self.environment, capture_output=True, check=False)
        return done.returncode == 0 and self.verified()


def main(
    results: Annotated[Path, typer.Argument(help="Folder for kills.json.")],
    *,
    kills: Annotated[int, typer.Option(help="How many builds to kill.")] = 50,
    within: Annotated[
        float | None, typer.Option(help="Latest moment in seconds.", show_default="as long as a build takes")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Kill, look, build; exits with 1 when anything was left that should not be."""
    choice = random.Random(seed)  # noqa: S311 (moments, not secrets)
    with tempfile.TemporaryDirectory() as temporary, s3_server(Path(temporary)) as s3:
        run = Run(s3, Path(temporary))
        sound = [run.build()]  # the first reads the packages from disk
        shutil.rmtree(run.work)
        started = time.monotonic()
        sound.append(run.build())
        length = time.monotonic() - started
        shutil.rmtree(run.work)
        killed = []
        for index in range(kills):
            killed.append(run.kill_after(choice.uniform(0.2, within or length)))
            typer.echo(f"{index + 1:3} {killed[-1]}")
            if (index + 1) % 10 == 0 or index + 1 == kills:
                sound.append(run.build())
            if choice.random() < FRESH:
                shutil.rmtree(run.work, ignore_errors=True)
    record = {
        "kills": kills,
        "seed": seed,
        "build_seconds": round(length, 1),
        "within_seconds": round(within or length, 1),
        "during": dict(Counter(item["during"] for item in killed)),
        "visible_and_whole": sum(item["whole"] is True for item in killed),
        "visible_and_not_whole": sum(item["whole"] is False for item in killed),
        "servers_left": sum(item["alive"] for item in killed),
        "builds_afterwards": len(sound) - 2,
        "builds_afterwards_that_verify": sum(sound[2:]),
        "each": killed,
        "versions": versions(),
        "cpu": f"{os.cpu_count()} cores, {platform.machine()}, shared",
        "command": f"python tests/benchmarks/kills.py tests/benchmarks/results --kills {kills} --seed {seed}"
        + (f" --within {within:g}" if within else ""),
    }
    (results / "kills.json").write_text(json.dumps(record, indent=1) + "\n")
    if record["visible_and_not_whole"] or record["servers_left"] or not all(sound):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
