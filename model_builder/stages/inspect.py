"""Stage `inspect`: open the checkpoint without trusting it, and refuse early what cannot be served."""

import shutil
from pathlib import Path
from typing import Any

from asr_contract.errors import BuilderError, CheckpointError, UnsupportedCheckpointError, WorkFolderError
from model_builder import checkpoint
from model_builder.checkpoint import Description, describe, unpack_all_but_weights, unpack_weights
from model_builder.progress import Reporter
from model_builder.resume import sha256_of


def run(source: Path, folder: Path, reporter: Reporter) -> Description:
    """Unpack `source` into `folder` (emptied first) and read its configuration, before its weights are unpacked.

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
        header = unpack_all_but_weights(source, folder)
        description = describe(folder, header)
        unpack_weights(source, folder)
        task.note(
            f"{description.class_name}  {description.heads}  {description.features} mel bands  "
            f"{description.subsampling}x subsampling"
        )
    if description.lookahead is not None:
        reporter.info(f"a streaming model ({description.lookahead}): each utterance is served whole")
    return description


def look(source: Path, folder: Path) -> tuple[dict[str, Any], BuilderError | None]:
    """What a file says of itself, and why it would be refused; its weights are not unpacked.

    Args:
        source: The file.
        folder: An empty folder for its small files.

    Raises:
        CheckpointError: There is no such file.
        WorkFolderError: The folder cannot be written.
    """
    found: dict[str, Any] = {}
    try:
        found["file"] = f"{source}  {source.stat().st_size / 1e6:.1f} MB"
        found["sha256"] = sha256_of(source)
    except OSError as error:
        raise CheckpointError(f"{source} cannot be read: {error.strerror}") from error
    try:
        header = unpack_all_but_weights(source, folder)
        found |= checkpoint.facts(folder, header)
        description = describe(folder, header)
    except (CheckpointError, UnsupportedCheckpointError) as error:
        return found | {"supported": f"no: {error}"}, error
    return found | {"head": description.heads, "supported": "yes"}, None
