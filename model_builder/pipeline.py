"""A build from checkpoint to published artifact: the stages in their order, and a report after each."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from asr_contract.artifact import ModelFacts, content_digest
from asr_contract.errors import BuilderError, RejectedError, WorkFolderError
from asr_contract.recipe import (
    ARTIFACT_FORMAT,
    MAX_NAME,
    NAME_HINT,
    NAME_PATTERN,
    Engine,
    Frontend,
    Precision,
    Recipe,
    Wire,
    build_key,
)
from asr_serving.text import Vocabulary
from model_builder import artifact_store, audio_set, report_page
from model_builder.artifact_store import Published
from model_builder.checkpoint import Description
from model_builder.progress import Reporter
from model_builder.repository.layout import served_by_onnx
from model_builder.resume import Markers, locked, sha256_of
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
    sha256: str | None = None
    engine: Engine = Engine.ONNX_RUNTIME
    precision: Precision = Precision.FP32
    frontend: Frontend = Frontend.NUMPY
    wire: Wire = Wire.PCM16
    max_batch_size: int = 32
    max_audio_seconds: int = 40
    check_audio: Path = audio_set.SHIPPED
    max_wer_increase_permille: int = 5
    min_token_agreement_permille: int = 990
    verify: bool = False
    """Read every byte of an artifact that is found published."""


@dataclass(slots=True)
class Report:
    """What was done so far, for people and machines; written after each stage."""

    path: Path
    content: dict[str, Any] = field(default_factory=lambda: {"status": "running", "stages": {}})
    _inner_seconds: float = 0.0

    def write(self) -> None:
        """Replace the file in one step."""
        partial = self.path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(self.content, indent=1, default=str) + "\n", encoding="utf-8")
            partial.replace(self.path)
        except OSError as error:
            raise WorkFolderError(f"cannot write {self.path}: {error}") from error

    def failed(self, reason: str, message: str) -> None:
        """Say why nothing was published."""
        self.content |= {"status": "failed", "reason": reason, "message": message}
        self.write()

    def page(self) -> None:
        """Write the report for people beside it, where matplotlib is there to draw it."""
        if importlib.util.find_spec("matplotlib") is None:
            return
        try:
            report_page.write(self.content, self.path.with_suffix(".html"))
        except OSError as error:
            # The build's own error, if there is one, matters more than the page about it.
            raise WorkFolderError(f"cannot write {self.path.with_suffix('.html')}: {error}") from error

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage; what it puts into the yielded mapping is reported, its failure too.

        A stage inside another one (loading the checkpoint, at first use) comes before it; its time counts once.
        """
        started = time.monotonic()
        inner, self._inner_seconds = self._inner_seconds, 0.0
        entry: dict[str, Any] = {}
        try:
            yield entry
        except BaseException as error:
            self.content.setdefault("stage", name)
            if isinstance(error, RejectedError):
                entry.update(error.figures)
            raise
        finally:
            spent = time.monotonic() - started
            entry["seconds"] = round(spent - self._inner_seconds, 2)
            self._inner_seconds = inner + spent
            self.content["stages"][name] = entry
        self.write()


def build(options: Options, reporter: Reporter) -> Published:
    """Build, check and publish; an artifact that is already there is not built again.

    Raises:
        BuilderError: One of its kinds says what failed and what to do; nothing is published then.
    """
    recipe_for(options, checkpoint_sha256="0" * 64, check_audio_sha256="0" * 64)  # refuse bad settings before any work
    if options.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", options.sha256):
        raise OptionError(f"--sha256: {options.sha256!r} is not a SHA-256 of 64 hexadecimal digits")
    try:
        options.source.encode()
    except UnicodeEncodeError as error:  # a file's name may be any bytes; reports and manifests are text
        raise OptionError(f"--source: {options.source!r} is not UTF-8; rename the file") from error
    with reported(options.work) as report:
        return _build(options, report, reporter)


@contextmanager
def reported(work: Path) -> Iterator[Report]:
    """A report over the work folder, which nobody else may use meanwhile; tells how the build in the block ends."""
    with locked(work):
        report = Report(work / REPORT)
        try:
            yield report
        except BuilderError as error:
            report.failed(error.reason, str(error))
            raise
        except OSError as error:
            # Storage and sources have errors of their own: this is the work folder, full or not writable.
            told = WorkFolderError(f"cannot write below {work}: {error}")
            report.failed(told.reason, str(told))
            raise told from error
        except Exception as error:
            report.failed(BuilderError.reason, f"{type(error).__name__}: {error}")
            raise
        except (KeyboardInterrupt, SystemExit):
            report.content |= {"status": "interrupted", "message": "the next run continues", "reason": "Interrupted"}
            report.write()
            raise
        finally:
            report.page()


def _build(options: Options, report: Report, reporter: Reporter) -> Published:
    storage = Storage(options.storage, create=True)
    storage.check_writable(options.name)
    audio = audio_set.load(options.check_audio, max_seconds=options.max_audio_seconds)

    with report.stage("fetch") as entry:
        fetched = fetch.run(options.source, options.work, reporter, sha256=options.sha256)
        entry.update({"source": options.source, "sha256": fetched.sha256, "revision": fetched.revision})
        entry["bytes"] = fetched.path.stat().st_size
    recipe = recipe_for(options, checkpoint_sha256=fetched.sha256, check_audio_sha256=audio.sha256)
    report.content |= {"artifact_format": ARTIFACT_FORMAT, "versions": versions(), "build_key": build_key(recipe)}
    report.content |= {"recipe": recipe.model_dump(mode="json")}
    if found := artifact_store.find(storage, recipe):
        reporter.info("already built and published", uri=found.uri)
        if options.verify:
            artifact_store.verify(found.uri, reporter=reporter)
        return done(report, found)

    with report.stage("inspect") as entry:
        description = inspect.run(fetched.path, options.work / "checkpoint", reporter)
        entry.update({"class": description.class_name, "features": description.features})
        entry.update({"head": description.head, "unused_heads": list(description.unused_heads)})
        entry.update({"subsampling": description.subsampling, "vocabulary": description.vocabulary_kind})

    graphs = options.work / "graphs"
    graphs.mkdir(exist_ok=True)
    acoustic, mel, model = graphs / "acoustic.onnx", graphs / "frontend.onnx", graphs / "model.onnx"
    vocabulary, heard = graphs / "vocabulary.json", graphs / "references.json"
    checkpoint = _Loader(description, report, reporter)
    stage = Resumable(Markers(options.work / "stages"), report, reporter)

    exported = stage(
        "export",
        {"checkpoint": fetched.sha256, "max_audio_seconds": recipe.max_audio_seconds, "versions": versions()},
        [acoustic, vocabulary],
        lambda: export.run(checkpoint(), acoustic, vocabulary, max_seconds=recipe.max_audio_seconds, reporter=reporter),
    )
    stage(
        "frontend",
        {
            "acoustic": sha256_of(acoustic),
            "checkpoint": fetched.sha256,  # its window and mel bank
            "precision": recipe.precision,
            "frontend": recipe.frontend,
            "wire": recipe.wire,
        },
        [mel, model],
        lambda: frontend.run(checkpoint(), acoustic, mel, model, recipe=recipe, reporter=reporter),
    )
    checked = stage(
        "check",
        {"mel": sha256_of(mel), "model": sha256_of(model), "recipe": recipe.model_dump(mode="json")},
        [heard],
        lambda: check.run(checkpoint(), mel, model, audio, heard, recipe=recipe, reporter=reporter),
    )
    facts = ModelFacts(
        features=description.features,
        hop=exported["hop"],
        channels=exported["channels"],
        preprocessor=description.preprocessor,
    )
    folder = options.work / "repository"
    with report.stage("repository"):
        repository.run(
            folder,
            recipe=recipe,
            models={"onnx": model},
            served=served_by_onnx(recipe),
            vocabulary=Vocabulary.load(vocabulary),
            facts=facts,
            references=heard,
            reporter=reporter,
        )
    checkpoint.release()
    gated = stage(
        "gate",
        {
            "repository": content_digest(artifact_store.describe(folder)),
            "heard": sha256_of(heard),
            "recipe": recipe.model_dump(mode="json"),
        },
        [],
        lambda: gate.run(
            folder, audio, check.load(heard), recipe=recipe, log=options.work / "triton.log", reporter=reporter
        ),
    )
    with report.stage("publish") as entry:
        published = publish.run(
            folder,
            storage,
            recipe=recipe,
            provenance={
                "source": options.source,
                "source_revision": fetched.revision,
                "checkpoint_class": description.class_name,
                "head": description.head,
                "unused_heads": description.unused_heads,
                "parameters": exported["parameters"],
                "versions": versions(),
            },
            facts=facts,
            check=checked,
            gate=gated,
            reporter=reporter,
        )
        entry.update({"uri": published.uri})
    return done(report, published)


@dataclass(frozen=True, slots=True)
class Resumable:
    """Runs a stage, or takes the result of an earlier run, and reports it either way."""

    markers: Markers
    report: Report
    reporter: Reporter

    def __call__(  # noqa: D102 (the class says it)
        self, name: str, inputs: dict[str, Any], outputs: list[Path], work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        with self.report.stage(name) as entry:
            result, reused = self.markers.run(name, inputs, outputs, work)
            entry.update(result)
            if reused:
                entry["reused"] = True
                self.reporter.info(f"= {name:<12} unchanged since an earlier run")
        return result


class _Loader:
    """Loads the checkpoint when the first stage needs it: NeMo takes a while, and a resumed build may not need it."""

    def __init__(self, description: Description, report: Report, reporter: Reporter) -> None:
        self._description = description
        self._report = report
        self._reporter = reporter
        self._checkpoint: Any = None

    def __call__(self) -> Any:  # noqa: ANN401 (its type is behind NeMo)
        if self._checkpoint is None:
            from model_builder.nemo import Checkpoint  # noqa: PLC0415

            with self._report.stage("load"), self._reporter.task("load") as task:
                task.note("NeMo takes a while to import")
                self._checkpoint = Checkpoint(self._description)
                tokens = len(self._checkpoint.vocabulary.tokens)
                task.note(f"{self._checkpoint.parameters / 1e6:.2f} M parameters  {tokens} tokens")
        return self._checkpoint

    def release(self) -> None:
        """Give the model's memory back: a server with its own copy of the weights starts next."""
        self._checkpoint = None


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
        # What concerns no single field concerns the name.
        field = str(first["loc"][0]) if first["loc"] else "model_name"
        option = "name" if field == "model_name" else field.replace("_", "-")
        message = first["msg"].removeprefix("Value error, ")
        if first["loc"] == ("model_name",):
            own = options.name.rpartition("/")[2]
            message += f": {NAME_HINT}" + (f"; write {own!r}, without the owner" if own != options.name else "")
        raise OptionError(f"--{option}: {message}") from error


def name_of(source: str) -> str:
    """The model's name where the user gives none: that of the repository on the hub, or of the file.

    Raises:
        OptionError: It is not one that a model can have.
    """
    hub = fetch.HUB.match(source)
    name = (hub["repository"] if hub else source).rpartition("/")[2].removesuffix(".nemo")
    if not re.fullmatch(NAME_PATTERN, name) or len(name) > MAX_NAME:
        raise OptionError(f"--name is needed: {name!r}, after the source, is not a name of a model; {NAME_HINT}")
    return name


class OptionError(BuilderError):
    """A setting is out of its bounds."""

    reason = "InvalidOption"
    exit_code = 2


def versions() -> dict[str, str]:
    """Versions of everything that decides the output."""
    names = ("asr-operator", "nemo-toolkit", "torch", "onnx", "onnxruntime", "numpy", "nvidia-pytriton")
    found = {name: importlib.metadata.version(name) for name in names}
    return found | {"python": platform.python_version(), "machine": platform.machine(), "cores": str(os.cpu_count())}


def done(report: Report, published: Published) -> Published:
    """Say in the report what was published."""
    report.content |= {"status": "published", "uri": published.uri, "manifest_sha256": published.manifest_sha256}
    report.write()
    return published
