"""A Python process of Triton's that dies: its server, which never starts it again, is started again."""

import pytest

from tests.support.fleet import Fleet
from tests.support.load import steady, utterances
from tests.support.platform import Speech
from tools.testcluster.machine import until

NAME, MODEL = "alive", "english_stt"
SIGNALS = utterances(8, seed=13, shortest=2, longest=6)


@pytest.fixture(scope="module")
def fleet(speech: Speech) -> Fleet:
    """One pod of the demo model."""
    found = Fleet(speech, NAME)
    found.apply(pools=[{"name": "cpu", "replicas": 1}])
    speech.ready(NAME, seconds=600)
    found.settle(1)
    return found


@pytest.mark.parametrize(
    ("process", "asked"),
    [(MODEL, MODEL), (f"preprocessing_{MODEL}", f"ensemble_{MODEL}")],
    ids=["scheduler", "preprocessing"],
)
def test_a_dead_python_process_restarts_the_container_and_costs_nothing_with_retries(
    fleet: Fleet, process: str, asked: str
) -> None:
    with steady(fleet.addresses["service"], asked, in_flight=1, signals=SIGNALS) as alone:
        until(lambda: len(alone.sent) >= len(SIGNALS), "each utterance alone")
    right = {item.utterance: item.text or "" for item in alone.sent}
    before = fleet.server_container()
    with steady(fleet.addresses["service"], asked, signals=SIGNALS, pause=0.2, retries=30) as load:
        until(lambda: load.good > 10, "answers")
        fleet.kill_process(process)
        until(lambda: fleet.server_container().restart_count > before.restart_count, "the container to be restarted")
        fleet.settle(1)
        seen = load.good
        until(lambda: load.good > seen + 10, "answers of the new server")
    assert load.errors == []
    assert load.wrong([right[index] for index in range(len(SIGNALS))]) == []
    assert load.retried > 0
    ended = fleet.server_container().last_state.terminated
    assert "a Python process of Triton's models has ended" in ended.message


def test_http_gives_inference_and_health_alone(fleet: Fleet) -> None:
    address = fleet.addresses["service"].replace(":8001", ":8000")
    script = (
        "import sys, urllib.request, urllib.error\n"
        "for path in sys.argv[2:]:\n"
        "    try: print(urllib.request.urlopen(f'http://{sys.argv[1]}{path}').status)\n"
        "    except urllib.error.HTTPError as error: print(error.code)\n"
    )
    paths = ("/v2/health/ready", f"/v2/models/{MODEL}/ready", "/v2", f"/v2/models/{MODEL}/config", "/v2/logging")
    (pod,) = fleet.pods()
    command = ("exec", pod.metadata.name, "-n", fleet.namespace, "--", "python3", "-c", script, address, *paths)
    assert fleet.cluster.kubectl(*command).split() == ["200", "200", "403", "403", "403"]
