"""Stage `repository`: the complete Triton model repository on disk."""

import shutil
from pathlib import Path

from model_builder.nemo import Checkpoint
from model_builder.progress import Reporter
from model_builder.recipe import Recipe
from model_builder.repository import layout


def run(checkpoint: Checkpoint, model: Path, folder: Path, *, recipe: Recipe, reporter: Reporter) -> None:
    """Write the repository into `folder`, which is emptied first."""
    with reporter.task("repository") as task:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        layout.write(
            folder,
            recipe,
            acoustic=model,
            vocabulary=checkpoint.vocabulary,
            features=checkpoint.description.features,
            hop=int(checkpoint.mel_parts()["hop"]),
            preprocessor=checkpoint.description.preprocessor,
        )
        task.note(", ".join(sorted(path.name for path in folder.iterdir())))
