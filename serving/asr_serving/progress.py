"""Whether work that was begun ends. Pure but for the clock.

A server that does not get on is started again by Kubernetes, and loses what it has in hand. So a slow one must never be
taken for one that hangs: how long work may take grows with the audio in hand.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STUCK_SECONDS = 900.0
"""Of work that does not end, beside the length of all audio in hand.

An acoustic model that is slower than real time serves nobody. The quarter of an hour is for what it does for others
meanwhile (requests to the ensembles wait in the same queue), for kernels that it loads, and for a processor that many
share.
"""


class Piece:
    """One piece of work in hand."""

    def __init__(self, audio_seconds: float, began: float) -> None:
        self.audio_seconds = audio_seconds
        self.began = began


class Progress:
    """The work in hand, by whichever threads.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._in_hand: set[Piece] = set()

    @contextmanager
    def working(self, audio_seconds: float = 0.0) -> Iterator[Callable[[], None]]:
        """Count the block as work in hand. It calls what it is given whenever it has heard from the server."""
        piece = Piece(audio_seconds, self._clock())
        with self._lock:
            self._in_hand.add(piece)

        def heard() -> None:
            piece.began = self._clock()

        try:
            yield heard
        finally:
            with self._lock:
                self._in_hand.discard(piece)

    def is_stuck(self) -> bool:
        """Whether some work has been in hand for longer than it can take."""
        with self._lock:
            in_hand = list(self._in_hand)
        longest = STUCK_SECONDS + sum(piece.audio_seconds for piece in in_hand)
        return any(self._clock() - piece.began > longest for piece in in_hand)
