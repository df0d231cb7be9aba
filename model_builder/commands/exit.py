"""How a command of `model-builder` ends: errors become exit codes, messages and the termination log; signals end it."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from asr_contract.errors import BuilderError, WorkFolderError
from model_builder.progress import JsonReporter, Reporter, RichReporter

TERMINATION_BYTES = 4096
CONTINUES = "interrupted; the next run continues"


def new_reporter(*, json_log: bool) -> Reporter:
    """What shows progress: JSON lines, or bars and text."""
    return JsonReporter() if json_log else RichReporter()


def write_termination_log(path: Path | None, result: dict[str, Any]) -> None:
    """Write the result for Kubernetes, which keeps the first 4096 bytes: the message is cut, JSON stays whole."""
    if path is None:
        return
    while len(text := json.dumps(result, ensure_ascii=False).encode()) > TERMINATION_BYTES and result.get("message"):
        result = result | {"message": result["message"][: len(result["message"]) * 9 // 10]}
    try:
        path.write_bytes(text)
    except OSError as error:  # the result itself matters more, and comes on the other ways
        Console(stderr=True, highlight=False).print(f"cannot write {path}: {error.strerror}", markup=False)


@contextmanager
def errors_reported(
    termination_log: Path | None, *, json_log: bool, interrupted: str = "interrupted; run it again"
) -> Iterator[None]:
    """Report a failure or an interruption in one line, and exit with its code.

    SIGTERM becomes an exit that runs the clean-up, as Ctrl-C is by itself.

    Args:
        termination_log: Where the result goes as JSON, too.
        json_log: Write JSON instead of text.
        interrupted: What an interruption means for this command.
    """

    def leave(_signal: int, _frame: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    former = signal.signal(signal.SIGTERM, leave)
    try:
        with failures_reported(termination_log, json_log=json_log):
            yield
    except (KeyboardInterrupt, SystemExit) as error:
        code = 130 if isinstance(error, KeyboardInterrupt) else error.code
        write_termination_log(termination_log, {"reason": "Interrupted", "message": interrupted, "transient": True})
        if json_log:
            JsonReporter().error(interrupted, reason="Interrupted", exit_code=code)
        else:
            Console(stderr=True, highlight=False).print(f"[red]Interrupted:[/] {interrupted}", soft_wrap=True)
        raise SystemExit(code) from error
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def failures_reported(termination_log: Path | None, *, json_log: bool) -> Iterator[None]:
    """Report a failure in one line, to people, to logs and to the termination log, and exit with its code."""
    try:
        with _folder_errors():
            yield
    except BuilderError as error:
        result = {"reason": error.reason, "message": str(error), "transient": error.transient}
        write_termination_log(termination_log, result)
        if json_log:
            JsonReporter().error(str(error), reason=error.reason, exit_code=error.exit_code)
        else:
            Console(stderr=True, highlight=False).print(
                f"[red]{error.reason}:[/] ", error, soft_wrap=True, markup=True, sep=""
            )
        raise typer.Exit(error.exit_code) from error


@contextmanager
def _folder_errors() -> Iterator[None]:
    """Turn errors of the operating system about files and folders into errors of this program."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        where = error.filename or "a folder"
        raise WorkFolderError(f"cannot use {where}: {error.strerror or error}") from error
