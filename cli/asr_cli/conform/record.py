"""The record of a run: one JSON document, fit for an issue. It holds no addresses, secrets, audio or transcripts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from asr_cli.conform.outcome import Outcome, Result

FORMAT = 1


def record(
    results: Mapping[str, Sequence[Result]], *, model: str, kill: bool, versions: Mapping[str, str | None], at: datetime
) -> dict[str, Any]:
    """One document for all servers.

    Args:
        results: Of each server, by the name of its pool.
        model: Name of the model.
        kill: Whether processes and pods were ended.
        versions: Of this client.
        at: When it ran.
    """
    total = Counter(result.outcome for found in results.values() for result in found)
    return {
        "format": FORMAT,
        "at": at.isoformat(timespec="seconds"),
        "model": model,
        "kill": kill,
        "client": dict(versions),
        "summary": {outcome.value: total[outcome] for outcome in Outcome},
        "servers": [
            {"name": name, "checks": [result.to_json() for result in found]} for name, found in results.items()
        ],
    }
