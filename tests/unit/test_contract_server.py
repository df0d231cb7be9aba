"""Triton's flags, ports and metric names: the same in pods, in the local server and in what reads them."""

import ast
from pathlib import Path

from asr_cli.conform.versions import REQUIRED_FLAGS, judge_flags
from asr_contract import server, telemetry
from model_builder import triton
from tests.support.operator_examples import context
from tests.unit.test_operator_render import children

PORTS = triton.Ports(grpc=18001, http=18000, metrics=18002)
OF_PODS = ("--grpc-max-connection-age", "--grpc-use-ssl", "--grpc-server-")
OF_THE_LOCAL_SERVER = ("--backend-directory=", "--backend-config=python,shm-region-prefix-name=")
SCHEDULER = Path(__file__).parents[2] / "serving" / "asr_serving" / "metrics.py"


def of_pods() -> list[list[str]]:
    """Arguments of the server in the pods of each pool."""
    found = []
    for body in children(context()):
        if body["kind"] == "Deployment":
            (container,) = body["spec"]["template"]["spec"]["containers"]
            found.append(list(container["args"]))
    return found


def of_the_local_server() -> list[str]:
    """Arguments of the server in which the builder checks a model."""
    command = triton.command(Path("/r"), Path("/b"), "tritonserver", PORTS, region=server.REGION_BYTES)
    return command[command.index("tritonserver") + 1 :]


def names(arguments: list[str], own: tuple[str, ...]) -> list[str]:
    """Names of the flags that are not a server's own, and the fixed values of those that have one."""
    varying = (
        "--model-repository=",
        "--exit-timeout-secs=",
        *(f"--{port}-port=" for port in ("http", "grpc", "metrics")),
    )
    shared = [argument for argument in arguments if not argument.startswith(own)]
    return [argument.partition("=")[0] if argument.startswith(varying) else argument for argument in shared]


def test_the_gate_starts_the_server_with_the_flags_of_the_pods() -> None:
    addresses = tuple(f"--{name}-address=" for name in (server.GRPC, server.HTTP, server.METRICS))
    local = names(of_the_local_server(), (*OF_THE_LOCAL_SERVER, *addresses))
    pods = of_pods()
    assert pods
    for arguments in pods:
        assert names(arguments, OF_PODS) == local


def test_the_local_server_listens_where_it_is_to() -> None:
    arguments = of_the_local_server()
    for name, port in (("grpc", 18001), ("http", 18000), ("metrics", 18002)):
        assert {f"--{name}-port={port}", f"--{name}-address=127.0.0.1"} <= set(arguments)


def test_a_conformance_run_requires_only_flags_that_every_server_has() -> None:
    assert set(REQUIRED_FLAGS) <= set(server.FIXED)
    assert judge_flags(of_pods()[0]).outcome == judge_flags(of_the_local_server()).outcome
    assert judge_flags(list(server.FIXED)).outcome == judge_flags(of_pods()[0]).outcome


def test_the_scheduler_model_has_the_metrics_that_the_contract_names() -> None:
    literals = {
        node.targets[0].id: set(ast.literal_eval(node.value))
        for node in ast.walk(ast.parse(SCHEDULER.read_text()))
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in {"COUNTERS", "GAUGES", "HISTOGRAMS"}
    }
    contract = {
        "COUNTERS": set(telemetry.COUNTERS),
        "GAUGES": set(telemetry.GAUGES),
        "HISTOGRAMS": set(telemetry.HISTOGRAMS),
    }
    assert literals == contract
