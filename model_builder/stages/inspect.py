"""Stage `inspect`: open the checkpoint without trusting it, and refuse early what cannot be served."""

import shutil
from pathlib import Path

from model_builder.checkpoint import Description, describe, unpack
from model_builder.errors import WorkFolderError
from model_builder.progress import Reporter


def run(source: Path, folder: Path, reporter: Reporter) -> Description:
    """Unpack `source` into `folder` (emptied first) and read its configuration.

    Raises:
        CheckpointError: Not a safe, complete `.nemo` file.
        UnsupportedCheckpointError: Another kind of model.
        WorkFolderError: The folder cannot be written.
    """
    with reporter.task("inspect") as task:
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        except OSError as error:
            raise WorkFolderError(f"cannot prepare {folder}: {error}") from error
        unpack(source, folder)
        description = describe(folder)
        task.note(f"{description.class_name}  {description.features} mel bands  {description.subsampling}x subsampling")
    return description
