"""Pods that go, each in its way, cost no request and change no transcript. All ways: benchmarks/nothing_lost.py."""

from collections.abc import Callable

import pytest

from tests.support.fleet import Fleet
from tests.support.load import Load, steady, utterances
from tests.support.platform import Speech
from tools.testcluster.machine import until

NAME, MODEL = "lossless", "english_stt"
SIGNALS = utterances(16, seed=11, shortest=2, longest=8)


@pytest.fixture(scope="module")
def fleet(speech: Speech) -> Fleet:
    """Two pods of the demo model, not those of other tests."""
    found = Fleet(speech, NAME)
    found.apply()
    speech.ready(NAME, seconds=600)
    found.settle(2)
    return found


@pytest.fixture(scope="module")
def right(fleet: Fleet) -> list[str]:
    """What each utterance gives alone."""
    with steady(fleet.addresses["service"], MODEL, in_flight=1, signals=SIGNALS) as load:
        until(lambda: len(load.sent) >= len(SIGNALS), "all utterances")
    texts = {item.utterance: item.text or "" for item in load.sent}
    return [texts[index] for index in range(len(SIGNALS))]


def under_load(fleet: Fleet, change: Callable[[], None], *, retries: int = 0) -> tuple[Load, Load]:
    """Requests by both ways while something happens: through the headless Service, and through the other one."""
    headless, service = fleet.addresses["headless"], fleet.addresses["service"]
    with (
        steady(headless, MODEL, signals=SIGNALS, pause=0.2, retries=retries) as balanced,
        steady(service, MODEL, signals=SIGNALS, pause=0.2, retries=retries, connections=4) as plain,
    ):
        until(lambda: min(balanced.good, plain.good) > 10, "answers")
        change()
        seen = balanced.good, plain.good
        until(lambda: balanced.good > seen[0] + 10 and plain.good > seen[1] + 10, "answers afterwards")
    return balanced, plain


def test_eviction_of_all_pods_costs_nothing(fleet: Fleet, right: list[str]) -> None:
    old = fleet.uids()

    def change() -> None:
        fleet.evict_all()
        fleet.settle(2, old)

    for load in under_load(fleet, change):
        assert load.errors == []
        assert load.wrong(right) == []


def test_scaling_down_costs_nothing(fleet: Fleet, right: list[str]) -> None:
    def change() -> None:
        fleet.pool(replicas=1)
        fleet.settle(1)

    for load in under_load(fleet, change):
        assert load.errors == []
        assert load.wrong(right) == []
    fleet.pool(replicas=2)
    fleet.settle(2)


def test_a_killed_pod_costs_nothing_with_retries(fleet: Fleet, right: list[str]) -> None:
    def change() -> None:
        fleet.kill_server()
        until(lambda: not fleet.settled(2), "the kill to be seen")
        fleet.settle(2)

    for load in under_load(fleet, change, retries=6):
        assert load.errors == []
        assert load.wrong(right) == []
