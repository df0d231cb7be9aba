"""Stage `repository`: the complete Triton model repository on disk."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from asr_contract.artifact import ModelFacts
from asr_contract.recipe import Recipe
from asr_serving.text import Vocabulary
from model_builder.progress import Reporter
from model_builder.repository import layout
from model_builder.repository.config import Served


def run(
    folder: Path,
    *,
    recipe: Recipe,
    models: Mapping[str, Path],
    served: Served,
    vocabulary: Vocabulary,
    facts: ModelFacts,
    references: Path,
    reporter: Reporter,
) -> None:
    """Write the repository into `folder`, which is emptied first."""
    with reporter.task("repository") as task:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        layout.write(
            folder, recipe, models=models, served=served, vocabulary=vocabulary, facts=facts, references=references
        )
        task.note(", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())))
