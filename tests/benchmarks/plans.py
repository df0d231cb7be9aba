"""A large model on a GPU: the TensorRT plan alone, shape by shape, and through Triton's gRPC under mixed load.

    python -m tests.support.checkpoints large large.nemo
    model-builder build --source large.nemo --name english_stt --storage file:///tmp/store --max-audio-seconds 30
    model-builder fetch file:///tmp/store/english_stt/<key> artifact
    python tests/benchmarks/plans.py artifact tests/benchmarks/results --shape 10x96 --shape 20x48 --shape 30x32

Weights are random: speed is what is measured, and the share of FP16 tokens like FP32's is only told. Writes
`plans.json` (one record a case) and `plans.png`. Clients are processes of their own, on the same machine.
"""

import asyncio
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from asr_client import bench
from asr_serving.tensors import SAMPLE_RATE, model_names
from asr_serving.text import Vocabulary
from model_builder import audio_set, cuda, plan_pipeline, plan_shapes, tensorrt, triton
from model_builder.artifact import MANIFEST, ModelFacts, parse_manifest
from model_builder.plan_shapes import Profile
from model_builder.progress import RichReporter
from model_builder.recipe import Engine, Precision, Recipe
from model_builder.repository.layout import REFERENCES, VERSION
from model_builder.stages import check, measure, plan, repository
from model_builder.storage import Storage
from tests.support.load import settled

COMMAND = "python tests/benchmarks/plans.py artifact tests/benchmarks/results"
CLIENTS = (64, 256, 512, 768, 1024)
REPORTER = RichReporter()


def client(  # noqa: PLR0917 (what a pool passes on)
    url: str, model: str, lengths: tuple[float, float], clients: int, seconds: float, seed: int
) -> dict[str, Any]:
    """One client process: its share of the load."""
    signals = [item.signal for item in audio_set.load(audio_set.SHIPPED, max_seconds=60).utterances]
    utterances = bench.random_lengths(signals, shortest=lengths[0], longest=lengths[1], seed=seed)
    ran = asyncio.run(
        bench.run(
            url,
            model,
            utterances,
            concurrency=clients,
            requests=bench.MAX_REQUESTS,
            seconds=seconds,
            warmup=2 * clients,
            timeout=60,
        )
    )
    return {"answers": ran.answers, "wall": ran.wall_seconds, "cpu": ran.cpu_share}


def load(
    server: triton.Server, model: str, lengths: tuple[float, float], *, clients: int, processes: int, seconds: float
) -> dict[str, Any]:
    """Load from several processes, and what the scheduler counted meanwhile."""
    before = settled(server.ports)
    share = max(1, clients // processes)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        arguments = [(server.ports.grpc_url, model, lengths, share, seconds, seed) for seed in range(processes)]
        results = pool.starmap(client, arguments)
    after = settled(server.ports)
    spent = {name: value - before.get(name, 0.0) for name, value in after.items()}
    summary = bench.summarise(
        [answer for item in results for answer in item["answers"]], max(r["wall"] for r in results)
    )
    median = {} if summary.latency is None else summary.latency.percentiles_ms
    return {
        "batch": round(spent["asr_utterances_total"] / max(1.0, spent["asr_batches_total"]), 2),
        "audio_seconds": round(summary.audio_seconds, 1),
        "clients": share * processes,
        "processes": processes,
        "requests": summary.requests,
        "failed": summary.failed,
        "errors": dict(list(summary.errors.items())[:3]),
        "rtfx": round(summary.rtfx, 1),
        "p50_ms": round(median.get(50, 0.0), 2),
        "p95_ms": round(median.get(95, 0.0), 2),
        "valid_share": round(spent["asr_audio_seconds_total"] / max(1.0, spent["asr_padded_audio_seconds_total"]), 3),
        "client_cpu_share": [round(item["cpu"], 2) for item in results],
    }


def build(
    artifact: Path, work: Path, recipe: Recipe, facts: ModelFacts, shapes: list[tuple[int, int]]
) -> tuple[Path, list[Profile], dict[str, Any]]:
    """The plan, its profiles, and what the build took."""
    names = model_names(recipe.model_name)
    lowered, planned = work / "lowered.onnx", work / "model.plan"
    plan.lower(artifact / names["onnx"] / VERSION / "model.onnx", lowered, recipe=recipe, reporter=REPORTER)
    profiles = plan_shapes.profiles(shapes)
    figures = plan.run(
        lowered,
        planned,
        profiles,
        recipe=recipe,
        facts=facts,
        storage=Storage(work.as_uri()),
        limits=tensorrt.Limits(),
        reporter=REPORTER,
    )
    return planned, profiles, figures


def plot(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Throughput of every shape alone, beside what comes out of the server."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shown = [record for record in records if record["rtfx"] is not None]
    figure, axis = plt.subplots(figsize=(9, 0.4 * len(shown) + 1.5))
    colours = ["tab:green" if record["case"].startswith("gRPC") else "tab:blue" for record in shown]
    axis.barh([record["case"] for record in shown], [record["rtfx"] for record in shown], color=colours)
    axis.invert_yaxis()
    axis.set_xlabel(f"audio seconds a second on one {records[0]['gpu']}")
    axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(  # noqa: PLR0917 (a command line)
    artifact: Annotated[Path, typer.Argument(help="A fetched OnnxRuntime artifact.", exists=True, file_okay=False)],
    output: Annotated[Path, typer.Argument(help="Folder for plans.json and plans.png.")],
    shape: Annotated[list[str], typer.Option(help="Seconds and batch, such as 15x64; several.")],
    clients: Annotated[list[int] | None, typer.Option(help="Requests in flight; several.")] = None,
    processes: Annotated[int, typer.Option(help="Client processes.")] = 8,
    seconds: Annotated[float, typer.Option(help="Length of each load.")] = 12.0,
) -> None:
    """Measure engine and server."""
    gpu, version = cuda.gpu(), tensorrt.version()
    manifest = parse_manifest((artifact / MANIFEST).read_bytes(), where=str(artifact))
    options = plan_pipeline.Options(artifact="file://", storage="file://", work=artifact, precision=Precision.FP16)
    recipe = plan_pipeline.recipe_for(options, manifest, gpu, version)
    recipe = recipe.model_copy(update={"min_token_agreement_permille": 0})
    shapes = [(plan_shapes.padded_length(float(a)), int(b)) for a, _, b in (text.partition("x") for text in shape)]
    names = model_names(recipe.model_name)
    common = {
        "precision": recipe.precision,
        "versions": plan_pipeline.versions(gpu) | {"triton": triton.version()},
        "gpu": gpu.product,
        "cpu": f"{os.cpu_count()} cores, {platform.machine()}",
        "parameters": manifest.provenance.parameters,
        "command": " ".join([COMMAND, *(f"--shape {text}" for text in shape)]),
    }
    records: list[dict[str, Any]] = []

    def add(case: str, **figures: Any) -> None:  # noqa: ANN401
        empty = dict.fromkeys(("batch", "audio_seconds", "clients", "rtfx", "p50_ms", "p95_ms"))
        records.append({"case": case, "engine": Engine.TENSORRT} | empty | figures | common)
        output.mkdir(parents=True, exist_ok=True)
        (output / "plans.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        planned, profiles, built = build(artifact, work, recipe, manifest.model, shapes)
        add("plan build", **built)
        heard = check.load(artifact / REFERENCES)
        audio = audio_set.load(audio_set.SHIPPED, max_seconds=recipe.max_audio_seconds)
        figures = measure.run(
            planned,
            profiles,
            audio,
            heard,
            recipe=recipe,
            facts=manifest.model,
            lengths=sorted({samples for samples, _ in shapes}),
            max_batch_milliseconds=1000.0,
            quick=False,
            reporter=REPORTER,
        )
        for item in figures["shapes"]:
            took = min(item["plain_ms"], item["graph_ms"])
            length = item["samples"] / SAMPLE_RATE
            add(f"plan alone, {item['batch']} x {length:g} s", p50_ms=took, **item)
        summary = {key: value for key, value in figures.items() if key != "shapes"}
        add("plan alone, all shapes", **summary)
        folder = work / "repository"
        repository.run(
            folder,
            recipe=recipe,
            models={"tensorrt": planned},
            served=measure.served(figures, profiles),
            vocabulary=Vocabulary.load(artifact / names["postprocessing"] / VERSION / "vocabulary.json"),
            facts=manifest.model,
            references=artifact / REFERENCES,
            reporter=REPORTER,
        )
        started = time.monotonic()
        with triton.serve(folder) as server:
            add("server start to ready", seconds=round(time.monotonic() - started, 1))
            name = recipe.model_name
            one = load(server, name, (15.0, 15.0), clients=1, processes=1, seconds=min(4.0, seconds))
            add("gRPC, one client, 15 s", **one)
            longest = min(float(recipe.max_audio_seconds), shapes[-1][0] / SAMPLE_RATE)
            for count in clients or CLIENTS:
                many = load(server, name, (2.0, longest), clients=count, processes=processes, seconds=seconds)
                add(f"gRPC, {count} clients, 2-{longest:g} s", **many)
    plot(records, output / "plans.png")
    typer.echo(
        json.dumps([{key: r[key] for key in ("case", "rtfx", "p50_ms", "p95_ms", "batch")} for r in records], indent=1)
    )


if __name__ == "__main__":
    typer.run(main)
