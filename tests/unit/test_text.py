from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_serving.text import Vocabulary, collapse, transcribe

PIECES = Vocabulary(("▁the", "▁we", "ather", "'", "s"), "sentencepiece", step_seconds=0.08)
LETTERS = Vocabulary((" ", "a", "b"), "characters", step_seconds=0.04)
BLANK = PIECES.blank


def decoded(vocabulary: Vocabulary, *tokens: int, valid: int | None = None) -> str:
    array = np.array(tokens, dtype=np.int32)
    logprobs = np.zeros(array.size, dtype=np.float32)
    return transcribe(array, logprobs, array.size if valid is None else valid, vocabulary).text


def test_repeats_merge_and_blanks_go() -> None:
    assert decoded(PIECES, 0, 0, BLANK, 1, 2, 2) == "the weather"


def test_a_blank_between_equal_tokens_keeps_both() -> None:
    assert decoded(LETTERS, 1, LETTERS.blank, 1) == "aa"


def test_pieces_without_the_mark_continue_a_word() -> None:
    assert decoded(PIECES, 1, 2, 3, 4) == "weather's"


def test_characters_part_words_at_spaces() -> None:
    assert decoded(LETTERS, 0, 1, 2, 0, 0, 2, 1, 0) == "ab ba"


def test_what_lies_beyond_the_encoded_length_is_not_read() -> None:
    assert decoded(PIECES, 0, BLANK, 1, valid=2) == "the"


def test_words_have_their_times_in_seconds() -> None:
    tokens = np.array([BLANK, 0, 0, BLANK, 1, 2], dtype=np.int32)
    found = transcribe(tokens, np.zeros(6, dtype=np.float32), 6, PIECES)
    assert found.words == ("the", "weather")
    np.testing.assert_allclose(found.offsets, [[0.08, 0.24], [0.32, 0.48]], rtol=1e-6)


def test_confidence_is_the_mean_probability_of_the_steps_with_a_token() -> None:
    tokens = np.array([0, BLANK, 1], dtype=np.int32)
    logprobs = np.log(np.array([0.5, 0.01, 1.0], dtype=np.float32))
    assert transcribe(tokens, logprobs, 3, PIECES).confidence == pytest.approx(0.75)


def test_silence_is_empty_text_with_the_confidence_of_the_blank() -> None:
    tokens = np.array([BLANK, BLANK], dtype=np.int32)
    found = transcribe(tokens, np.log(np.array([0.9, 0.7], dtype=np.float32)), 2, PIECES)
    assert (found.text, found.words) == ("", ())
    assert found.confidence == pytest.approx(0.8)


def test_no_steps_at_all_are_empty_text() -> None:
    assert decoded(PIECES) == ""


tokens = st.lists(st.integers(0, BLANK), max_size=80)


@given(tokens)
def test_collapse_is_the_plain_definition(found: list[int]) -> None:
    plain = [token for token, before in zip(found, [None, *found], strict=False) if token not in (before, BLANK)]
    assert collapse(np.array(found, dtype=np.int32), BLANK)[0].tolist() == plain


@given(tokens)
def test_words_join_to_the_text_and_their_times_rise(found: list[int]) -> None:
    result = transcribe(np.array(found, dtype=np.int32), np.zeros(len(found), dtype=np.float32), len(found), PIECES)
    assert " ".join(result.words) == result.text
    flat = result.offsets.ravel()
    assert (flat[1:] >= flat[:-1]).all()


def test_a_vocabulary_survives_its_file(tmp_path: Path) -> None:
    PIECES.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json") == PIECES


def test_pieces_may_hold_several_words() -> None:
    vocabulary = Vocabulary(("▁of▁the", "ir▁own"), "sentencepiece", step_seconds=0.08)
    assert decoded(vocabulary, 0, 1) == "of their own"


def test_a_piece_that_is_only_the_mark_starts_a_word() -> None:
    vocabulary = Vocabulary(("▁", "a", "b"), "sentencepiece", step_seconds=0.08)
    assert decoded(vocabulary, 0, 1, 0, 2, 0) == "a b"


def test_punctuation_joins_the_word_before_as_in_nemo() -> None:
    vocabulary = Vocabulary(("▁", "▁yes", ",", "▁no", "?"), "sentencepiece", step_seconds=0.08, punctuation=",?")
    array = np.array([1, 0, 2, 3, 4], dtype=np.int32)
    found = transcribe(array, np.zeros(5, dtype=np.float32), 5, vocabulary)
    assert (found.text, found.words) == ("yes, no?", ("yes,", "no?"))
    np.testing.assert_allclose(found.offsets, [[0.0, 0.24], [0.24, 0.4]], rtol=1e-6)


def test_two_spaces_keep_punctuation_apart_as_in_nemo() -> None:
    vocabulary = Vocabulary((" ", "a", "'"), "characters", step_seconds=0.04, punctuation="'")
    blank = vocabulary.blank
    assert decoded(vocabulary, 1, 0, 2, 1, 0, blank, 0, 2) == "a'a '"
