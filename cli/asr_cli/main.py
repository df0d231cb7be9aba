"""The command `asr`."""

import io
import sys

import typer

from asr_cli.commands import bench, conform, doctor, plans, transcribe
from asr_cli.errors import WRONG_USAGE, missing_package
from asr_cli.terminal import show_message
from asr_client import __doc__ as description

app = typer.Typer(
    name="asr",
    help=f"{description}\n\nStart with `asr doctor --url HOST:PORT`, or `asr doctor asr/NAME` for what the operator "
    "serves. Exit codes: 0 success, 1 a file, a request or a "
    "check failed, 2 wrong usage or a package missing, 3 no server there (any more) or it does not serve the model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(transcribe.transcribe)
app.command()(bench.bench)
app.command()(doctor.doctor)
app.command()(plans.plans)
app.command()(conform.conform)


def main() -> None:
    """Entry point."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A letter that the terminal's encoding has not must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except ModuleNotFoundError as error:
        show_message(missing_package(error))
        sys.exit(WRONG_USAGE)


if __name__ == "__main__":
    main()
