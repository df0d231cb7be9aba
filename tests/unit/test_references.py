"""Known texts in the forms in which people have them, and what counts as the same word."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_client import references, word_errors
from asr_client.references import ReferencesError, matched, normalised, parse

TEXTS = {"a.wav": "good morning", "b/c.wav": "gr\xfc\xdfe"}
MANIFEST = "".join(
    json.dumps({"audio_filepath": name, "duration": 1.5, "text": text}, ensure_ascii=False) + "\n"
    for name, text in TEXTS.items()
)
FORMS = {
    "transcripts.json": json.dumps({name: {"text": text} for name, text in TEXTS.items()}),
    "plain JSON": json.dumps(TEXTS, indent=1),
    "list": json.dumps([{"audio_filepath": name, "text": text} for name, text in TEXTS.items()]),
    "NeMo manifest": MANIFEST,
    "manifest with empty lines": MANIFEST.replace("\n", "\r\n\r\n"),
    "lines of asr transcribe --json": MANIFEST.replace("audio_filepath", "file"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_each_form_and_encoding_gives_the_same_texts(form: str, encoding: str) -> None:
    assert parse(FORMS[form].encode(encoding)) == TEXTS


def test_big_endian_utf_16_is_read() -> None:
    assert parse(b"\xfe\xff" + MANIFEST.encode("utf-16-be")) == TEXTS


def test_a_manifest_of_one_line_is_a_manifest() -> None:
    assert parse(MANIFEST.splitlines()[0].encode()) == {"a.wav": "good morning"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"[]", "names no file"),
        (b"5", "names no file"),
        (b'{"a.wav": 5}', '"a.wav" has no text'),
        (b'{"a.wav": {"text": null}}', '"a.wav" has no text'),
        (b'{"audio_filepath": "a.wav", "text": "x"}\n{broken', "line 2 is not JSON"),
        (b'{"audio_filepath": "a.wav", "text": "x"}\n{"audio_filepath": "b.wav"}', "line 2 has no text"),
        (b'{"audio_filepath": "a.wav", "text": "x"}\n{"text": "x"}', "line 2 has no audio_filepath"),
        (b'[{"audio_filepath": "a.wav", "text": "x", "offset": 3.5}]', "is about a part of a.wav"),
        (b'[{"file": "a", "text": "x"}, {"file": "a", "text": "y"}]', "another text for a"),
        (b'{"a.wav": "\\ud800"}', "cannot be written"),
        (b"\xe9", "it is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_another_form_is_refused_with_the_place(content: bytes, problem: str) -> None:
    with pytest.raises(ReferencesError, match=problem):
        parse(content)


def test_a_refusal_names_the_file_and_the_forms(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    path.write_text("[]")
    with pytest.raises(ReferencesError, match=rf"^{path} must be .* NeMo manifest"):
        references.load(path)


@given(st.binary(max_size=100))
def test_any_content_is_read_or_refused(content: bytes) -> None:
    try:
        found = parse(content)
    except ReferencesError:
        return
    assert all(isinstance(text, str) for text in found.values())


def test_a_files_name_is_enough_whatever_the_folders_are() -> None:
    assert matched({"/data/set/a.wav": "one"}, ["here/a.wav", "b.wav"]) == {"here/a.wav": "one"}


def test_of_files_with_one_name_the_folder_decides() -> None:
    known = {"/data/x/1.wav": "one", "/data/y/1.wav": "two"}
    assert matched(known, ["copy/y/1.wav", "copy/x/1.wav"]) == {"copy/y/1.wav": "two", "copy/x/1.wav": "one"}


def test_files_with_one_name_that_nothing_tells_apart_are_refused() -> None:
    with pytest.raises(ReferencesError, match=r"several texts for files called 1\.wav"):
        matched({"x/1.wav": "one", "y/1.wav": "two"}, ["1.wav"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, World!", "hello world"),
        ("It's a well-known \u201cfact\u201d\u2026", "its a well known fact"),
        ("don\u2019t", "dont"),
        ("STRASSE Stra\xdfe", "strasse strasse"),
        ("cafe\u0301", "caf\xe9"),
        ("\xbfQu\xe9 tal?", "qu\xe9 tal"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940\u0964", "\u0939\u093f\u0928\u094d\u0926\u0940"),
        ("\ufeffa\u00adb\tc\nd", "ab c d"),
        ("3.5 % of $20", "3 5 of 20"),
        ("...", ""),
    ],
)
def test_normalised_text_has_words_alone(text: str, words: str) -> None:
    assert normalised(text) == words


@given(st.text())
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


def test_case_and_punctuation_are_errors_unless_they_are_normalised() -> None:
    pytest.importorskip("jiwer")
    strict = word_errors.of_files({"a.wav": "Hello, World."}, [("a.wav", "hello world")])[0]
    plain = word_errors.of_files({"a.wav": "Hello, World."}, [("a.wav", "hello world")], normalise=True)[0]
    assert strict is not None
    assert plain is not None
    assert (strict.errors, plain.errors) == (2, 0)
