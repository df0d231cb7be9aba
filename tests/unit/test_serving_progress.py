"""When a server is taken for one that hangs."""

from contextlib import ExitStack

import pytest

from asr_serving.progress import STUCK_SECONDS, Progress


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_idle_server_is_not_stuck_however_long_it_idles(clock: Clock) -> None:
    progress = Progress(clock)
    with progress.working(40.0):
        pass
    clock.now += 1e6
    assert not progress.is_stuck()


def test_a_slow_batch_is_not_stuck_and_one_that_never_ends_is(clock: Clock) -> None:
    progress = Progress(clock)
    with progress.working(64 * 40.0):
        clock.now += STUCK_SECONDS + 64 * 40.0
        assert not progress.is_stuck()
        clock.now += 1
        assert progress.is_stuck()
    assert not progress.is_stuck()


def test_a_batch_waits_for_those_that_were_sent_before_it(clock: Clock) -> None:
    progress = Progress(clock)
    with ExitStack() as work:
        for _ in range(3):
            work.enter_context(progress.working(1000.0))
        clock.now += STUCK_SECONDS + 3000.0
        assert not progress.is_stuck()
        clock.now += 1
        assert progress.is_stuck()


def test_one_batch_that_is_lost_is_found_although_others_get_on(clock: Clock) -> None:
    progress = Progress(clock)
    with progress.working(10.0):
        for _ in range(int(STUCK_SECONDS) // 10 + 3):
            with progress.working(10.0):
                clock.now += 10
        assert progress.is_stuck()


def test_waiting_for_models_that_load_is_not_stuck_as_long_as_the_server_says_so(clock: Clock) -> None:
    progress = Progress(clock)
    with progress.working(1.0) as heard:
        for _ in range(100):
            clock.now += STUCK_SECONDS - 1
            heard()
            assert not progress.is_stuck()


def test_work_that_fails_is_no_longer_in_hand(clock: Clock) -> None:
    progress = Progress(clock)
    with pytest.raises(RuntimeError), progress.working():
        raise RuntimeError
    clock.now += 1e6
    assert not progress.is_stuck()
