"""The command `asr plans`."""

import sys
from typing import Annotated

import typer

from asr_cli.errors import SOME_FAILED
from asr_cli.options import Context, Namespace, resource_name
from asr_cli.tables import plans_table
from asr_cli.terminal import json_line, new_console, show_message

ResourceArgument = Annotated[
    str | None, typer.Argument(metavar="NAME", help="An AsrDeployment.", show_default="all of the namespace")
]


def plans(
    resource: ResourceArgument = None,
    *,
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")] = False,
    context: Context = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line for each pool.")] = False,
) -> None:
    """Show which TensorRT plans there are: for each pool its GPU, the TensorRT version, and how far its plan is.

    A plan runs on the GPU product and the TensorRT version that built it, and on no other.
    A pool without its plan serves ONNX until then, unless spec.runtime.fallback is None.
    Exit code 1 when a plan failed.

    Example: asr plans english -n speech
    """
    from asr_operator.diagnose import plans as planning  # noqa: PLC0415 (the cluster's packages)
    from asr_operator.diagnose.reader import Cluster, ClusterError  # noqa: PLC0415

    try:
        cluster = Cluster(context)
        where = None if all_namespaces else namespace or cluster.namespace
        if resource is not None:
            names = [(where or cluster.namespace, resource_name(resource))]
        else:
            metadata = [item["metadata"] for item in cluster.resources(where)]
            names = [(item["namespace"], item["name"]) for item in metadata]
        found = [plan for each in names for plan in planning.plans(cluster.snapshot(*each))]
    except ClusterError as error:
        show_message(str(error))
        raise typer.Exit(SOME_FAILED) from error
    if as_json:
        for plan in found:
            typer.echo(json_line(plan.to_json()))
    elif found:
        new_console(width=None if sys.stdout.isatty() else 240).print(plans_table(found))
    else:
        show_message(
            f"there is no AsrDeployment in {'the cluster' if where is None else f'namespace {where}'}", kind="note"
        )
    if any(plan.state is planning.State.FAILED for plan in found):
        raise typer.Exit(SOME_FAILED)
