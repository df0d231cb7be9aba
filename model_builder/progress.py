"""How long work reports itself: progress bars for people, JSON lines for pods.

The library calls a `Reporter`; only the command line chooses which.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

PROGRESS_SECONDS = 30.0
"""Between two lines of progress in a log: a plan takes minutes, and a silent pod looks like one that hangs."""


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, amount: float = 1) -> None:
        """`amount` more units are done."""

    def note(self, text: str) -> None:
        """Say what is being done now, or what came of it."""


class Reporter(Protocol):
    """Receives what a command is doing."""

    def info(self, message: str, **fields: object) -> None:
        """A line worth keeping."""

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[Task]:  # noqa: ARG002 (a protocol)
        """Show `name` while the block runs; `total` in the units of `advance`, None when not known."""
        yield NullTask()


class NullTask:
    """Shows nothing."""

    def advance(self, amount: float = 1) -> None:
        """Nothing to show."""

    def note(self, text: str) -> None:
        """Nothing to show."""


class NullReporter:
    """Shows nothing: for use as a library."""

    def info(self, message: str, **fields: object) -> None:
        """Nothing to show."""

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[Task]:  # noqa: ARG002
        """Nothing to show."""
        yield NullTask()


class JsonReporter:
    """One JSON object a line on standard error, for logs that machines read: the operator's fields."""

    def _write(self, severity: str, message: str, **fields: object) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {"timestamp": now, "severity": severity, "message": message}
        sys.stderr.write(json.dumps(record | fields, default=str) + "\n")
        sys.stderr.flush()

    def info(self, message: str, **fields: object) -> None:
        """Write one line."""
        self._write("info", message, **fields)

    def error(self, message: str, **fields: object) -> None:
        """Write one line of severity error."""
        self._write("error", message, **fields)

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[Task]:
        """Write a line when the task starts, now and then while it goes on, and when it ends."""
        started = time.monotonic()
        self._write("info", "started", task=name, total=total)
        task = _JsonTask(lambda **fields: self._write("info", "progress", task=name, total=total, **fields))
        yield task
        self._write("info", "finished", task=name, seconds=round(time.monotonic() - started, 3), note=task.last)


class _JsonTask(NullTask):
    def __init__(self, write: Callable[..., None]) -> None:
        self.last: str | None = None
        self._write = write
        self._done = 0.0
        self._told = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        self._done += amount
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._told = time.monotonic()
            self._write(done=round(self._done, 1), note=self.last)

    def note(self, text: str) -> None:
        self.last = text


class RichReporter:
    """Progress bars on standard error. Without a terminal each task is one line."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)

    def info(self, message: str, **fields: object) -> None:
        """Print a line above the bars."""
        line = Text(message)  # not markup: file names and URIs may hold brackets
        for key, value in fields.items():
            line.append("  ").append(key, "dim").append(f"={value}")
        self._console.print(line, soft_wrap=True)

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[Task]:
        """A bar that leaves one line with a tick and the time it took."""
        started = time.monotonic()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        shown = _RichTask()
        try:
            with Progress(
                *columns, console=self._console, transient=True, disable=not self._console.is_terminal
            ) as progress:
                shown.progress = progress
                shown.identity = progress.add_task(name, total=total, note="")
                yield shown
        except BaseException:
            self._line("✗", "red", name, started, shown.last)
            raise
        self._line("✓", "green", name, started, shown.last)

    def _line(self, mark: str, colour: str, name: str, started: float, note: str) -> None:
        spent = f"{time.monotonic() - started:6.1f} s"
        self._console.print(Text.assemble((mark, colour), f" {name:<12} {spent}  ", (note, "dim")), soft_wrap=True)


class _RichTask:
    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.identity: TaskID | None = None
        self.last = ""

    def advance(self, amount: float = 1) -> None:
        if self.progress is not None and self.identity is not None:
            self.progress.advance(self.identity, amount)

    def note(self, text: str) -> None:
        self.last = text
        if self.progress is not None and self.identity is not None:
            self.progress.update(self.identity, note=text)
