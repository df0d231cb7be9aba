"""What `make demo-local` runs, without a cluster: from the demo checkpoint to transcripts, by commands of a user."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from model_builder.audio_set import SHIPPED, TRANSCRIPTS
from model_builder.triton import Ports
from tests.support.programs import program
from tests.support.s3 import s3_server

CHECKPOINT = Path(__file__).parent / "english_stt.nemo"
NAME = "english_stt"

console = Console(stderr=True, highlight=False)


def show(command: list[str], note: str) -> None:
    """Print a command as a user would type it."""
    console.print(f"\n[bold cyan]# {note}[/]\n[bold]$ {shlex.join(command)}[/]", soft_wrap=True)


def run(command: list[str], note: str, environment: dict[str, str]) -> None:
    """Run a command to its end, its output for all to see."""
    show(command, note)
    finished = subprocess.run([program(command[0]), *command[1:]], env=os.environ | environment, check=False)
    if finished.returncode:
        raise SystemExit(finished.returncode)


def build(command: list[str], note: str, environment: dict[str, str]) -> str:
    """Run a build; returns the artifact's URI, the last line of its standard output."""
    show(command, note)
    finished = subprocess.run(
        [program(command[0]), *command[1:]],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise SystemExit(finished.returncode)
    console.print(finished.stdout.rstrip(), soft_wrap=True)
    return finished.stdout.splitlines()[-1]


@contextmanager
def serving(repository: Path, ports: Ports) -> Iterator[None]:
    """Run `model-builder serve` while the block runs, entered when it is ready."""
    numbers = ("--grpc-port", str(ports.grpc), "--http-port", str(ports.http), "--metrics-port", str(ports.metrics))
    command = ["model-builder", "serve", str(repository), *numbers]
    show(command, "Serve it with a real Triton")
    with subprocess.Popen([program(command[0]), *command[1:]], stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr or ():
                sys.stderr.write(line)
                if line.startswith("ready"):
                    break
            else:
                raise SystemExit(process.wait())
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def main() -> None:
    """Build, publish, fetch, serve, transcribe."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="asr-demo-") as temporary, s3_server(Path(temporary)) as s3:
        work = Path(temporary)
        console.print(f"A real S3 server runs on {s3.environment['AWS_ENDPOINT_URL']}; everything else is below {work}")
        uri = build(
            [
                *("model-builder", "build", "--source", os.path.relpath(CHECKPOINT), "--name", NAME),
                *("--storage", f"{s3.uri}/demo", "--work", str(work / "work")),
            ],
            "Export, check, serve, compare with NeMo, publish",
            s3.environment,
        )
        run(["model-builder", "inspect", uri], "What was published", s3.environment)
        repository = work / "repository"
        run(["model-builder", "fetch", uri, str(repository)], "Fetch it back, every byte verified", s3.environment)
        ports = Ports.free()
        with serving(repository, ports):
            files = [os.path.relpath(path) for path in sorted(SHIPPED.glob("*.wav"))]
            run(
                [
                    *("asr", "transcribe", "--url", ports.grpc_url, "--model", NAME),
                    *("--reference", os.path.relpath(SHIPPED / TRANSCRIPTS), *files),
                ],
                "Transcribe",
                {},
            )
    console.print(f"\nFrom checkpoint to text in {time.monotonic() - started:.0f} s.")


if __name__ == "__main__":
    main()
