"""What the scheduler says of itself when Triton asks whether it is ready, which releases from 26.03 on do."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from model_builder import triton
from tests.support.load import steady, utterances
from tools.testcluster.machine import until

NAME = "english_stt"
ASKING = '''"""The scheduler, which asks itself as Triton would, and whose work can be made to hang or to die."""

import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from asr_serving import progress, scheduler

FOLDER = Path({folder!r})
progress.STUCK_SECONDS = 3.0


class TritonPythonModel(scheduler.TritonPythonModel):
    def initialize(self, args):
        super().initialize(args)
        ready, frontend = self.is_ready, self._frontend

        def ask():
            with (FOLDER / "said").open("a", buffering=1) as said:
                while True:
                    said.write(f"{{ready()}}\\n")
                    time.sleep(0.02)

        def hang(*inputs):
            while (FOLDER / "hang").exists():
                time.sleep(0.02)
            return frontend(*inputs)

        self._frontend = hang
        threading.Thread(target=ask, daemon=True).start()

    def _choose(self):
        try:
            (FOLDER / "die").unlink()
        except FileNotFoundError:
            return super()._choose()
        raise RuntimeError("a fault that nobody thought of")
'''


@dataclass(frozen=True, slots=True)
class Asked:
    """A server whose scheduler is asked all the time."""

    server: triton.Server
    folder: Path

    def said(self) -> list[bool]:
        """All answers so far."""
        return [line == "True" for line in (self.folder / "said").read_text().splitlines()]

    def says(self, ready: bool) -> bool:
        """Whether it says so now."""
        return self.said()[-1] is ready


@pytest.fixture
def asked(repository: Path, tmp_path: Path) -> Iterator[Asked]:
    copy = tmp_path / "repository"
    shutil.copytree(repository, copy)
    (copy / NAME / "1" / "model.py").write_text(ASKING.format(folder=str(tmp_path)))
    with triton.serve(copy) as server:
        yield Asked(server, tmp_path)


def test_a_busy_scheduler_is_ready_all_the_time(asked: Asked) -> None:
    signals = utterances(32, seed=5, shortest=2, longest=30)
    with steady(asked.server.ports.grpc_url, NAME, in_flight=128, signals=signals) as load:
        until(lambda: load.good > 256, "answers")
    assert load.errors == []
    assert all(asked.said())


def test_a_scheduler_whose_work_hangs_is_not_ready_until_it_goes_on(asked: Asked) -> None:
    signals = utterances(1, seed=5, shortest=1, longest=1.1)
    with steady(asked.server.ports.grpc_url, NAME, in_flight=1, signals=signals) as load:
        until(lambda: load.good > 0, "an answer")
        (asked.folder / "hang").touch()
        until(lambda: asked.says(False), "the scheduler to say that it hangs")
        (asked.folder / "hang").unlink()
        until(lambda: asked.says(True), "the scheduler to say that it goes on")
    assert load.errors == []


def test_a_scheduler_without_one_of_its_workers_is_not_ready(asked: Asked) -> None:
    signals = utterances(1, seed=5, shortest=1, longest=1.1)
    with steady(asked.server.ports.grpc_url, NAME, in_flight=1, signals=signals) as load:
        until(lambda: load.good > 0, "an answer")
        assert asked.says(True)
        (asked.folder / "die").touch()
        until(lambda: asked.says(False), "the scheduler to say that a worker is gone")
