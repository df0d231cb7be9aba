"""Help of the command lines as a small terminal shows it."""

import pytest
import typer
from typer.testing import CliRunner

import asr_cli.main
import model_builder.cli


@pytest.mark.parametrize(
    ("program", "command"),
    [
        *((model_builder.cli.app, name) for name in ("build", "plan", "fetch", "verify", "inspect", "serve")),
        *((asr_cli.main.app, name) for name in ("transcribe", "bench", "doctor", "plans", "conform")),
    ],
)
def test_help_cuts_no_name_on_a_terminal_of_80_columns(program: typer.Typer, command: str) -> None:
    result = CliRunner().invoke(program, [command, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})

    assert result.exit_code == 0
    assert "…" not in result.output
