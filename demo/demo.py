"""What `make demo` runs: `helm install`, `kubectl apply`, transcripts, on a Kubernetes of its own.

Each step is the command that a user would type, printed and then run. The cluster goes on running afterwards.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from demo.timeline import Moment, Timeline
from tests.support import platform
from tests.support.programs import program
from tools.testcluster.cluster import BINARY, DEFAULT_FOLDER, HELM, PROJECT, Cluster, ClusterRunsError
from tools.testcluster.images import ImageError
from tools.testcluster.machine import ClusterError

NAMESPACE = "speech"
NAME = "english"
WAIT_MINUTES = 20
LOOK_SECONDS = 0.5
NOTES = {
    "s3": "object storage",
    "operator": "the operator",
    "triton": "the server",
    "builder": "NeMo and torch, 7 GB: minutes the first time",
}

console = Console(stderr=True, highlight=False, soft_wrap=True)


class DemoError(Exception):
    """A step failed; the message says which, and what to look at."""


def main() -> int:
    """Run it; returns the exit code."""
    began = time.monotonic()
    cluster = Cluster(DEFAULT_FOLDER)
    try:
        start(cluster)
        install(cluster)
        prepare(cluster)
        deploy(cluster)
        transcribe(cluster)
    except (DemoError, ClusterError, ImageError) as error:
        console.print(f"\n[red]The demo failed:[/] {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted. `make demo` goes on where it can; `make cluster-down` ends the cluster.")
        return 130
    console.print(
        f"\nFrom nothing to text in {time.monotonic() - began:.0f} s. The cluster goes on running; look around with\n"
        f"{escape(setup(cluster.kubeconfig, cluster.environment['NO_PROXY']))}\n"
        f"  kubectl get asr,pods -n {NAMESPACE}; kubectl describe asr {NAME} -n {NAMESPACE}; "
        "kubectl explain asr.spec.pools\n"
        "and end it with `make cluster-down`.",
    )
    return 0


def setup(kubeconfig: Path, no_proxy: str) -> str:
    """Shell lines after which the programs that the demo printed are found, in whatever folder."""
    folders = f"{Path(sys.executable).parent}:{HELM.parent}"
    return (
        f"  export PATH={folders}:$PATH KUBECONFIG={kubeconfig.absolute()} NO_PROXY={no_proxy} no_proxy={no_proxy}\n"
        f"  alias kubectl='{BINARY} kubectl'"
    )


def start(cluster: Cluster) -> None:
    """A cluster with all images, whatever of it is there already."""
    with step("a Kubernetes of our own, one node") as status:
        try:
            cluster.start()
            cluster.stay()
        except ClusterRunsError:
            status.note("it runs already")
    os.environ.update(cluster.environment)  # for the programs and clients below
    for name in platform.IMAGES:
        with step(f"image {name}: {NOTES[name]}"):
            cluster.use_image(name)


def install(cluster: Cluster) -> None:
    """The operator, by its chart."""
    command = [os.path.relpath(part, PROJECT) if part.startswith("/") else part for part in platform.INSTALL]
    os.environ["HELM_CACHE_HOME"] = str(cluster.folder / "helm")
    run(["helm", *command], "Install the operator")


def prepare(cluster: Cluster) -> None:
    """What stands for a company's object storage, with a checkpoint in it."""
    with step("an S3 server with a bucket, a checkpoint in it, and a Secret with its keys"):
        # Pods of a former demo drain for a minute, and nobody is there to be drained for.
        cluster.kubectl(
            "delete", "asr,pods", "--all", "-n", NAMESPACE, "--ignore-not-found", "--grace-period=0", "--force"
        )
        cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s", seconds=190)
        platform.add_namespace(cluster, NAMESPACE)


def deploy(cluster: Cluster) -> None:
    """From the manifest to Ready, with a line for all that happens."""
    manifest = os.path.relpath(platform.MANIFEST, PROJECT)
    console.print(f"\n{platform.MANIFEST.read_text().rstrip()}", style="dim", markup=False)
    run(["kubectl", "apply", "--namespace", NAMESPACE, "--filename", manifest], "Ask for a served model")
    applied = datetime.now(UTC)
    timeline = Timeline(str(cluster.kubeconfig), NAMESPACE, NAME)
    wait = ["kubectl", "wait", "--for=condition=Ready", f"asr/{NAME}", "-n", NAMESPACE, f"--timeout={WAIT_MINUTES}m"]
    show(shlex.join(wait), "Wait until it is served")
    with (
        subprocess.Popen([*resolved(wait)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as waiting,
        console.status("") as status,
    ):
        while waiting.poll() is None:
            tell(timeline.news(), applied)
            passed = (datetime.now(UTC) - applied).total_seconds()
            status.update(f"{passed:.0f} s  {timeline.now or 'waiting'}")
            stalled = [item for item in conditions(timeline) if (item["type"], item["status"]) == ("Stalled", "True")]
            if stalled:
                waiting.terminate()
                raise DemoError(f"{NAME} is stalled: {stalled[0]['reason']}: {stalled[0]['message']}")
            time.sleep(LOOK_SECONDS)
        said = waiting.communicate()[0].strip()
    tell(timeline.news(), applied)
    console.print(said)
    if waiting.returncode:
        raise DemoError(f"see `kubectl describe asr {NAME} -n {NAMESPACE}`")


def conditions(timeline: Timeline) -> list[dict[str, str]]:
    """Of the resource."""
    found: list[dict[str, str]] = timeline.resource().get("status", {}).get("conditions", [])
    return found


def tell(news: list[Moment], since: datetime) -> None:
    """A line each."""
    for moment in news:
        seconds = (moment.at - since).total_seconds()
        console.print(f"[cyan]{seconds:+5.0f} s[/]  [bold]{moment.who:<9}[/]  {moment.what:<12}  ", moment.message)


def transcribe(cluster: Cluster) -> None:
    """Send speech through the Service."""
    run(["kubectl", "get", "asr", NAME, "-n", NAMESPACE], "What it says now")
    folder = os.path.relpath(platform.CHECK_AUDIO, PROJECT)
    command = ["asr", "transcribe", "--url", platform.address(cluster, NAMESPACE, NAME), "--model", "english_stt"]
    command += ["--reference", f"{folder}/transcripts.json"]
    files = [os.path.relpath(path, PROJECT) for path in platform.audio_files()]
    run([*command, *files], "Transcribe, through the Service", shown=f"{shlex.join(command)} {folder}/*.wav")


class Note:
    """What came of a step."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self.text = ""

    def note(self, text: str) -> None:
        """Remember it for the line that ends the step."""
        self.text = f"  {text}"


@contextmanager
def step(what: str) -> Iterator[Note]:
    """Show what is done while the block runs, and afterwards how long it took."""
    began = time.monotonic()
    if not console.is_terminal:
        console.print(f"... {what}")
    with console.status(what) as status:
        found = Note(status)
        yield found
    console.print(f"[green]✓[/] {time.monotonic() - began:6.1f} s  {what}{found.text}")


def show(command: str, note: str) -> None:
    """Print a command as a user would type it."""
    console.print(f"\n[bold cyan]# {note}[/]\n[bold]$ {escape(command)}[/]")


def run(command: list[str], note: str, *, shown: str = "") -> None:
    """Run a command to its end, its output for all to see.

    Args:
        command: Program and arguments.
        note: What it is for.
        shown: How a user would type it, if not like this.

    Raises:
        DemoError: It failed.
    """
    show(shown or shlex.join(command), note)
    if subprocess.run(resolved(command), check=False).returncode:
        raise DemoError(f"`{command[0]} {command[1]}` did not succeed; its own words are above")


def resolved(command: list[str]) -> list[str]:
    """The command with the program that this project has for it."""
    programs = {"kubectl": [str(BINARY), "kubectl"], "helm": [str(HELM)]}
    return [*programs.get(command[0], [program(command[0])]), *command[1:]]


if __name__ == "__main__":
    os.chdir(Path(PROJECT))
    sys.exit(main())
