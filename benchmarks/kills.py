"""Kill -9 at random moments: what builds leave behind, and whether the next one succeeds.

    python benchmarks/kills.py benchmarks/results --kills 50

Builds of the demo checkpoint are killed at random moments of random stages, some in a fresh work folder and some in the
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
STAGES: tuple[str, ...] = ("start", "fetch", "load", "export", "frontend", "check", "repository", "gate", "publish")
START_SECONDS = 2.0
"""The command itself, before its first stage."""
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

    def kill(self, stage: str, seconds: float) -> dict[str, Any]:
        """Start a build and kill it so many seconds after a stage has begun; what that left."""
        process = subprocess.Popen(
            self.command(), env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        if stage != "start":
            for line in process.stderr:  # to its end, if the stage is one that an earlier build did
                if f'"message": "started", "task": "{stage}"' in line:
                    break
        time.sleep(seconds)
        process.kill()
        tasks = [json.loads(line)["task"] for line in process.stderr.readlines() if '"message": "started"' in line]
        process.wait()
        deadline = time.monotonic() + SURVIVORS_SECONDS
        while (alive := servers_over(self.work)) and time.monotonic() < deadline:
            time.sleep(0.1)
        visible = len(self.manifests())
        during = "end" if process.returncode == 0 else [stage, *tasks][-1]
        return {
            "seconds": round(seconds, 3),
            "during": during,
            "visible": visible,
            "whole": self.verified() if visible else None,
            "alive": len(alive),
        }

    def lengths(self) -> dict[str, float]:
        """Seconds that each stage takes, from a build that is left alone."""
        done = subprocess.run(self.command(), env=self.environment, capture_output=True, text=True, check=True)
        assert self.verified()
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        found = {line["task"]: float(line["seconds"]) for line in lines if line["message"] == "finished"}
        return {"start": START_SECONDS} | {stage: found[stage] for stage in STAGES[1:]}

    def build(self) -> bool:
        """A build that is left alone; whether it succeeded and its artifact is whole."""
        done = subprocess.run(self.command(), env=self.environment, capture_output=True, check=False)
        return done.returncode == 0 and self.verified()


def main(
    results: Annotated[Path, typer.Argument(help="Folder for kills.json.")],
    *,
    kills: Annotated[int, typer.Option(help="How many builds to kill.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Kill, look, build; exits with 1 when anything was left that should not be."""
    choice = random.Random(seed)  # noqa: S311 (moments, not secrets)
    with tempfile.TemporaryDirectory() as temporary, s3_server(Path(temporary)) as s3:
        run = Run(s3, Path(temporary))
        lengths = run.lengths()
        shutil.rmtree(run.work)
        sound: list[bool] = []
        killed: list[dict[str, Any]] = []
        left = STAGES
        for index in range(kills):
            stage = choice.choice(left)
            killed.append(run.kill(stage, choice.uniform(0, lengths[stage])))
            during = str(killed[-1]["during"])
            typer.echo(f"{index + 1:3} {killed[-1]}")
            left = STAGES[STAGES.index(during) :] if during in STAGES else STAGES
            if (index + 1) % 10 == 0 or index + 1 == kills:
                sound.append(run.build())
                left = STAGES
            if left == STAGES or killed[-1]["visible"] or choice.random() < FRESH:
                shutil.rmtree(run.work, ignore_errors=True)
                left = STAGES
    record = {
        "kills": kills,
        "seed": seed,
        "stage_seconds": lengths,
        "during": dict(Counter(item["during"] for item in killed)),
        "visible_and_whole": sum(item["whole"] is True for item in killed),
        "visible_and_not_whole": sum(item["whole"] is False for item in killed),
        "servers_left": sum(item["alive"] for item in killed),
        "builds_afterwards": len(sound),
        "builds_afterwards_that_verify": sum(sound),
        "each": killed,
        "versions": versions(),
        "cpu": f"{os.cpu_count()} cores, {platform.machine()}, shared",
        "command": f"python benchmarks/kills.py benchmarks/results --kills {kills} --seed {seed}",
    }
    (results / "kills.json").write_text(json.dumps(record, indent=1) + "\n")
    if record["visible_and_not_whole"] or record["servers_left"] or not all(sound):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
