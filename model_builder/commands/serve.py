"""The command `model-builder serve`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from asr_contract.server import GRPC_PORT, HTTP_PORT, METRICS_PORT
from model_builder import stop
from model_builder.commands.exit import failures_reported, new_reporter
from model_builder.commands.options import Json

RepositoryDirArgument = Annotated[
    Path, typer.Argument(help="A fetched artifact, or any Triton model repository.", exists=True, file_okay=False)
]


def serve(
    repository_dir: RepositoryDirArgument,
    *,
    grpc_port: Annotated[int, typer.Option(help=f"gRPC; {GRPC_PORT} is Triton's own default.")] = GRPC_PORT,
    http_port: Annotated[int, typer.Option(help="HTTP: /v2/health/ready and the REST API.")] = HTTP_PORT,
    metrics_port: Annotated[int, typer.Option(help="Prometheus: /metrics.")] = METRICS_PORT,
    json_log: Json = False,
) -> None:
    """Serve a repository with a real Triton on this machine until Ctrl-C.

    In NVIDIA's image that is its tritonserver; elsewhere a CPU build from a Python package.
    """
    reporter = new_reporter(json_log=json_log)
    with stop.noted() as request, failures_reported(None, json_log=json_log):
        from model_builder import shared_memory, triton, triton_paths  # noqa: PLC0415

        ports = triton.Ports(grpc=grpc_port, http=http_port, metrics=metrics_port)
        version = triton.version()
        ports.check()
        triton_paths.check_repository(repository_dir)
        needs, free = triton.shared_memory_needs(repository_dir), shared_memory.free()
        if free < needs.total:
            reporter.info(f"warning: {needs.shortage(free)}, so requests may fail; {needs.advice}")
        log = triton_paths.new_log("triton-")
        reporter.info("Triton starts", version=version, log=log)
        try:
            with triton.serve(repository_dir, ports=ports, log=log, stop=request) as server:
                reporter.info(
                    "ready; stop with Ctrl-C",
                    grpc=ports.grpc_url,
                    http=f"http://{ports.host}:{ports.http}",
                    metrics=f"http://{ports.host}:{ports.metrics}/metrics",
                )
                while request.first is None:
                    server.check_alive()
                    time.sleep(triton.POLL_SECONDS)
                reporter.info("Triton stops")
        except stop.StopRequestedError:
            reporter.info("stopped before Triton was ready")
        if request.first is not None:
            raise typer.Exit(128 + request.first)
