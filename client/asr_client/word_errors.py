"""Word error rate against known texts. Adapter of jiwer, which is not among the client's packages."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


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
    """Read a transcripts.json, {"file.wav": {"text": "..."}}: texts by file name.

    Raises:
        WordErrorsError: Not readable, or of another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(entry["text"]) for name, entry in content.items()}
    except OSError as error:
        raise WordErrorsError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WordErrorsError(f'{path} must be {{"file.wav": {{"text": "..."}}, ...}}: {error!r}') from error


def count(references: Sequence[str], hypotheses: Sequence[str]) -> WordErrors | None:
    """Count word errors as jiwer does: case and punctuation count. None when the references hold no words.

    Args:
        references: What was said, N texts.
        hypotheses: What was transcribed, N texts in the same order.

    Raises:
        WordErrorsError: jiwer is not installed.
    """
    require()
    import jiwer  # noqa: PLC0415

    if not any(text.split() for text in references):
        return None
    found = jiwer.process_words(list(references), list(hypotheses))
    wrong = found.substitutions + found.deletions
    return WordErrors(errors=wrong + found.insertions, words=wrong + found.hits)


def of_files(references: Mapping[str, str], transcripts: Sequence[tuple[str, str]]) -> tuple[WordErrors | None, int]:
    """Word errors of those files whose text is known, and how many these are.

    Args:
        references: Texts by file name without folders.
        transcripts: Path and transcript of each file.
    """
    known = [(references[Path(path).name], text) for path, text in transcripts if Path(path).name in references]
    if not known:
        return None, 0
    return count([said for said, _ in known], [text for _, text in known]), len(known)
