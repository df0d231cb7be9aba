"""Stage `publish`: the repository to object storage, its manifest last."""

from pathlib import Path
from typing import Any

from asr_contract.artifact import ModelFacts
from asr_contract.recipe import Recipe
from model_builder import artifact_store
from model_builder.progress import Reporter
from model_builder.storage import Storage


def run(
    repository: Path,
    storage: Storage,
    *,
    recipe: Recipe,
    provenance: dict[str, Any],
    facts: ModelFacts,
    check: dict[str, Any],
    gate: dict[str, Any],
    measurements: dict[str, Any] | None = None,
    reporter: Reporter,
) -> artifact_store.Published:
    """Publish what the gate accepted.

    Raises:
        StorageError: Storage refused or failed; nothing is visible then, and the next run continues.
    """
    return artifact_store.publish(
        repository,
        storage,
        recipe=recipe,
        provenance=provenance,
        facts=facts,
        check=check,
        gate=gate,
        measurements=measurements,
        reporter=reporter,
    )
