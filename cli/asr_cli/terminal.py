"""What the command `asr` writes to a terminal or a pipe: messages, progress bars and JSON lines."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def new_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console without highlighting and emoji."""
    # Without emoji: rich would make one of `:b:` in an address or in a file's name.
    return Console(stderr=stderr, width=width, highlight=False, emoji=False)


@dataclass(frozen=True, slots=True)
class Bar:
    """A progress bar.

    Attributes:
        advance: One more is done.
        shown: Whether there is anything to see.
        console: Standard error: what is printed here stands above the bar.
    """

    advance: Callable[[], None]
    shown: bool
    console: Console


@contextmanager
def progress_bar(name: str, *, total: int | None) -> Iterator[Bar]:
    """A progress bar on standard error if that is a terminal."""
    console = new_console(stderr=True)
    columns = (TextColumn(name), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
    # Without redirection: rich would send a piped standard output to the terminal, above the bar.
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        task = progress.add_task(name, total=total)
        yield Bar(lambda: progress.advance(task), console.is_terminal, console)


def show_message(message: str, *, kind: str = "error") -> None:
    """Print one line on standard error: `kind` is error or note."""
    colour = "red" if kind == "error" else "yellow"
    new_console(stderr=True).print(f"[{colour}]{kind}:[/] {escape(message)}", soft_wrap=True)


def json_line(value: Mapping[str, object]) -> str:
    """One JSON object a line, in ASCII where standard output has not all letters."""
    return json.dumps(value, ensure_ascii=not str(getattr(sys.stdout, "encoding", "utf-8")).lower().startswith("utf"))
