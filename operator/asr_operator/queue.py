"""A queue of keys, as controllers have it. No Kubernetes in it.

- A key waits once, however often it is added.
- A key never runs twice at once; added while it runs, it runs once more afterwards.
- A failure runs the key again later: the delay doubles from `BASE` up to `CEILING`, with jitter. Success resets it.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

BASE = 1.0
CEILING = 300.0
"""Seconds."""

K = TypeVar("K", bound=Hashable)
Work = Callable[[K], Awaitable[float | None]]
"""Works on a key; returns the seconds after which to look again, None for not at all."""


class KeyedQueue(Generic[K]):
    """See above.

    Args:
        work: Called with one key at a time.
        failed: Told of each failure.
        chance: Gives numbers from 0 to 1, for the jitter.
    """

    def __init__(
        self,
        work: Work[K],
        *,
        failed: Callable[[K, Exception], None] = lambda _key, _error: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._work = work
        self._failed = failed
        self._chance = chance
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._running: dict[K, float] = {}
        self._dirty: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}

    def add(self, key: K) -> None:
        """Run the key soon. Only from the event loop's own thread."""
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        if key in self._running:
            self._dirty.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Run the key when this time has passed, unless it runs before."""
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self.add, key)

    @property
    def depth(self) -> int:
        """Keys that wait."""
        return len(self._waiting)

    @property
    def longest_running(self) -> float:
        """Seconds that the oldest run has taken so far. Safe to ask from other threads."""
        now = time.monotonic()
        return now - min(list(self._running.values()), default=now)

    def failures(self, key: K) -> int:
        """How often the key has failed since it last did not."""
        return self._failures.get(key, 0)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not (self._waiting or self._running)

    async def run(self, workers: int) -> None:
        """Work until cancelled; what runs then is awaited."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._worker())

    async def _worker(self) -> None:
        while True:
            key = await self._ready.get()
            self._waiting.discard(key)
            self._running[key] = time.monotonic()
            again: float | None = None
            try:
                again = await self._work(key)
            except Exception as error:  # noqa: BLE001 (whatever fails, the key is tried again and the worker lives)
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                again = min(CEILING, BASE * 2 ** min(failures - 1, 20)) * (0.5 + self._chance() / 2)
                self._failed(key, error)
            else:
                self._failures.pop(key, None)
            finally:
                del self._running[key]
            if key in self._dirty:
                self._dirty.discard(key)
                self.add(key)
            elif again is not None:
                self.add_after(key, again)
