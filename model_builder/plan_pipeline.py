"""A build from a checked ONNX artifact to a published repository with a TensorRT plan, on the GPU that it is for.

It needs no NeMo: the artifact holds NeMo's own transcripts of the check audio, and the plan is held to them.
"""

import importlib.metadata
import platform
from dataclasses import dataclass, field
from pathlib import Path

from asr_contract.artifact import Manifest, content_digest
from asr_contract.compatibility import same_tensorrt
from asr_contract.errors import ArtifactError, CheckAudioError, IncompatiblePlanError, PlanError
from asr_contract.recipe import ARTIFACT_FORMAT, Engine, PlanTarget, Precision, Recipe, build_key
from asr_serving.tensors import SAMPLE_RATE, model_names
from asr_serving.text import Vocabulary
from model_builder import artifact_store, audio_set, cuda, driver, onnx_graph, plan_shapes, tensorrt, triton
from model_builder.artifact_store import Published
from model_builder.pipeline import Report, Resumable, done, reported
from model_builder.progress import Reporter
from model_builder.repository.layout import REFERENCES, VERSION
from model_builder.resume import Markers, sha256_of
from model_builder.stages import check, gate, measure, plan, publish, repository
from model_builder.storage import Storage


@dataclass(frozen=True, slots=True)
class Options:
    """What a user asks for.

    Attributes:
        artifact: URI of the ONNX artifact.
        manifest_sha256: Of its manifest, to refuse any other.
        storage: Where to publish.
        work: Folder for intermediate files.
        engine: TensorRT, or both in one repository.
        precision: Of the plan.
        check_audio: The same as for the ONNX artifact.
        shapes: Length in seconds and batch of each shape; chosen for the GPU if empty.
        limits: Of the plan's build.
        max_batch_milliseconds: Shapes that take longer on the GPU are not used.
        quick: Measure less.
        serving_tensorrt: TensorRT of the server that will run the plan; that of the server beside this builder if None.
        gpu: Product and compute capability that the plan is meant for; whichever is here if None.
        verify: Read every byte of an artifact that is found published.
    """

    artifact: str
    storage: str
    work: Path
    manifest_sha256: str | None = None
    engine: Engine = Engine.TENSORRT
    precision: Precision = Precision.FP16
    check_audio: Path = audio_set.SHIPPED
    shapes: tuple[tuple[float, int], ...] = ()
    limits: tensorrt.Limits = field(default_factory=tensorrt.Limits)
    max_batch_milliseconds: float = 100.0
    quick: bool = False
    serving_tensorrt: str | None = None
    gpu: tuple[str, str | None] | None = None
    verify: bool = False


def build(options: Options, reporter: Reporter) -> Published:
    """Plan, check on the GPU, measure, serve, compare, publish; what is published already is not built again.

    Raises:
        BuilderError: One of its kinds says what failed and what to do; nothing is published then.
    """
    with reported(options.work) as report:
        return _build(options, report, reporter)


def _build(options: Options, report: Report, reporter: Reporter) -> Published:
    gpu, version = check_machine(options.serving_tensorrt)
    if options.gpu is not None:
        driver.check(*options.gpu, (gpu.product, gpu.compute_capability))
    storage = Storage(options.storage, create=True)
    source = Storage(options.artifact)
    manifest, _ = artifact_store.read_manifest(source, sha256=options.manifest_sha256)
    storage.check_writable(manifest.recipe.model_name)
    recipe = recipe_for(options, manifest, gpu, version)
    audio = audio_set.load(options.check_audio, max_seconds=recipe.max_audio_seconds)
    if audio.sha256 != recipe.check_audio_sha256:
        raise CheckAudioError(
            f"{options.check_audio} is not the check audio that the ONNX artifact was checked with; give that"
        )
    geometry = plan_shapes.Geometry(manifest.model.hop, manifest.model.features, manifest.model.channels)
    shapes = shapes_for(options, recipe, geometry, gpu)
    profiles = plan_shapes.profiles(shapes)
    report.content |= {"artifact_format": ARTIFACT_FORMAT, "versions": versions(gpu), "build_key": build_key(recipe)}
    report.content |= {"recipe": recipe.model_dump(mode="json"), "gpu": gpu.product, "head": manifest.provenance.head}
    if found := artifact_store.find(storage, recipe):
        reporter.info("already built and published", uri=found.uri)
        if options.verify:
            artifact_store.verify(found.uri, reporter=reporter)
        return done(report, found)

    with report.stage("artifact") as entry:
        onnx = options.work / f"onnx-{manifest.repository[:12]}"
        artifact_store.fetch(options.artifact, onnx, sha256=options.manifest_sha256, reporter=reporter)
        entry.update({"source": options.artifact, "bytes": manifest.size})
    names = model_names(recipe.model_name)
    checked = onnx / names["onnx"] / VERSION / "model.onnx"
    vocabulary = Vocabulary.load(onnx / names["postprocessing"] / VERSION / "vocabulary.json")
    heard = check.load(onnx / REFERENCES)

    graphs = options.work / "graphs"
    graphs.mkdir(exist_ok=True)
    lowered, planned = graphs / "lowered.onnx", graphs / "model.plan"
    stage = Resumable(Markers(options.work / "stages"), report, reporter)
    stage(
        "precision",
        {"model": sha256_of(checked), "precision": recipe.precision, "frontend": recipe.frontend},
        [lowered],
        lambda: plan.lower(checked, lowered, recipe=recipe, reporter=reporter),
    )
    built = stage(
        "plan",
        {
            "model": sha256_of(lowered),
            "shapes": shapes,
            "versions": versions(gpu),
            "optimization_level": options.limits.optimization_level,
        },
        [planned],
        lambda: plan.run(
            lowered,
            planned,
            profiles,
            recipe=recipe,
            facts=manifest.model,
            storage=storage,
            limits=options.limits,
            reporter=reporter,
        ),
    )
    measured = stage(
        "measure",
        {
            "plan": sha256_of(planned),
            "gpu": gpu.product,
            "quick": options.quick,
            "ms": options.max_batch_milliseconds,
            "recipe": recipe.model_dump(mode="json"),
        },
        [],
        lambda: measure.run(
            planned,
            profiles,
            audio,
            heard,
            recipe=recipe,
            facts=manifest.model,
            lengths=sorted({samples for samples, _ in shapes}),
            max_batch_milliseconds=options.max_batch_milliseconds,
            quick=options.quick,
            reporter=reporter,
        ),
    )
    folder = options.work / "repository"
    models = {"tensorrt": planned} | ({"onnx": checked} if recipe.engine is Engine.BOTH else {})
    with report.stage("repository"):
        repository.run(
            folder,
            recipe=recipe,
            models=models,
            served=measure.served(measured, profiles),
            vocabulary=vocabulary,
            facts=manifest.model,
            references=onnx / REFERENCES,
            reporter=reporter,
        )
    gated = stage(
        "gate",
        {
            "repository": content_digest(artifact_store.describe(folder)),
            "heard": sha256_of(onnx / REFERENCES),
            "recipe": recipe.model_dump(mode="json"),
        },
        [],
        lambda: gate.run(folder, audio, heard, recipe=recipe, log=options.work / "triton.log", reporter=reporter),
    )
    with report.stage("publish") as entry:
        published = publish.run(
            folder,
            storage,
            recipe=recipe,
            provenance=manifest.provenance.model_dump(exclude={"built_at"})
            | {"versions": manifest.provenance.versions | versions(gpu)},
            facts=manifest.model,
            check=manifest.check,
            gate=gated,
            measurements=built | measured,
            reporter=reporter,
        )
        entry.update({"uri": published.uri})
    return done(report, published)


def recipe_for(options: Options, manifest: Manifest, gpu: cuda.Gpu, version: str) -> Recipe:
    """The recipe of the plan: that of the ONNX artifact with another engine, and what it is for.

    Raises:
        ArtifactError: The artifact is not one to build plans from.
    """
    if manifest.recipe.engine is not Engine.ONNX_RUNTIME or manifest.recipe.precision is not Precision.FP32:
        raise ArtifactError(
            f"{options.artifact} is {manifest.recipe.engine} {manifest.recipe.precision}; plans are built from an "
            "OnnxRuntime artifact in FP32"
        )
    target = PlanTarget(
        onnx_repository=manifest.repository,
        gpu_product=gpu.product,
        compute_capability=gpu.compute_capability,
        tensorrt=version,
        shapes=options.shapes,
    )
    changes = {"engine": options.engine, "precision": options.precision, "plan": target}
    return Recipe.model_validate(manifest.recipe.model_dump() | changes)


def check_machine(serving_tensorrt: str | None = None) -> tuple[cuda.Gpu, str]:
    """The GPU and the TensorRT that plans are built with here.

    Raises:
        GpuError, MissingExtraError: There is none.
        IncompatiblePlanError: The server has another TensorRT.
    """
    gpu, version = cuda.gpu(), tensorrt.version()
    check_server(version, serving_tensorrt or triton.tensorrt_version())
    return gpu, version


def check_server(building: str, serving: str | None) -> None:
    """A plan runs on the TensorRT that built it: say so before an hour is spent.

    Raises:
        IncompatiblePlanError: The server has another.
    """
    if serving is not None and not same_tensorrt(building, serving):
        raise IncompatiblePlanError(
            f"this builder has TensorRT {building}, the server {serving}; a plan runs only on the version that built "
            "it: use builder and serving images of one release"
        )


def shapes_for(
    options: Options, recipe: Recipe, geometry: plan_shapes.Geometry, gpu: cuda.Gpu
) -> list[tuple[int, int]]:
    """Padded length in samples and batch of each shape: those that the user asked for, or those that suit the GPU.

    Raises:
        PlanError: None holds the longest audio, one is longer than the graph, or TensorRT cannot count one.
    """
    if not options.shapes:
        return plan_shapes.default_shapes(
            recipe.max_audio_seconds, plan_shapes.LARGEST_BATCH, geometry, plan_shapes.work_seconds(gpu.memory)
        )
    shapes = sorted((plan_shapes.padded_length(seconds), batch) for seconds, batch in options.shapes)
    if shapes[-1][0] < recipe.max_audio_seconds * SAMPLE_RATE:
        raise PlanError(f"no shape holds audio of {recipe.max_audio_seconds} s, the longest that the model serves")
    if shapes[-1][0] > plan_shapes.padded_length(recipe.max_audio_seconds):
        raise PlanError(
            f"a shape holds {shapes[-1][0] / SAMPLE_RATE:g} s, and the model serves {recipe.max_audio_seconds} s: "
            "leave that shape out, or build the ONNX artifact with larger --max-audio-seconds"
        )
    plan_shapes.check_shapes(shapes, geometry)
    return shapes


def versions(gpu: cuda.Gpu) -> dict[str, str]:
    """Versions of everything that decides a plan."""
    found = {name: importlib.metadata.version(name) for name in ("asr-operator", "numpy")}
    # Not of the package onnxruntime, in whose place onnxruntime-gpu may be installed.
    return (
        found
        | onnx_graph.versions()
        | {
            "tensorrt": tensorrt.version(),
            "cuda": gpu.cuda,
            "gpu": gpu.product,
            "python": platform.python_version(),
        }
    )
