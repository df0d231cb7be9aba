"""The command `model-builder verify`."""

from typing import Annotated

import typer

from model_builder.commands.exit import errors_reported, new_reporter
from model_builder.commands.options import Json


def verify(
    target: Annotated[str, typer.Argument(metavar="PATH_OR_URI", help="A fetched folder, or an artifact's URI.")],
    *,
    json_log: Json = False,
) -> None:
    """Check every byte of an artifact against its manifest."""
    from model_builder import artifact_store  # noqa: PLC0415

    with errors_reported(None, json_log=json_log):
        manifest = artifact_store.verify(target, reporter=new_reporter(json_log=json_log))
        print(f"{target}: {len(manifest.files)} files, {manifest.size} bytes, all as published")  # noqa: T201 (the result)
