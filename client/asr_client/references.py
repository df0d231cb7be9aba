"""Known texts of audio files, in the forms in which people have them: transcripts.json, plain JSON, NeMo manifests."""

import codecs
import json
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

BYTE_ORDER_MARKS = {
    # The mark of UTF-32 begins like the one of UTF-16.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
PATH_KEYS = ("audio_filepath", "audio_filename", "file")
"""What NeMo calls a file, what older manifests do, and `asr transcribe --json`."""
FORMS = (
    'must be {"file.wav": {"text": "..."}, ...} or {"file.wav": "...", ...}, or a NeMo manifest, '
    '{"audio_filepath": "file.wav", "text": "..."} on a line for each file'
)


class ReferencesError(ValueError):
    """The texts cannot be read; the message says why."""


def load(path: Path) -> dict[str, str]:
    """Read texts by file.

    Raises:
        ReferencesError: Not readable, or of another form.
    """
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise ReferencesError(f"{path}: {error.strerror}") from error
    except ReferencesError as error:
        raise ReferencesError(f"{path} {FORMS}: {error}") from error


def parse(content: bytes) -> dict[str, str]:
    """Texts by file, from the content of a file: UTF-8, or what its byte-order mark says.

    Raises:
        ReferencesError: Of another form.
    """
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ReferencesError(f"it is not {encoding.removesuffix('-sig').upper()} ({error.reason})") from error
    try:
        found = _entries(text)
    except RecursionError as error:
        raise ReferencesError("it is nested too deeply") from error
    texts: dict[str, str] = {}
    for where, file, said in found:
        if not isinstance(said, str):
            raise ReferencesError(f"{where} has no text")
        if any(unicodedata.category(letter) == "Cs" for letter in said):
            raise ReferencesError(f"{where} has a character that cannot be written")
        if texts.setdefault(file, said) != said:
            raise ReferencesError(f"{where} has another text for {file} than an entry before")
    return texts


def _entries(text: str) -> Iterable[tuple[str, str, Any]]:
    """Where each entry stands, its file and its text; the text may be anything."""
    try:
        whole = json.loads(text)
    except ValueError as error:
        # The lines of a manifest are JSON, all of them together are not.
        lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        if not lines:
            raise ReferencesError("it is empty") from error
        return [_of_manifest(f"line {number}", _line(number, line)) for number, line in lines]
    if isinstance(whole, Mapping) and not any(isinstance(whole.get(key), str) and "text" in whole for key in PATH_KEYS):
        return [
            (json.dumps(name), name, entry.get("text") if isinstance(entry, Mapping) else entry)
            for name, entry in whole.items()
        ]
    items = [whole] if isinstance(whole, Mapping) else whole
    if not isinstance(items, list) or not items:
        raise ReferencesError("it names no file")
    return [_of_manifest(f"entry {number}", item) for number, item in enumerate(items, start=1)]


def _line(number: int, line: str) -> Any:  # noqa: ANN401 (JSON)
    try:
        return json.loads(line)
    except ValueError as error:
        raise ReferencesError(f"line {number} is not JSON ({error})") from error


def _of_manifest(where: str, item: Any) -> tuple[str, str, Any]:  # noqa: ANN401 (JSON)
    if not isinstance(item, Mapping):
        raise ReferencesError(f"{where} is no object")
    file = next((item[key] for key in PATH_KEYS if isinstance(item.get(key), str)), None)
    if file is None:
        raise ReferencesError(f"{where} has no audio_filepath")
    if item.get("offset"):
        raise ReferencesError(f"{where} is about a part of {file} (offset {item['offset']}): cut the audio into files")
    return where, file, item.get("text")


def matched(texts: Mapping[str, str], files: Iterable[str]) -> dict[str, str]:
    """The text of each file that has one: that of the entry which agrees with its path in most parts, from the end.

    Folders differ between machines, so that the file's name alone is enough where no two entries share it.

    Args:
        texts: By file, as `load` returns them.
        files: Paths.

    Raises:
        ReferencesError: Two entries with different texts agree as well with a file.
    """
    by_name: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for known, text in texts.items():
        parts = _parts(known)
        by_name.setdefault(parts[-1] if parts else "", []).append((parts, text))
    found = {}
    for file in files:
        parts = _parts(file)
        candidates = by_name.get(parts[-1] if parts else "", [])
        if not candidates:
            continue
        most = max(_common(parts, known) for known, _ in candidates)
        best = {text for known, text in candidates if _common(parts, known) == most}
        if len(best) > 1:
            raise ReferencesError(
                f"the reference has several texts for files called {parts[-1]}: give paths with folders"
            )
        found[file] = best.pop()
    return found


def _parts(file: str) -> tuple[str, ...]:
    return PurePath(file.replace("\\", "/")).parts


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many parts are the same, from the end."""
    same = 0
    for left, right in zip(reversed(one), reversed(other), strict=False):
        if left != right:
            break
        same += 1
    return same


def normalised(text: str) -> str:
    """Words alone, in one way of writing: lower case, without punctuation, one space between words.

    In this order: Unicode's compatibility form NFKC; case folded (so that ß is ss); apostrophes and invisible
    characters dropped (don't is dont); other punctuation and symbols are spaces; white space is one space. Accents and
    the vowel signs of Indic scripts stay, which Whisper's normaliser drops. Numbers, abbreviations and spellings stay.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(_plain(letter) for letter in folded).split())


def _plain(letter: str) -> str:
    category = unicodedata.category(letter)
    if letter in "'\u2018\u2019\u02bc\u0060\u00b4" or category == "Cf":
        return ""
    return " " if category[0] in "PSZC" else letter
