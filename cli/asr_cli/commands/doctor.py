"""The command `asr doctor`."""

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from asr_cli.errors import SOME_FAILED, errors_reported
from asr_cli.options import DEFAULT_URL, Context, Namespace, TlsCa, TlsServerName, UseTls, resource_name, tls_of
from asr_cli.terminal import json_line, new_console

if TYPE_CHECKING:
    from asr_contract.findings import Finding

ResourceArgument = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="An AsrDeployment of your cluster: english or asr/english."),
]
ModelOption = Annotated[
    str | None, typer.Option(help="The model to check.", show_default="all of this project's that are served")
]
HttpUrlOption = Annotated[
    str | None,
    typer.Option(help="Triton's HTTP, such as http://localhost:8000: checked, too.", show_default=False),
]


def doctor(
    resource: ResourceArgument = None,
    *,
    # Its form is not checked here: doctor reports it as a finding, with a hint.
    url: Annotated[str, typer.Option(metavar="HOST:PORT", help="Triton's gRPC.")] = DEFAULT_URL,
    use_tls: UseTls = False,
    tls_ca: TlsCa = None,
    tls_server_name: TlsServerName = None,
    model: ModelOption = None,
    http_url: HttpUrlOption = None,
    namespace: Namespace = None,
    context: Context = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line for each check.")] = False,
) -> None:
    """Check an AsrDeployment, or a server, step by step: what is wrong, and what to do.

    With a NAME: what the operator has built, what is missing, why it is not Ready.
    It reads the cluster of your kubeconfig, and writes nothing.

    Without: a server, from its address over models and tensors to answers and statistics.

    Exit code 1 when a check failed; warnings alone give 0.

    Example: asr doctor asr/english -n speech

    Example: asr doctor --url localhost:8001 --model english_stt --http-url http://localhost:8000
    """
    if resource is not None:
        _doctor_of_resource(resource_name(resource), namespace, context, as_json=as_json)
        return
    from asr_client import doctor as checks  # noqa: PLC0415

    tls = tls_of(use_tls, tls_ca, tls_server_name)

    async def all_checks() -> bool:
        passed = True
        async for finding in checks.examine(url, tls=tls, model=model, http_url=http_url):
            passed = _show_finding(finding, as_json=as_json) and passed
        return passed

    with errors_reported():
        if not asyncio.run(all_checks()):
            raise typer.Exit(SOME_FAILED)


def _show_finding(finding: "Finding", *, as_json: bool) -> bool:
    """Print a finding; returns whether the check passed."""
    from asr_contract.findings import Outcome  # noqa: PLC0415

    passed = finding.outcome is not Outcome.FAILED
    if as_json:
        typer.echo(json_line(finding.to_json()))
        return passed
    marks = {Outcome.OK: "[green]✓[/]", Outcome.WARNING: "[yellow]![/]", Outcome.FAILED: "[red]✗[/]"}
    console = new_console()
    console.print(f"{marks[finding.outcome]} {finding.check:<10} {escape(finding.message)}", soft_wrap=True)
    if finding.hint:
        console.print(f"             [dim]→[/] {escape(finding.hint)}", soft_wrap=True)
    return passed


def _doctor_of_resource(name: str, namespace: str | None, context: str | None, *, as_json: bool) -> None:
    from asr_contract.findings import Finding, Outcome  # noqa: PLC0415
    from asr_operator.diagnose import explain  # noqa: PLC0415 (the cluster's packages)
    from asr_operator.diagnose.reader import Cluster, ClusterError  # noqa: PLC0415

    try:
        cluster = Cluster(context)
        found = cluster.snapshot(namespace or cluster.namespace, name)
    except ClusterError as error:
        _show_finding(Finding("cluster", Outcome.FAILED, str(error)), as_json=as_json)
        raise typer.Exit(SOME_FAILED) from error
    outcomes = [_show_finding(finding, as_json=as_json) for finding in explain.examine(found, datetime.now(UTC))]
    if not all(outcomes):
        raise typer.Exit(SOME_FAILED)
