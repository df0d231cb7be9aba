"""Artifacts into and out of object storage: publish, fetch, verify."""

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from asr_contract.artifact import MANIFEST, File, Manifest, ModelFacts, Provenance, content_digest, parse_manifest
from asr_contract.compatibility import Platform, difference
from asr_contract.errors import ArtifactError, IncompatiblePlanError, WorkFolderError
from asr_contract.recipe import ARTIFACT_FORMAT, Recipe, build_key
from model_builder.progress import Reporter, Task
from model_builder.resume import sha256_of
from model_builder.storage import CHUNK, Storage

PARALLEL = 8
COMPILED = "__pycache__"
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Published:
    """An artifact in storage: its URI, the SHA-256 of its manifest to pin it by, and what the manifest says."""

    uri: str
    manifest_sha256: str
    manifest: Manifest

    def summary(self) -> dict[str, Any]:
        """What a program that started the build wants to know, small enough for a pod's termination message."""
        manifest = self.manifest
        gate, target = manifest.gate, manifest.recipe.plan
        rates = [item["rtfx"] for item in manifest.measurements.get("shapes", ()) if item["used"]]
        found = {
            "uri": self.uri,
            "manifestSha256": self.manifest_sha256,
            "buildKey": manifest.build_key,
            "engine": manifest.recipe.engine.value,
            "head": manifest.provenance.head,
            "bytes": manifest.size,
            "gpuProduct": target.gpu_product if target else None,
            "computeCapability": target.compute_capability if target else None,
            "tensorrt": target.tensorrt if target else None,
            "werPermille": _permille(gate.get("wer")),
            "checkpointWerPermille": _permille(gate.get("checkpoint_wer")),
            "tokenAgreementPermille": _permille(gate.get("token_agreement")),
            "audioSecondsPerSecond": round(max(rates)) if rates else None,
        }
        return {key: value for key, value in found.items() if value is not None}


def _permille(share: float | None) -> int | None:
    return None if share is None else round(share * 1000)


def location(recipe: Recipe) -> str:
    """Path of the artifact below the storage location."""
    return f"{recipe.model_name}/{build_key(recipe)}"


def find(storage: Storage, recipe: Recipe) -> Published | None:
    """The artifact of this recipe, None if it was not built yet, or keys that may only write hide it.

    Raises:
        ArtifactError: What is there is not a manifest for this recipe.
        StorageError: Storage refused or failed.
    """
    path = f"{location(recipe)}/{MANIFEST}"
    content = storage.look_up(path)
    if content is None:
        return None
    manifest = parse_manifest(content, where=storage.join(path))
    if manifest.build_key != build_key(recipe):
        raise ArtifactError(f"{storage.join(path)} is the manifest of another build, {manifest.build_key[:12]}")
    return Published(storage.join(location(recipe)), hashlib.sha256(content).hexdigest(), manifest)


def describe(repository: Path) -> dict[str, File]:
    """Digest and size of every file below `repository`, but for what Python compiled there while it was checked."""
    return {
        path.relative_to(repository).as_posix(): File(sha256=sha256_of(path), size=path.stat().st_size)
        for path in sorted(repository.rglob("*"))
        if path.is_file() and COMPILED not in path.parts
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
            there = storage.look_for(f"{folder}/{path}")
            if there is not None and there.size == files[path].size:
                task.advance(files[path].size)
            else:
                storage.upload(f"{folder}/{path}", repository / path, sent=sent)

        def sent(size: int) -> None:
            if stopped.is_set():
                raise InterruptedError("the build ends")
            task.advance(size)

        stopped = threading.Event()
        _in_parallel(upload, files, stopped)
        content = manifest.to_json()
        if not storage.create(f"{base}/{MANIFEST}", content):
            content = storage.read(f"{base}/{MANIFEST}")
            manifest = parse_manifest(content, where=storage.join(f"{base}/{MANIFEST}"))
            task.note("another builder published it first")
        else:
            task.note(f"{len(files)} files  {manifest.size / 1e6:.1f} MB")
    return Published(storage.join(base), hashlib.sha256(content).hexdigest(), manifest)


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


def check_plan(manifest: Manifest, product: str | None, capability: str | None, tensorrt: str | None) -> None:
    """Refuse an artifact whose TensorRT plan is for something else. One without a plan runs anywhere.

    Raises:
        IncompatiblePlanError: For another GPU product, compute capability or TensorRT.
    """
    plan = manifest.recipe.plan
    if plan is None:
        return
    built = Platform(plan.gpu_product, plan.compute_capability, plan.tensorrt)
    here = Platform(product, capability, tensorrt)
    if (what := difference(built, here)) is not None:
        raise IncompatiblePlanError(
            f"the plan is for {what} {built.value(what)}, but {here.value(what)} is here; a plan runs nowhere but "
            "where it was built for"
        )


def fetch(uri: str, destination: Path, *, sha256: str | None, reporter: Reporter) -> Manifest:
    """Download an artifact into the new folder `destination`: every file verified, then one rename.

    Raises:
        ArtifactError: Missing, altered or incomplete; `destination` is untouched.
        WorkFolderError: `destination` is in use, or cannot be written.
        StorageError: Storage refused or failed.
    """
    storage = Storage(uri)
    manifest, content = read_manifest(storage, sha256=sha256)
    if destination.exists() and not destination.is_dir():
        raise WorkFolderError(f"{destination} is no folder; give one that does not exist yet")
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
            _download(storage, manifest, partial, task)
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


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes of a file that one request brings."""

    path: str
    start: int
    length: int


def _parts(path: str, file: File) -> list[_Part]:
    return [_Part(path, start, min(CHUNK, file.size - start)) for start in range(0, file.size, CHUNK)]


def _download(storage: Storage, manifest: Manifest, folder: Path, task: Task) -> None:
    for path, file in manifest.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as empty:
            empty.truncate(file.size)

    def download(part: _Part) -> None:
        content = _read(storage, manifest, part)
        with (folder / part.path).open("r+b") as file:
            file.seek(part.start)
            file.write(content)
        task.advance(part.length)

    def check(path: str) -> None:
        if (found := sha256_of(folder / path)) != manifest.files[path].sha256:
            raise _altered(storage, manifest, path, f"its SHA-256 is {found[:12]}")
        with (folder / path).open("rb") as file:
            os.fsync(file.fileno())

    _in_parallel(download, [part for path, file in manifest.files.items() for part in _parts(path, file)])
    _in_parallel(check, manifest.files)


def _read(storage: Storage, manifest: Manifest, part: _Part) -> bytes:
    source = f"{manifest.repository}/{part.path}"
    expected = manifest.files[part.path].size
    try:
        # The first part tells a wrong size before the rest is brought; a range would only be said not to be there.
        there = storage.stat(source) if part.start == 0 else None
        if there is not None and there.size != expected:
            raise _altered(storage, manifest, part.path, f"it has {there.size} bytes")
        content = storage.read_range(source, part.start, part.length)
    except FileNotFoundError as error:
        raise ArtifactError(f"{storage.join(source)} is missing") from error
    if len(content) != part.length:
        raise _altered(storage, manifest, part.path, "it has fewer bytes")
    return content


def _altered(storage: Storage, manifest: Manifest, path: str, found: str) -> ArtifactError:
    file = manifest.files[path]
    return ArtifactError(
        f"{storage.join(f'{manifest.repository}/{path}')} was altered: {found}, published were {file.size} bytes with "
        f"SHA-256 {file.sha256[:12]}"
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
        _compare_names(set(storage.list_below(manifest.repository)), manifest, f"{target}/{manifest.repository}")

        def check(path: str) -> None:
            digest = hashlib.sha256()
            for part in _parts(path, manifest.files[path]):
                digest.update(_read(storage, manifest, part))
                task.advance(part.length)
            if digest.hexdigest() != manifest.files[path].sha256:
                raise _altered(storage, manifest, path, f"its SHA-256 is {digest.hexdigest()[:12]}")

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
        files = {item.relative_to(folder).as_posix() for item in folder.rglob("*") if item.is_file() and item != path}
        # What Triton's Python models were compiled to since does not count.
        compiled = {name for name in files - set(manifest.files) if COMPILED in Path(name).parts}
        _compare_names(files - compiled, manifest, str(folder))

        def check(name: str) -> None:
            if sha256_of(folder / name) != manifest.files[name].sha256:
                raise ArtifactError(f"{folder / name} was altered")
            task.advance(manifest.files[name].size)

        _in_parallel(check, manifest.files)
    return manifest


def _compare_names(found: set[str], manifest: Manifest, where: str) -> None:
    missing, extra = sorted(set(manifest.files) - found), sorted(found - set(manifest.files))
    told = [f"{where}/{name} is missing" for name in missing[:1]]
    told += [f"{where}/{name} is not in the manifest" for name in extra[:1]]
    if told:
        raise ArtifactError("; ".join(told))


def _in_parallel(work: Callable[[Item], None], items: Iterable[Item], stopped: threading.Event | None = None) -> None:
    """Do the work for all items; the first failure is raised when those under way have ended.

    Work that takes long watches `stopped`, which is set when the others are in vain.
    """
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in futures:
                future.result()
        except BaseException:
            if stopped is not None:
                stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
