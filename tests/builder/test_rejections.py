"""A repository that does not transcribe like the checkpoint is not published: each damage is told with its figures."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr_contract.errors import RejectedError, ServerError
from asr_contract.recipe import Recipe
from model_builder.audio_set import AudioSet
from model_builder.progress import NullReporter, NullTask, Reporter, Task
from model_builder.stages import check, gate
from tests.builder.conftest import Built
from tests.support.damages import (
    change_frontend,
    change_the_mel_bank,
    change_weights,
    clear_one_row,
    scale_one_matrix,
    shift_the_vocabulary,
    truncate_the_model,
)
from tests.support.processes import servers_over
from tools.testcluster.machine import until


def judged(
    built: Built, audio: AudioSet, folder: Path, damage: Callable[[Path], None], reporter: Reporter | None = None
) -> dict[str, Any]:
    repository = folder / "repository"
    shutil.copytree(built.work / "repository", repository)
    damage(repository)
    return gate.run(
        repository,
        audio,
        check.load(built.work / "graphs" / "references.json"),
        recipe=Recipe.model_validate(built.report["recipe"]),
        log=folder / "triton.log",
        reporter=reporter or NullReporter(),
    )


def test_a_sound_repository_passes(built: Built, check_audio: AudioSet, tmp_path: Path) -> None:
    assert judged(built, check_audio, tmp_path, lambda _: None)["text_agreement"] == 1.0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_weights, r"% above the checkpoint's|% of the served tokens agree"),
        (change_the_mel_bank, r"% above the checkpoint's|% of the served tokens agree"),
        (shift_the_vocabulary, r"word error rate is [\d.]+% above the checkpoint's.*NeMo '.*', served '"),
        (scale_one_matrix(0.0), r"word error rate is [\d.]+% above the checkpoint's.*NeMo '.*', served '"),
    ],
    ids=["changed weights", "wrong mel bank", "shifted vocabulary", "zeroed matrix"],
)
def test_a_damaged_repository_is_rejected_with_the_figures(
    built: Built, check_audio: AudioSet, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    with pytest.raises(RejectedError, match=message):
        judged(built, check_audio, tmp_path, damage)


@pytest.mark.parametrize(
    "damage",
    [
        scale_one_matrix(2.0),
        scale_one_matrix(1.05),
        clear_one_row,
        change_frontend("mel", lambda bank: bank * 1.1),
        change_frontend("kernel", lambda kernel: np.roll(kernel, 1, axis=0)),
    ],
    ids=["doubled matrix", "matrix times 1.05", "cleared row", "louder mel bank", "late window"],
)
def test_a_small_damage_that_hardly_changes_a_word_is_rejected(
    built: Built, check_audio: AudioSet, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    with pytest.raises(
        RejectedError, match=r"[\d.]+% of the served tokens agree|NeMo's by [\d.e-]+ \(max\); at most 0.01"
    ):
        judged(built, check_audio, tmp_path, damage)


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (0.0, r"word error rate is [\d.]+% above the checkpoint's"),
        (2.0, r"[\d.]+% of the served tokens agree|NeMo's by [\d.e-]+ \(m"),
    ],
    ids=["zeroed", "doubled"],
)
def test_in_half_precision_a_damaged_matrix_is_rejected(
    half_built: Built, check_audio: AudioSet, tmp_path: Path, factor: float, message: str
) -> None:
    with pytest.raises(RejectedError, match=message):
        judged(half_built, check_audio, tmp_path, scale_one_matrix(factor))


def test_what_was_served_is_compared_log_probability_by_log_probability(built: Built, half_built: Built) -> None:
    exact, half = (item.report["stages"]["gate"] for item in (built, half_built))
    assert exact["max_token_logprob_difference"] <= 1e-3
    assert 0 < half["mean_token_logprob_difference"] <= half["max_token_logprob_difference"] <= 0.1


def test_a_model_that_does_not_load_is_told_with_the_log(built: Built, check_audio: AudioSet, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="onnx_english_stt"):
        judged(built, check_audio, tmp_path, truncate_the_model)


def test_a_server_that_ends_before_the_first_request_is_no_fault_of_the_model(
    built: Built, check_audio: AudioSet, tmp_path: Path
) -> None:
    class Killing(NullReporter):
        """Kills Triton when it is ready."""

        @contextmanager
        def task(self, name: str, total: float | None = None) -> Iterator[Task]:
            del name, total

            class Note(NullTask):
                def note(self, text: str) -> None:
                    if text == "Triton transcribes the check audio":
                        for process in servers_over(tmp_path):
                            os.kill(int(process), signal.SIGKILL)
                        until(lambda: not servers_over(tmp_path), "the end of Triton")

            yield Note()

    with pytest.raises(ServerError, match="Triton ended with exit code"):
        judged(built, check_audio, tmp_path, lambda _: None, Killing())
