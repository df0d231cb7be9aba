"""A request to stop, by SIGINT (Ctrl-C) or SIGTERM, that is noted at once and obeyed where stopping is safe.

A signal handler that raises can do so between any two instructions: after a server is ready and before the code that
expects the exception, or in the middle of ending a server. A note has no such moments.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

IMPATIENT_SECONDS = 1.0
"""A second signal within this time may be the same wish, sent to a process and to its group."""


class StopRequestedError(Exception):
    """Work was given up since a signal asked for it."""


class StopRequest:
    """The signals that have asked this process to stop.

    Attributes:
        first: The first of them, which decides the exit code; None until one comes.
        impatient: Another one came after some time: stop without waiting for anything.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.impatient = False
        self._since = 0.0

    def note(self, number: int, _frame: object = None) -> None:
        """Handle a signal."""
        if self.first is None:
            self.first, self._since = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._since > IMPATIENT_SECONDS:
            self.impatient = True

    def check(self) -> None:
        """Give up if a signal has come.

        Raises:
            StopRequestedError: One has.
        """
        if self.first is not None:
            raise StopRequestedError(self.first.name)


@contextmanager
def noted() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM while the block runs; one that this process ignores stays ignored.

    Once one has come they are ignored after the block, too: the process is ending, and no other exit code is right.
    """
    request = StopRequest()
    former = {
        number: signal.signal(number, request.note)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler if request.first is None else signal.SIG_IGN)
