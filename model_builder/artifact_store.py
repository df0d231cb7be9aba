"""Artifacts into and out of object storage: publish, fetch, verify."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from model_builder.artifact import MANIFEST, File, Manifest, ModelFacts, Provenance, content_digest, parse_manifest
from model_builder.errors import ArtifactError, WorkFolderError
from model_builder.progress import Reporter, Task
from model_builder.recipe import ARTIFACT_FORMAT, Recipe, build_key
from model_builder.resume import sha256_of
from model_builder.storage import Storage

PARALLEL = 8
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Published:
    """An artifact in storage: its URI, and the SHA-256 of its manifest to pin it by."""

    uri: str
    manifest_sha256: str


def location(recipe: Recipe) -> str:
    """Path of the artifact below the storage location."""
    return f"{recipe.model_name}/{build_key(recipe)}"


def find(storage: Storage, recipe: Recipe) -> Published | None:
    """The artifact of this recipe, None if it was not built yet.

    Raises:
        ArtifactError: What is there is not a manifest for this recipe.
        StorageError: Storage refused or failed.
    """
    path = f"{location(recipe)}/{MANIFEST}"
    try:
        content = storage.read(path)
    except FileNotFoundError:
        return None
    manifest = parse_manifest(content, where=storage.join(path))
    if manifest.build_key != build_key(recipe):
        raise ArtifactError(f"{storage.join(path)} is the manifest of another build, {manifest.build_key[:12]}")
    return Published(storage.join(location(recipe)), hashlib.sha256(content).hexdigest())


def describe(repository: Path) -> dict[str, File]:
    """Digest and size of every file below `repository`."""
    return {
        path.relative_to(repository).as_posix(): File(sha256=sha256_of(path), size=path.stat().st_size)
        for path in sorted(repository.rglob("*"))
        if path.is_file()
    }


def publish(
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
) -> Published:
    """Upload the repository, then create its manifest.

    A builder that finds another's manifest in place takes that artifact: it was built from the same recipe.

    Raises:
        StorageError: Storage refused or failed; nothing is visible then, and the next run continues.
    """
    files = describe(repository)
    manifest = Manifest(
        artifact_format=ARTIFACT_FORMAT,
        build_key=build_key(recipe),
        recipe=recipe,
        provenance=Provenance(**provenance, built_at=datetime.now(UTC)),
        model=facts,
        check=check,
        gate=gate,
        measurements=measurements or {},
        files=files,
    )
    base = location(recipe)
    folder = f"{base}/{content_digest(files)}"
    with reporter.task("publish", manifest.size) as task:
        task.note(storage.uri)

        def upload(path: str) -> None:
            # What an earlier run left complete is not sent again; the folder's name says that its bytes are the same.
            if storage.size(f"{folder}/{path}") != files[path].size:
                storage.upload(f"{folder}/{path}", repository / path)
            task.advance(files[path].size)

        _in_parallel(upload, files)
        content = manifest.to_json()
        if not storage.create(f"{base}/{MANIFEST}", content):
            content = storage.read(f"{base}/{MANIFEST}")
            parse_manifest(content, where=storage.join(f"{base}/{MANIFEST}"))
            task.note("another builder published it first")
        else:
            task.note(f"{len(files)} files  {manifest.size / 1e6:.1f} MB")
    return Published(storage.join(base), hashlib.sha256(content).hexdigest())


def read_manifest(storage: Storage, *, sha256: str | None = None) -> tuple[Manifest, bytes]:
    """The manifest of the artifact at this location.

    Raises:
        ArtifactError: There is none, it is not readable, or it is not the one with this SHA-256.
    """
    try:
        content = storage.read(MANIFEST)
    except FileNotFoundError as error:
        raise ArtifactError(f"{storage.uri} holds no {MANIFEST}: no artifact was published there") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise ArtifactError(f"{storage.join(MANIFEST)} has SHA-256 {found}, expected {sha256}")
    return parse_manifest(content, where=storage.join(MANIFEST)), content


def fetch(uri: str, destination: Path, *, sha256: str | None, reporter: Reporter) -> Manifest:
    """Download an artifact into the new folder `destination`: every file verified, then one rename.

    Raises:
        ArtifactError: Missing, altered or incomplete; `destination` is untouched.
        WorkFolderError: `destination` is in use, or cannot be written.
        StorageError: Storage refused or failed.
    """
    storage = Storage(uri)
    manifest, content = read_manifest(storage, sha256=sha256)
    if destination.exists() and any(destination.iterdir()):
        if _holds(destination, content):
            verify_folder(destination, reporter=reporter)
            return manifest
        raise WorkFolderError(f"{destination} is not empty; give a folder that does not exist yet")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    except OSError as error:
        raise WorkFolderError(f"cannot write beside {destination}: {error}") from error
    try:
        if shutil.disk_usage(partial).free < manifest.size:
            raise WorkFolderError(f"{destination.parent} has no room for {manifest.size} bytes")
        with reporter.task("fetch", manifest.size) as task:
            _in_parallel(lambda path: _download(storage, manifest, path, partial / path, task), manifest.files)
            task.note(f"{len(manifest.files)} files  {manifest.size / 1e6:.1f} MB")
        (partial / MANIFEST).write_bytes(content)
        partial.chmod(0o755)
        if destination.exists():
            destination.rmdir()
        partial.rename(destination)
    except OSError as error:
        raise WorkFolderError(f"cannot write {destination}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _holds(destination: Path, manifest: bytes) -> bool:
    path = destination / MANIFEST
    return path.is_file() and path.read_bytes() == manifest


def _download(storage: Storage, manifest: Manifest, path: str, target: Path, task: Task) -> None:
    source = f"{manifest.repository}/{path}"
    expected = manifest.files[path]
    digest, size = hashlib.sha256(), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("xb") as file:
            for chunk in storage.stream(source):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                task.advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError as error:
        raise ArtifactError(f"{storage.join(source)} is missing") from error
    if size != expected.size or digest.hexdigest() != expected.sha256:
        raise ArtifactError(
            f"{storage.join(source)} was altered: {size} bytes with SHA-256 {digest.hexdigest()[:12]}, published were "
            f"{expected.size} bytes with {expected.sha256[:12]}"
        )


def verify(target: str, *, reporter: Reporter) -> Manifest:
    """Check every byte of an artifact in a folder or in storage.

    Raises:
        ArtifactError: A file is missing, altered or not in the manifest.
    """
    if "://" not in target:
        return verify_folder(Path(target), reporter=reporter)
    storage = Storage(target)
    manifest, _ = read_manifest(storage)
    with reporter.task("verify", manifest.size) as task:
        extra = set(storage.list_below(manifest.repository)) - set(manifest.files)
        if extra:
            raise ArtifactError(f"{target} holds {min(extra)}, which is not in the manifest")

        def check(path: str) -> None:
            source = f"{manifest.repository}/{path}"
            digest = hashlib.sha256()
            try:
                for chunk in storage.stream(source):
                    digest.update(chunk)
                    task.advance(len(chunk))
            except FileNotFoundError as error:
                raise ArtifactError(f"{storage.join(source)} is missing") from error
            if digest.hexdigest() != manifest.files[path].sha256:
                raise ArtifactError(f"{storage.join(source)} was altered")

        _in_parallel(check, manifest.files)
    return manifest


def verify_folder(folder: Path, *, reporter: Reporter) -> Manifest:
    """Check every byte of a fetched artifact.

    Raises:
        ArtifactError: A file is missing, altered or not in the manifest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} holds no {MANIFEST}: it was not fetched by model-builder")
    manifest = parse_manifest(path.read_bytes(), where=str(path))
    with reporter.task("verify", manifest.size) as task:
        found = {
            item.relative_to(folder).as_posix()
            for item in folder.rglob("*")
            if item.is_file() and item != path and "__pycache__" not in item.parts  # Triton compiles the Python models
        }
        for name in sorted(found ^ set(manifest.files)):
            raise ArtifactError(f"{folder / name} is {'missing' if name in manifest.files else 'not in the manifest'}")
        for name, expected in manifest.files.items():
            if sha256_of(folder / name) != expected.sha256:
                raise ArtifactError(f"{folder / name} was altered")
            task.advance(expected.size)
    return manifest


def _in_parallel(work: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Do the work for all items; the first failure is raised when those under way have ended."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
