"""A build from checkpoint to published artifact: the stages in their order, and a report after each."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from asr_serving.tensors import SAMPLE_RATE
from model_builder import artifact_store, audio_set
from model_builder.artifact_store import Published
from model_builder.errors import BuilderError, WorkFolderError
from model_builder.progress import Reporter
from model_builder.recipe import ARTIFACT_FORMAT, Engine, Frontend, Precision, Recipe, Wire, build_key
from model_builder.stages import check, export, fetch, frontend, gate, inspect, publish, repository
from model_builder.storage import Storage

STAGES = ("fetch", "inspect", "export", "frontend", "check", "repository", "gate", "publish")
REPORT = "report.json"


@dataclass(frozen=True, slots=True)
class Options:
    """What a user asks for; the recipe follows from it and from the checkpoint."""

    source: str
    name: str
    storage: str
    work: Path
    engine: Engine = Engine.ONNX_RUNTIME
    precision: Precision = Precision.FP32
    frontend: Frontend = Frontend.NUMPY
    wire: Wire = Wire.PCM16
    max_batch_size: int = 32
    max_audio_seconds: int = 40
    check_audio: Path = audio_set.SHIPPED
    max_wer_increase_permille: int = 5
    min_token_agreement_permille: int = 990


@dataclass(slots=True)
class Report:
    """What was done so far, for people and machines; written after each stage."""

    path: Path
    content: dict[str, Any] = field(default_factory=lambda: {"status": "running", "stages": {}})

    def write(self) -> None:
        """Replace the file in one step."""
        partial = self.path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(self.content, indent=1, default=str) + "\n", encoding="utf-8")
            partial.replace(self.path)
        except OSError as error:
            raise WorkFolderError(f"cannot write {self.path}: {error}") from error

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage; what it puts into the yielded mapping is reported, its failure too."""
        started = time.monotonic()
        entry: dict[str, Any] = {}
        self.content["stages"][name] = entry
        try:
            yield entry
        except BuilderError as error:
            entry["seconds"] = round(time.monotonic() - started, 2)
            self.content |= {"status": "failed", "stage": name, "reason": error.reason, "message": str(error)}
            self.write()
            raise
        entry["seconds"] = round(time.monotonic() - started, 2)
        self.write()


def build(options: Options, reporter: Reporter) -> Published:
    """Build, check and publish; an artifact that is already there is not built again.

    Raises:
        BuilderError: One of its kinds says what failed and what to do; nothing is published then.
    """
    try:
        options.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkFolderError(f"cannot create {options.work}: {error}") from error
    report = Report(options.work / REPORT)
    storage = Storage(options.storage)
    audio = audio_set.load(options.check_audio, max_seconds=options.max_audio_seconds)

    with report.stage("fetch") as entry:
        fetched = fetch.run(options.source, options.work, reporter)
        entry.update({"source": options.source, "sha256": fetched.sha256, "revision": fetched.revision})
        entry["bytes"] = fetched.path.stat().st_size
    recipe = recipe_for(options, checkpoint_sha256=fetched.sha256, check_audio_sha256=audio.sha256)
    report.content |= {"recipe": recipe.model_dump(mode="json"), "build_key": build_key(recipe)}
    report.content |= {"artifact_format": ARTIFACT_FORMAT}
    if found := artifact_store.find(storage, recipe):
        reporter.info("already built and published", uri=found.uri)
        return _done(report, found)

    with report.stage("inspect") as entry:
        description = inspect.run(fetched.path, options.work / "checkpoint", reporter)
        entry.update({"class": description.class_name, "features": description.features})
        entry.update({"subsampling": description.subsampling, "vocabulary": description.vocabulary_kind})
    checkpoint = _load(report, description, reporter)

    graphs = options.work / "graphs"
    graphs.mkdir(exist_ok=True)
    with report.stage("export") as entry:
        hop = int(checkpoint.mel_parts()["hop"])
        frames = recipe.max_audio_seconds * SAMPLE_RATE // hop + 1
        entry.update(export.run(checkpoint, graphs / "acoustic.onnx", max_frames=frames, reporter=reporter))
    with report.stage("frontend"):
        mel, model = frontend.run(checkpoint, graphs / "acoustic.onnx", graphs, recipe=recipe, reporter=reporter)
    with report.stage("check") as entry:
        checked, references = check.run(checkpoint, mel, model, audio, recipe=recipe, reporter=reporter)
        entry.update(checked)
    folder = options.work / "repository"
    with report.stage("repository"):
        repository.run(checkpoint, model, folder, recipe=recipe, reporter=reporter)
    with report.stage("gate") as entry:
        gated = gate.run(folder, audio, references, recipe=recipe, log=options.work / "triton.log", reporter=reporter)
        entry.update(gated)
    with report.stage("publish") as entry:
        published = publish.run(
            folder,
            storage,
            recipe=recipe,
            provenance={
                "source": options.source,
                "source_revision": fetched.revision,
                "checkpoint_class": description.class_name,
                "parameters": checkpoint.parameters,
                "versions": versions(),
            },
            check=checked,
            gate=gated,
            reporter=reporter,
        )
        entry.update({"uri": published.uri})
    return _done(report, published)


def recipe_for(options: Options, *, checkpoint_sha256: str, check_audio_sha256: str) -> Recipe:
    """The recipe of a build.

    Raises:
        OptionError: A setting is out of its bounds.
    """
    try:
        return Recipe(
            model_name=options.name,
            checkpoint_sha256=checkpoint_sha256,
            engine=options.engine,
            precision=options.precision,
            frontend=options.frontend,
            wire=options.wire,
            max_audio_seconds=options.max_audio_seconds,
            max_batch_size=options.max_batch_size,
            max_wer_increase_permille=options.max_wer_increase_permille,
            min_token_agreement_permille=options.min_token_agreement_permille,
            check_audio_sha256=check_audio_sha256,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise OptionError(
            f"--{'-'.join(str(part) for part in first['loc']).replace('_', '-')}: {first['msg']}"
        ) from error


class OptionError(BuilderError):
    """A setting is out of its bounds."""

    reason = "InvalidOption"
    exit_code = 2


def _load(report: Report, description: Any, reporter: Reporter) -> Any:  # noqa: ANN401
    from model_builder.nemo import Checkpoint  # noqa: PLC0415

    with report.stage("load"), reporter.task("load") as task:
        task.note("NeMo takes a while to import")
        checkpoint = Checkpoint(description)
        task.note(f"{checkpoint.parameters / 1e6:.2f} M parameters  {len(checkpoint.vocabulary.tokens)} tokens")
    return checkpoint


def versions() -> dict[str, str]:
    """Versions of everything that decides the output."""
    import importlib.metadata  # noqa: PLC0415

    names = ("asr-operator", "nemo-toolkit", "torch", "onnx", "onnxruntime", "numpy", "nvidia-pytriton")
    found = {name: importlib.metadata.version(name) for name in names}
    return found | {"python": platform.python_version(), "machine": platform.machine(), "cores": str(os.cpu_count())}


def _done(report: Report, published: Published) -> Published:
    report.content |= {"status": "published", "uri": published.uri, "manifest_sha256": published.manifest_sha256}
    report.write()
    return published
