from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_serving.text import Transcript, Vocabulary, collapse, transcribe

PIECES = Vocabulary(("▁the", "▁we", "ather", "'", "s"), "sentencepiece", step_seconds=0.08)
LETTERS = Vocabulary((" ", "a", "b"), "characters", step_seconds=0.04)
BLANK = PIECES.blank


def heard(
    vocabulary: Vocabulary, tokens: Sequence[int], logprobs: Sequence[float], valid: int | None = None
) -> Transcript:
    (found,) = transcribe(
        np.array([tokens], dtype=np.int32),
        np.array([logprobs], dtype=np.float32),
        np.array([len(tokens) if valid is None else valid]),
        vocabulary,
    )
    return found


def decoded(vocabulary: Vocabulary, *tokens: int, valid: int | None = None) -> str:
    return heard(vocabulary, tokens, [0.0] * len(tokens), valid).text


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
    found = heard(PIECES, [BLANK, 0, 0, BLANK, 1, 2], [0.0] * 6)
    assert found.words == ("the", "weather")
    np.testing.assert_allclose(found.offsets, [[0.08, 0.24], [0.32, 0.48]], rtol=1e-6)


def test_confidence_is_the_mean_probability_of_the_steps_with_a_token() -> None:
    found = heard(PIECES, [0, BLANK, 1], np.log([0.5, 0.01, 1.0]).tolist())
    assert found.confidence == pytest.approx(0.75)


def test_silence_is_empty_text_with_the_confidence_of_the_blank() -> None:
    found = heard(PIECES, [BLANK, BLANK], np.log([0.9, 0.7]).tolist())
    assert (found.text, found.words) == ("", ())
    assert found.confidence == pytest.approx(0.8)


def test_tokens_that_write_nothing_are_silence_too() -> None:
    spaces = Vocabulary(("▁", "a"), "sentencepiece", step_seconds=0.08)
    found = heard(spaces, [0, spaces.blank, 0], np.log([0.4, 0.9, 0.5]).tolist())
    assert not found.text
    assert found.confidence == pytest.approx(0.6)


def test_no_steps_at_all_are_silence_for_sure() -> None:
    assert (heard(PIECES, [], []).text, heard(PIECES, [], []).confidence) == ("", 1.0)


def test_no_steps_at_all_are_empty_text() -> None:
    assert decoded(PIECES) == ""


tokens = st.lists(st.integers(0, BLANK), max_size=80)


Batch = tuple[npt.NDArray[np.int32], list[list[int]]]


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Rows padded with tokens that must not be read, and the rows as they are."""
    rows = draw(st.lists(tokens, min_size=1, max_size=5))
    padded = np.full((len(rows), max(map(len, rows)) + draw(st.integers(0, 2))), draw(st.integers(0, BLANK)), np.int32)
    for row, found in zip(padded, rows, strict=True):
        row[: len(found)] = found
    return padded, rows


@given(batches())
def test_collapse_is_the_plain_definition_in_each_row(batch: Batch) -> None:
    padded, rows = batch
    kept, row, starts, ends = collapse(padded, np.array([len(found) for found in rows]), BLANK)
    plain = [
        (index, token, step)
        for index, found in enumerate(rows)
        for step, (token, before) in enumerate(zip(found, [None, *found], strict=False))
        if token not in {before, BLANK}
    ]
    assert list(zip(row.tolist(), kept.tolist(), starts.tolist(), strict=True)) == plain
    for index, token, start, end in zip(row, kept, starts, ends, strict=True):
        assert set(rows[index][start:end]) == {token}
        assert end == len(rows[index]) or rows[index][end] != token


@given(batches())
def test_a_batch_is_decoded_as_its_utterances_are_alone(batch: Batch) -> None:
    padded, rows = batch
    logprobs = -np.arange(padded.size, dtype=np.float32).reshape(padded.shape) / 100
    together = transcribe(padded, logprobs, np.array([len(found) for found in rows]), PIECES)
    for found, tokens_alone, row in zip(together, rows, logprobs, strict=True):
        alone = heard(PIECES, tokens_alone, row[: len(tokens_alone)].tolist())
        assert (found.text, found.words, found.offsets.tolist()) == (alone.text, alone.words, alone.offsets.tolist())
        assert found.confidence == pytest.approx(alone.confidence)


@given(tokens)
def test_words_join_to_the_text_and_their_times_rise(found: list[int]) -> None:
    result = heard(PIECES, found, [0.0] * len(found))
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
    found = heard(vocabulary, [1, 0, 2, 3, 4], [0.0] * 5)
    assert (found.text, found.words) == ("yes, no?", ("yes,", "no?"))
    np.testing.assert_allclose(found.offsets, [[0.0, 0.24], [0.24, 0.4]], rtol=1e-6)


def test_two_spaces_keep_punctuation_apart_as_in_nemo() -> None:
    vocabulary = Vocabulary((" ", "a", "'"), "characters", step_seconds=0.04, punctuation="'")
    blank = vocabulary.blank
    assert decoded(vocabulary, 1, 0, 2, 1, 0, blank, 0, 2) == "a'a '"
