"""The command `model-builder`."""

import os
import sys
from collections.abc import Mapping

import typer
from rich.console import Console

from asr_contract.errors import MissingExtraError
from model_builder import __doc__ as description
from model_builder.commands import build, fetch, inspect, plan, serve, verify

app = typer.Typer(
    name="model-builder",
    help=f"{description}\n\nExit codes: 0 success, 2 wrong usage, 10 source not available, 11 checkpoint not readable, "
    "12 checkpoint not supported, 13 check audio not usable, 20 rejected (does not transcribe like the checkpoint), "
    "21 TensorRT cannot build the plan, 30 storage failed, 31 artifact missing or altered, 32 folder not usable, "
    "33 plan of another GPU product or TensorRT, 34 overrides that do not fit, "
    "40 Triton failed, 41 packages missing, 42 no usable GPU, "
    "130 interrupted by Ctrl-C, 143 by SIGTERM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(build.build)
app.command()(plan.plan)
app.command()(fetch.fetch)
app.command()(verify.verify)
app.command()(inspect.inspect)
app.command()(serve.serve)


def this_machine_directly(environment: Mapping[str, str]) -> dict[str, str]:
    """What to set so that no proxy of `environment` is asked for Triton on loopback, which it could not reach."""
    named = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    value = ",".join([*filter(None, map(str.strip, named.split(","))), "127.0.0.1", "localhost"])
    return {"no_proxy": value, "NO_PROXY": value}  # both: some programs read one, some the other


def main() -> None:
    """Entry point."""
    os.environ.update(this_machine_directly(os.environ))
    try:
        app()
    except ModuleNotFoundError as error:
        missing = MissingExtraError(f"{error.name} is not installed", "builder")
        Console(stderr=True, highlight=False).print(f"[red]{missing.reason}:[/] ", missing, soft_wrap=True, sep="")
        sys.exit(missing.exit_code)


if __name__ == "__main__":
    main()
