"""The command `asr conform`."""

import asyncio
import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from asr_cli.errors import NO_SERVER, SOME_FAILED, errors_reported
from asr_cli.options import (
    Context,
    Namespace,
    TlsCa,
    TlsServerName,
    UseTls,
    file_to_write,
    optional_address,
    resource_name,
    tls_of,
)
from asr_cli.tables import conform_line, conform_table
from asr_cli.terminal import new_console, show_message

if TYPE_CHECKING:
    from asr_cli.conform.command import Options, Progress, Report
    from asr_cli.conform.outcome import Result
    from asr_client.transcription import Tls

ResourceArgument = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="An AsrDeployment of your cluster: english or asr/english."),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Triton's gRPC, without Kubernetes.",
        callback=optional_address,
        show_default=False,
    ),
]
MetricsUrlOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="With --url: its metrics, http://HOST:8002/metrics.", show_default=False),
]
ExecuteOption = Annotated[
    str | None,
    typer.Option(
        "--exec",
        metavar="COMMAND",
        help="With --url: what runs a program beside the server, such as 'docker exec triton'.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None, typer.Option(help="With --url: the model N.", show_default="the only one that is served")
]
GpuOption = Annotated[
    bool | None,
    typer.Option("--gpu/--no-gpu", help="With --url: the model must run on a GPU.", show_default="as the metrics show"),
]
ArtifactOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The artifact, as model-builder fetch makes it.",
        show_default="read beside the server",
        exists=True,
        file_okay=False,
    ),
]
AudioOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The check audio that the artifact was built with (spec.acceptance.audio).",
        show_default="what comes with the package",
        exists=True,
        file_okay=False,
    ),
]
KillOption = Annotated[
    bool, typer.Option("--kill", help="End processes and pods, too: requests of other clients may fail.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="Write one JSON file, fit for an issue: no addresses, keys, audio or texts. - prints it.",
        dir_okay=False,
        show_default=False,
        callback=file_to_write,
    ),
]


def conform(
    resource: ResourceArgument = None,
    *,
    namespace: Namespace = None,
    context: Context = None,
    url: UrlOption = None,
    metrics_url: MetricsUrlOption = None,
    execute: ExecuteOption = None,
    model: ModelOption = None,
    gpu: GpuOption = None,
    artifact: ArtifactOption = None,
    audio: AudioOption = None,
    use_tls: UseTls = False,
    tls_ca: TlsCa = None,
    tls_server_name: TlsServerName = None,
    kill: KillOption = False,
    output: OutputOption = None,
) -> None:
    """Check that a server does on its own hardware and image what this project promises.

    Versions, texts and tokens against the checkpoint's own, GPU really in use,
    refusals, 256 requests in flight, metrics, clients that give up, memory.
    A plan's speed against what its build measured.

    It takes a minute or two, and loads the server: not while users wait.
    Without --kill nothing is changed. With it, a Python process of Triton is killed,
    the server is ended, and a pod is deleted, under load.

    With a NAME it checks one pod of each pool. It needs the role view, and
    create on pods/portforward and pods/exec (with --kill: delete on pods).
    What you may not do is skipped, with the reason.

    Exit codes: 0 nothing failed, 1 a check failed, 2 wrong usage, 3 no server.

    Example: asr conform asr/english -n speech --output conformance.json

    Example: asr conform --url localhost:8001 --metrics-url http://localhost:8002/metrics --exec 'docker exec triton'
    """
    from asr_cli.conform import command  # noqa: PLC0415

    if (resource is None) == (url is None):
        raise typer.BadParameter("give either the NAME of an AsrDeployment or --url HOST:PORT", param_hint="NAME")
    if resource is not None and (metrics_url or execute or model or gpu is not None):
        raise typer.BadParameter("--metrics-url, --exec, --model and --gpu go with --url", param_hint="NAME")
    tls = tls_of(use_tls, tls_ca, tls_server_name)
    options = command.Options(artifact=artifact, audio=audio, kill=kill)
    console = new_console(stderr=True)
    with errors_reported():
        with console.status("conformance") as status:
            progress = _progress(console, status)
            if url is not None:
                server = command.Server(url, metrics_url, shlex.split(execute or ""), model, gpu)
                report = asyncio.run(command.of_server(server, tls, options, progress))
            else:
                name = resource_name(resource or "")
                report = _of_resource(name, namespace, context, tls=tls, options=options, progress=progress)
        _show(report, output)
        if report.failed:
            raise typer.Exit(SOME_FAILED)


def _progress(console: Console, status: Status) -> "Progress":
    from asr_cli.conform import command  # noqa: PLC0415

    def begun(what: str) -> None:
        status.update(escape(what))

    def done(pool: str, result: "Result") -> None:
        # A run takes minutes, and in a log a table at its end alone would look like a hang.
        if console.is_terminal:
            status.update(f"last: {conform_line(pool, result)}")
        else:
            console.print(conform_line(pool, result), soft_wrap=True)

    return command.Progress(begun, done)


def _show(report: "Report", output: Path | None) -> None:
    """Print the table, and write the record to `output`: with `-` the table goes to standard error."""
    printed = output is not None and str(output) == "-"
    terminal = (sys.stderr if printed else sys.stdout).isatty()
    new_console(stderr=printed, width=None if terminal else 200).print(conform_table(report.results))
    record = json.dumps(report.to_json(datetime.now(UTC)), indent=1)
    if printed:
        typer.echo(record)
    elif output is not None:
        output.write_text(f"{record}\n", encoding="utf-8")


def _of_resource(
    name: str,
    namespace: str | None,
    context: str | None,
    *,
    tls: "Tls | None",
    options: "Options",
    progress: "Progress",
) -> "Report":
    from asr_cli.conform import resource  # noqa: PLC0415
    from asr_operator.diagnose.reader import Cluster, ClusterError  # noqa: PLC0415 (the cluster's packages)

    try:
        cluster = Cluster(context)
        return resource.conform(
            cluster, namespace or cluster.namespace, name, tls=tls, options=options, progress=progress
        )
    except ClusterError as error:
        show_message(str(error))
        raise typer.Exit(NO_SERVER) from error
