"""What differs from the build where an artifact is served, laid over a verified copy. It is not built again.

The copy itself stays as it was published; what is served lies beside it, and shares its files where the volume has hard
links.
"""

import errno
import filecmp
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from google.protobuf import text_format
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from tritonclient.grpc import model_config_pb2

from asr_contract.artifact import refuse_other_things
from asr_contract.errors import OverridesError, WorkFolderError
from asr_contract.recipe import Recipe
from asr_serving.tensors import model_names
from model_builder.repository.layout import IN_FLIGHT, VERSION

CONFIG = "config.pbtxt"
SETTINGS = "settings.json"
NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES})


class Overrides(BaseModel):
    """What may differ, by the names of the Kubernetes API."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)

    max_batch_size: int | None = Field(default=None, ge=1)
    """Largest batch at the acoustic model."""
    queue_delay_microseconds: int | None = Field(default=None, ge=0)
    """How long a request to the ensemble over ONNX Runtime waits for company."""
    instances: int | None = Field(default=None, ge=1)
    """How many batches the acoustic model works on at once."""
    device: Literal["CPU", "GPU"] | None = None
    """What the ONNX model runs on. As built, Triton chooses: the CPU, without a word, where CUDA does not start."""


def parse(text: str) -> Overrides:
    """Read overrides from JSON.

    Raises:
        OverridesError: It is not JSON, or a value is not one of those that may differ.
    """
    try:
        return Overrides.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise OverridesError(f"{'.'.join(map(str, first['loc'])) or 'overrides'}: {first['msg']}") from error


def lay(artifact: Path, target: Path, overrides: Overrides, recipe: Recipe) -> None:
    """Make the folder `target`: the artifact with what differs. One rename; what is there and right stays.

    Raises:
        OverridesError: They do not fit what was built.
        WorkFolderError: It cannot be written, or holds something else, which is left as it is.
    """
    ours, theirs = artifact.resolve(), target.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise WorkFolderError(f"{target} is, holds or lies in {artifact}; give a folder beside it")
    changed = _changed(artifact, overrides, recipe)
    try:
        if target.exists():
            if _is_laid(artifact, target, changed):
                return
            refuse_other_things(target)
            shutil.rmtree(target)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            shutil.copytree(artifact, partial, copy_function=_link, dirs_exist_ok=True)
            for path, text in changed.items():
                (partial / path).unlink()  # a link: what it leads to stays
                (partial / path).write_text(text, encoding="utf-8")
            partial.chmod(0o755)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise WorkFolderError(f"cannot write {target}: {error}") from error


def _link(source: str, target: str) -> None:
    """Link a file, or copy it where the volume has no hard links, as those over SMB."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, target)


def _is_laid(artifact: Path, target: Path, changed: dict[Path, str]) -> bool:
    """Whether `target` is what `lay` would make: the artifact's files, by links or as copies, and the changed ones."""

    def files(folder: Path) -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}

    found = files(target)
    return found == files(artifact) and all(
        (target / path).read_text(encoding="utf-8") == changed[path]
        if path in changed
        else (target / path).samefile(artifact / path) or filecmp.cmp(target / path, artifact / path, shallow=False)
        for path in found
    )


def _changed(artifact: Path, overrides: Overrides, recipe: Recipe) -> dict[Path, str]:
    names = model_names(recipe.model_name)
    changed: dict[Path, str] = {}
    for role in ("scheduler", "preprocessing"):
        path = Path(names[role]) / VERSION / SETTINGS
        settings = json.loads((artifact / path).read_text(encoding="utf-8"))
        changed[path] = json.dumps(_settings(settings, overrides), indent=1) + "\n"
    for role in ("onnx", "tensorrt"):
        path = Path(names[role]) / CONFIG
        if (artifact / path).is_file():
            config = text_format.Parse((artifact / path).read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
            _configure(config, overrides, plan=role == "tensorrt")
            changed[path] = str(text_format.MessageToString(config))
    return changed


def _settings(settings: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    shapes, largest = settings["shapes"], max(batch for _, batch, _ in settings["shapes"])
    if (wanted := overrides.max_batch_size) is not None:
        if wanted > largest:
            raise OverridesError(
                f"maxBatchSize {wanted} is more than {largest}, what this artifact was built for; write at most "
                "that, or build for more"
            )
        lowered: dict[tuple[int, int], list[Any]] = {}
        for samples, batch, milliseconds in shapes:
            # Of shapes that are alike now, the smaller one's time is the true one.
            lowered.setdefault((samples, min(batch, wanted)), [samples, min(batch, wanted), milliseconds])
        shapes = list(lowered.values())
    in_flight = settings["in_flight"] if overrides.instances is None else max(IN_FLIGHT, overrides.instances + 1)
    return settings | {"shapes": shapes, "in_flight": in_flight}


def _configure(config: Any, overrides: Overrides, *, plan: bool) -> None:  # noqa: ANN401 (protobuf)
    # A plan's own limit stays: its warm-up and its graphs have whole batches. `N` sends it no larger ones than wanted.
    if overrides.max_batch_size is not None and not plan:
        config.max_batch_size = min(config.max_batch_size, overrides.max_batch_size)
    # Nor does Triton join a plan's batches, which could then fit no profile.
    if overrides.queue_delay_microseconds is not None and not plan:
        config.dynamic_batching.max_queue_delay_microseconds = overrides.queue_delay_microseconds
    for group in config.instance_group:
        if overrides.instances is not None:
            group.count = overrides.instances
        # A plan is for a GPU in any case.
        if overrides.device is not None and not plan:
            group.kind = model_config_pb2.ModelInstanceGroup.Kind.Value(f"KIND_{overrides.device}")
