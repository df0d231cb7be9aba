"""Word error rate against known texts. Adapter of jiwer, which is not among the client's packages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_client import references


class WordErrorsError(Exception):
    """The word error rate cannot be told; the message says why."""


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Errors over all files.

    Attributes:
        errors: Substituted, left out and added words.
        words: Words of the references; not 0.
    """

    errors: int
    words: int

    @property
    def rate(self) -> float:
        """Errors by words: 0 to above 1."""
        return self.errors / self.words


def require() -> None:
    """Load jiwer.

    Raises:
        WordErrorsError: It is not installed.
    """
    try:
        import jiwer  # noqa: F401, PLC0415
    except ImportError as error:
        raise WordErrorsError("the word error rate needs jiwer: pip install jiwer") from error


def load_references(path: Path) -> dict[str, str]:
    """Read texts by file, in any form of `references`.

    Raises:
        WordErrorsError: Not readable, or of another form.
    """
    try:
        return references.load(path)
    except references.ReferencesError as error:
        raise WordErrorsError(str(error)) from error


def count(said: Sequence[str], transcribed: Sequence[str], *, normalise: bool = False) -> WordErrors | None:
    """Count word errors as jiwer does. None when nothing was said.

    Args:
        said: What was said, N texts.
        transcribed: What was transcribed, N texts in the same order.
        normalise: Compare words alone, as `references.normalised` writes them; else case and punctuation count.

    Raises:
        WordErrorsError: jiwer is not installed.
    """
    require()
    import jiwer  # noqa: PLC0415

    if normalise:
        said, transcribed = ([references.normalised(text) for text in texts] for texts in (said, transcribed))
    if not any(text.split() for text in said):
        return None
    found = jiwer.process_words(list(said), list(transcribed))
    wrong = found.substitutions + found.deletions
    return WordErrors(errors=wrong + found.insertions, words=wrong + found.hits)


def of_files(
    known: Mapping[str, str], transcripts: Sequence[tuple[str, str]], *, normalise: bool = False
) -> tuple[WordErrors | None, int]:
    """Word errors of those files whose text is known, and how many these are.

    Args:
        known: Texts by file.
        transcripts: Path and transcript of each file.
        normalise: As for `count`.

    Raises:
        WordErrorsError: Texts of two files of one name cannot be told apart, or jiwer is not installed.
    """
    try:
        texts = references.matched(known, (path for path, _ in transcripts))
    except references.ReferencesError as error:
        raise WordErrorsError(str(error)) from error
    pairs = [(texts[path], text) for path, text in transcripts if path in texts]
    if not pairs:
        return None, 0
    return count([said for said, _ in pairs], [text for _, text in pairs], normalise=normalise), len(pairs)
