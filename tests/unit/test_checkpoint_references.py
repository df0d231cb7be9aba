"""Which served texts and tokens are the checkpoint's own, near-ties aside."""

from pathlib import Path

import numpy as np
import pytest

from asr_contract.errors import RejectedError
from asr_contract.recipe import Precision, Recipe
from asr_serving.text import Vocabulary
from model_builder import references
from model_builder.audio_set import AudioSet, Utterance
from model_builder.references import Heard, explained, from_logprobs, same_text, settled
from model_builder.stages import check, gate

GERMAN = Vocabulary((" ", "g", "r", "ü", "n", "u"), "characters", 0.04)
BLANK = GERMAN.blank
WORD = "grün"


def heard(best: list[int], second: dict[int, tuple[int, float]]) -> Heard:
    """Steps whose best token has the log-probability -0.1, with a runner-up at some."""
    logprobs = np.full((len(best), BLANK + 1), -20.0, dtype=np.float32)
    logprobs[np.arange(len(best)), best] = -0.1
    for step, (token, margin) in second.items():
        logprobs[step, token] = -0.1 - margin
    merged = [token for token, before in zip(best, [BLANK, *best], strict=False) if token != before]
    text = "".join(GERMAN.tokens[token] for token in merged if token != BLANK)
    return from_logprobs(text, logprobs, np.zeros(len(best), dtype=np.float32))


CLEAR = heard([1, BLANK, 2, 3, 4], {})
NEAR_TIE = heard([1, BLANK, 2, 3, 4], {3: (5, 0.01)})


def test_a_text_is_the_same_whatever_its_white_space_but_for_its_place() -> None:
    assert same_text(" das  Haus\u3000ist\ngrün ", "das Haus ist grün")
    assert not same_text("das Hausist grün", "das Haus ist grün")


def test_another_text_is_explained_by_a_near_tie() -> None:
    assert explained(NEAR_TIE, "grun", GERMAN, margin=0.02)


def test_another_text_is_not_explained_where_the_margin_is_larger() -> None:
    assert not explained(NEAR_TIE, "grun", GERMAN, margin=0.005)
    assert not explained(CLEAR, "grun", GERMAN, margin=1.0)


def test_a_near_tie_explains_no_other_word_than_its_own() -> None:
    assert not explained(NEAR_TIE, "gron", GERMAN, margin=0.02)
    assert not explained(NEAR_TIE, "grunn", GERMAN, margin=0.02)
    assert not explained(NEAR_TIE, "", GERMAN, margin=0.02)


def test_a_near_tie_with_the_blank_drops_or_doubles_a_letter() -> None:
    dropped = heard([1, 2, 3, 4], {1: (BLANK, 0.01)})
    doubled = heard([1, 2, 3, 4, 4, 4], {4: (BLANK, 0.01)})
    assert explained(dropped, "gün", GERMAN, margin=0.02)
    assert explained(doubled, "grünn", GERMAN, margin=0.02)


def test_many_near_ties_are_followed_at_once() -> None:
    long = heard([1, BLANK] * 200, dict.fromkeys(range(0, 400, 2), (2, 0.01)))
    assert explained(long, "gr" * 100, GERMAN, margin=0.02)
    assert not explained(long, "gr" * 101, GERMAN, margin=0.02)


def test_a_vocabulary_that_does_not_write_what_the_checkpoint_writes_explains_nothing() -> None:
    shifted = Vocabulary((*GERMAN.tokens[1:], GERMAN.tokens[0]), "characters", 0.04)
    assert not explained(NEAR_TIE, "rünu", shifted, margin=0.02)
    assert not explained(NEAR_TIE, "rün", Vocabulary(GERMAN.tokens[:2], "characters", 0.04), margin=0.02)


def test_tokens_at_near_ties_are_no_differences() -> None:
    served = np.array([1, BLANK, 2, 5, 5], dtype=np.int32)
    assert settled(NEAR_TIE, served, margin=0.02).tolist() == [1, BLANK, 2, 3, 5]
    assert settled(CLEAR, served, margin=0.02).tolist() == served.tolist()


def test_references_are_read_as_they_were_written(tmp_path: Path) -> None:
    references.save([NEAR_TIE], tmp_path / "references.json")
    (read,) = references.load(tmp_path / "references.json")
    assert (read.text, read.tokens.tolist(), read.runners_up) == (WORD, NEAR_TIE.tokens.tolist(), ((3, 5, 0.01),))


def test_references_of_an_earlier_version_have_no_near_ties(tmp_path: Path) -> None:
    path = tmp_path / "references.json"
    path.write_text('[{"text": "grün", "tokens": [1, 2, 3, 4], "token_logprobs": [-0.1, -0.1, -0.1, -0.1]}]')
    assert references.load(path)[0].runners_up == ()


RECIPE = Recipe(model_name="german", checkpoint_sha256="0" * 64, check_audio_sha256="0" * 64)


def judged(served: list[str], references_: list[Heard], *, known: str | None, shift: float = 0.0) -> dict[str, object]:
    """The gate's verdict on these texts, with the checkpoint's own tokens and log-probabilities `shift` off."""
    audio = AudioSet(
        tuple(Utterance(f"{index}.wav", np.zeros(400, np.int16), known) for index in range(len(served))), "0" * 64
    )
    steps = [gate.Steps(item.tokens, item.token_logprobs + np.float32(shift)) for item in references_]
    figures = gate.figures_of(
        {"scheduler": served},
        {"onnx": steps},
        audio,
        references_,
        vocabulary=GERMAN,
        precision=Precision.FP32,
    )
    gate.judge(figures, RECIPE)
    return figures


@pytest.mark.parametrize("known", [None, "grun", "so etwas wie grün"], ids=["unknown", "known and worse", "known"])
def test_texts_that_are_not_the_checkpoints_are_rejected_whether_or_not_transcripts_are_known(
    known: str | None,
) -> None:
    with pytest.raises(RejectedError, match=r"4\.wav: NeMo 'grün', served 'grun'"):
        judged([WORD] * 4 + ["grun"], [CLEAR] * 5, known=known)


def test_an_error_rate_that_is_no_higher_excuses_no_other_text() -> None:
    with pytest.raises(RejectedError, match=r"1 of 5 served texts are not the checkpoint's own"):
        judged([WORD] * 4 + ["grun"], [CLEAR] * 5, known="ganz anders")


@pytest.mark.parametrize("known", [None, "grün ja"], ids=["unknown", "known"])
def test_a_text_with_a_near_tie_is_accepted_and_counted(known: str | None) -> None:
    close = heard([1, BLANK, 2, 3, 4], {3: (5, 0.001)})
    figures = judged([WORD] * 4 + ["grun"], [CLEAR] * 4 + [close], known=known)
    assert (figures["text_agreement"], figures["unexplained_texts"]) == (0.8, 0)


def test_other_white_space_is_accepted() -> None:
    assert judged([" grün\n"], [CLEAR], known=None)["text_agreement"] == 1.0


def test_the_file_that_decided_is_named() -> None:
    with pytest.raises(RejectedError, match=r"NeMo's by 0\.02 \(max\); at most 0\.01 is accepted for FP32: 0\.wav"):
        judged([WORD], [CLEAR], known=None, shift=0.02)
    assert judged([WORD], [CLEAR], known=None)["decided_by"] == {"file": "0.wav", "difference": 0.0, "limit": 0.01}


def test_what_rounding_does_to_the_checkpoint_itself_is_accepted_twice_over() -> None:
    unsteady = Heard(CLEAR.text, CLEAR.tokens, CLEAR.token_logprobs, moved=0.01, mean_moved=0.01)
    judged([WORD], [unsteady], known=None, shift=0.015)
    with pytest.raises(RejectedError, match=r"at most 0\.02 is accepted"):
        judged([WORD], [unsteady], known=None, shift=0.03)


def test_log_probabilities_that_are_no_numbers_are_rejected() -> None:
    with pytest.raises(RejectedError, match="differ from NeMo's by nan"):
        judged([WORD], [CLEAR], known=None, shift=float("nan"))


def test_a_vocabulary_that_writes_the_checkpoints_own_tokens_otherwise_is_rejected_with_the_file() -> None:
    check.check_vocabulary(GERMAN, [CLEAR], ["a.wav"])
    spoken = Vocabulary((" ", "g", "r", "ü", "n<s>", "u"), "characters", 0.04)
    with pytest.raises(RejectedError, match=r"a\.wav: NeMo writes 'grün', and the server would write 'grün<s>'"):
        check.check_vocabulary(spoken, [CLEAR], ["a.wav"])
