"""The published artifact: a complete Triton model repository and the manifest that makes it exist.

Layout: `<storage>/<model>/<build key>/manifest.json` is written last and only once; it names the folder beside it that
holds the repository. That folder is named by its content, so that two builders of one recipe never write over each
other, and an upload that was cut off is continued by the next build of the same bytes.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from asr_contract.errors import ArtifactError, WorkFolderError
from asr_contract.recipe import Recipe, Sha256

MANIFEST = "manifest.json"
"""Beside the repository's folder in storage, inside it on disk."""

MAX_FILES = 10_000
"""More files than any repository has; a manifest above it is not ours."""


def _relative_path(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or "\\" in value or "\0" in value or str(path) != value:
        raise ValueError(f"{value!r} is not a plain relative path")
    if value == MANIFEST:
        raise ValueError("the manifest cannot list itself")
    return value


RelativePath = Annotated[str, AfterValidator(_relative_path)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Model):
    """One file of the repository."""

    sha256: Sha256
    size: int = Field(ge=0)
    """Bytes."""


class Provenance(_Model):
    """Where the checkpoint came from, and what built the artifact."""

    source: str
    source_revision: str | None = None
    checkpoint_class: str
    head: str = "CTC"
    """The checkpoint's head that is in the artifact, and that was compared with NeMo."""
    unused_heads: tuple[str, ...] = ()
    """The heads of the checkpoint that are not, such as the transducer of a hybrid."""
    parameters: int
    versions: dict[str, str]
    built_at: datetime


class ModelFacts(_Model):
    """What a later build needs to know of the checkpoint, without having it.

    Attributes:
        features: Mel bands.
        hop: Samples between feature frames.
        channels: Of the first convolution of the subsampling, whose output is the model's largest array.
        preprocessor: Settings of NeMo's own preprocessor.
    """

    features: int = Field(ge=1)
    hop: int = Field(ge=1)
    channels: int = Field(ge=1)
    preprocessor: dict[str, Any]


class Manifest(_Model):
    """What an artifact is, file by file, and what was measured on it."""

    artifact_format: int
    build_key: Sha256
    recipe: Recipe
    provenance: Provenance
    model: ModelFacts
    check: dict[str, Any]
    gate: dict[str, Any]
    measurements: dict[str, Any] = Field(default_factory=dict)
    """Of the TensorRT plan on the GPU that built it."""
    files: dict[RelativePath, File] = Field(min_length=1, max_length=MAX_FILES)

    @property
    def repository(self) -> str:
        """Name of the folder that holds the files."""
        return content_digest(self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def to_json(self) -> bytes:
        """The bytes that are published and whose SHA-256 names this artifact's content."""
        return self.model_dump_json(indent=1).encode() + b"\n"


def content_digest(files: Mapping[str, File]) -> str:
    """SHA-256 (hex) over path, size and digest of every file."""
    lines = (f"{path}\0{file.size}\0{file.sha256}\n" for path, file in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def parse_manifest(content: bytes, *, where: str) -> Manifest:
    """Read a manifest.

    Raises:
        ArtifactError: It is not JSON of this format, or a path in it leaves the repository.
    """
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        raise ArtifactError(f"{where} is not a manifest that this version reads: {place}: {first['msg']}") from error


def refuse_other_things(folder: Path) -> None:
    """Let nobody replace what is no artifact.

    Raises:
        WorkFolderError: It is a file, or holds something and no manifest.
    """
    if not folder.exists() or (folder / MANIFEST).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise WorkFolderError(f"{folder} is no artifact, and not empty; give a folder that does not exist yet")
