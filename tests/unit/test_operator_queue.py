"""The queue of keys, in an event loop whose clock the test moves."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable

import pytest

from asr_operator.api import v1alpha1 as api
from asr_operator.cluster import Cluster
from asr_operator.handlers import Operator
from asr_operator.queue import CEILING, KeyedQueue
from asr_operator.store import key_of
from tests.support.operator_examples import SETTINGS, example

Test = Callable[[], Awaitable[None]]


class VirtualLoop(asyncio.SelectorEventLoop):
    """Sleeps take no time: the clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 (asyncio's)
        del timeout  # since Python 3.12 there is one, and it would expire at once here
        await super().shutdown_default_executor()


def run(test: Awaitable[None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:

        async def whole() -> None:
            await test

        runner.run(whole())


class Worked:
    """Works on keys as told, and notes when."""

    def __init__(self, *answers: float | Exception | None, takes: float = 0.0) -> None:
        self.answers = list(answers)
        self.takes = takes
        self.at: list[tuple[str, float]] = []
        self.now_running = self.most_running = 0

    async def __call__(self, key: str) -> float | None:
        self.at.append((key, asyncio.get_running_loop().time()))
        self.now_running += 1
        self.most_running = max(self.most_running, self.now_running)
        await asyncio.sleep(self.takes)
        self.now_running -= 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer


async def served(queue: KeyedQueue[str], seconds: float, *, workers: int = 2) -> None:
    task = asyncio.create_task(queue.run(workers))
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_key_that_is_added_often_runs_once() -> None:
    async def test() -> None:
        work = Worked()
        queue = KeyedQueue(work)
        for _ in range(5):
            queue.add("a")
        assert queue.depth == 1
        await served(queue, 1)
        assert work.at == [("a", 0.0)]
        assert queue.idle

    run(test())


def test_a_key_never_runs_twice_at_once_and_runs_again_when_added_meanwhile() -> None:
    async def test() -> None:
        work = Worked(takes=2)
        queue = KeyedQueue(work)
        queue.add("a")
        asyncio.get_running_loop().call_later(1, queue.add, "a")
        asyncio.get_running_loop().call_later(1.5, queue.add, "a")
        await served(queue, 10)
        assert work.at == [("a", 0.0), ("a", 2.0)]
        assert work.most_running == 1

    run(test())


def test_keys_run_side_by_side_up_to_the_number_of_workers() -> None:
    async def test() -> None:
        work = Worked(takes=1)
        queue = KeyedQueue(work)
        for key in "abcde":
            queue.add(key)
        await served(queue, 10, workers=3)
        assert work.most_running == 3
        assert sorted(key for key, _ in work.at) == list("abcde")

    run(test())


def test_failures_are_tried_again_ever_later_and_success_forgets_them() -> None:
    async def test() -> None:
        failure = ValueError("no")
        work = Worked(failure, failure, failure, None, failure, None)
        told: list[str] = []
        queue = KeyedQueue(work, failed=lambda key, _error: told.append(key), chance=lambda: 1.0)
        queue.add("a")
        asyncio.get_running_loop().call_later(100, queue.add, "a")
        await served(queue, 200)
        assert [at for _, at in work.at] == [0.0, 1.0, 3.0, 7.0, 100.0, 101.0]
        assert told == ["a"] * 4

    run(test())


def test_delays_have_jitter_and_a_ceiling() -> None:
    async def test() -> None:
        work = Worked(*[ValueError("no")] * 20)
        queue = KeyedQueue(work, chance=lambda: 0.0)
        queue.add("a")
        await served(queue, 3_000)
        times = [at for _, at in work.at]
        assert times[1] == pytest.approx(0.5)
        assert max(later - earlier for earlier, later in itertools.pairwise(times)) == CEILING / 2

    run(test())


def test_a_key_that_asks_for_it_runs_again_and_an_earlier_event_takes_the_place_of_that() -> None:
    async def test() -> None:
        work = Worked(10.0, None)
        queue = KeyedQueue(work)
        queue.add("a")
        asyncio.get_running_loop().call_later(3, queue.add, "a")
        await served(queue, 100)
        assert work.at == [("a", 0.0), ("a", 3.0)]

    run(test())


class Silent:
    """A client whose API server never answers, until it is told to."""

    def __init__(self) -> None:
        self.times = 0
        self.asked, self.answers = threading.Event(), threading.Event()

    def request(self, *_: object, **__: object) -> None:
        self.times += 1
        self.asked.set()
        self.answers.wait()
        raise OSError("it was long ago")


def test_a_pass_that_hangs_is_seen_to_run_and_its_resource_is_not_worked_on_twice_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Silent()
    monkeypatch.setattr(Cluster, "connect", lambda store, *_, **__: Cluster(client, store))
    operator = Operator(SETTINGS)
    body = example()
    operator.store.put(api.KIND, body)

    async def test() -> None:
        operator.queue.add(key_of(body))
        task = asyncio.create_task(operator.queue.run(2))
        await asyncio.to_thread(client.asked.wait)
        await asyncio.sleep(1_000)
        assert operator.queue.longest_running > 0
        client.answers.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(test())
    assert client.times == 1
