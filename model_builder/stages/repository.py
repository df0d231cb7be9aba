"""Stage `repository`: the complete Triton model repository on disk."""

import shutil
from pathlib import Path

from asr_serving.text import Vocabulary
from model_builder.checkpoint import Description
from model_builder.progress import Reporter
from model_builder.recipe import Recipe
from model_builder.repository import layout


def run(
    model: Path,
    folder: Path,
    *,
    recipe: Recipe,
    vocabulary: Vocabulary,
    hop: int,
    description: Description,
    reporter: Reporter,
) -> None:
    """Write the repository into `folder`, which is emptied first; `hop` is in samples."""
    with reporter.task("repository") as task:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        layout.write(
            folder,
            recipe,
            acoustic=model,
            vocabulary=vocabulary,
            features=description.features,
            hop=hop,
            preprocessor=description.preprocessor,
        )
        task.note(", ".join(sorted(path.name for path in folder.iterdir())))
