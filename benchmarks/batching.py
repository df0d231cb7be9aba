"""Which way batches form under mixed lengths: the scheduler model `N` against the ensemble, in one run on one server.

    python benchmarks/batching.py benchmarks/results

builds the demo checkpoint into a temporary folder, serves it with a real Triton, and sends utterances of uniformly
distributed length, 256 in flight. Writes `batching.json` (one record a case) and `batching.png`. The mean acoustic
batch comes from Triton's own statistics; the share of valid audio from the scheduler's counters for `N`, and for the
ensemble from the shapes that its preprocessing pads to.
"""

import asyncio
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from asr_client.transcription import channel, connect, gather_bounded
from asr_serving.settings import Settings
from asr_serving.tensors import SAMPLE_RATE
from model_builder import triton
from model_builder.pipeline import versions
from tests.support.load import Pcm, settled, utterances
from tests.support.programs import program

NAME = "english_stt"
CASES = ("ensemble", "scheduler")
MODELS = {"ensemble": f"ensemble_{NAME}", "scheduler": NAME}
CHECKPOINT = Path(__file__).parents[1] / "demo" / "english_stt.nemo"


async def load(url: str, model: str, signals: Sequence[Pcm], concurrency: int) -> list[float]:
    """Send all; returns seconds from send to answer of each."""
    latencies = [0.0] * len(signals)
    async with connect(url, model) as client:

        async def one(index: int) -> None:
            started = time.monotonic()
            await client.transcribe(signals[index])
            latencies[index] = time.monotonic() - started

        await gather_bounded([partial(one, index) for index in range(len(signals))], concurrency)
    return latencies


async def counts(url: str) -> tuple[int, int]:
    """Inferences and executions of the acoustic model so far, by Triton's statistics."""
    async with channel(url) as grpc:
        model = (await grpc.get_inference_statistics(f"onnx_{NAME}")).model_stats[0]
        return int(model.inference_count), int(model.execution_count)


def measure(
    server: triton.Server, case: str, signals: Sequence[Pcm], concurrency: int, settings: Settings
) -> dict[str, Any]:
    """One case: load, and what the server counted meanwhile."""
    url = server.ports.grpc_url
    before, counted = asyncio.run(counts(url)), settled(server.ports)
    started = time.monotonic()
    latencies = np.array(asyncio.run(load(url, MODELS[case], signals, concurrency)))
    wall = time.monotonic() - started
    after, counted_after = asyncio.run(counts(url)), settled(server.ports)
    seconds = np.array([signal.size for signal in signals]) / SAMPLE_RATE
    if case == "scheduler":
        spent = {key: counted_after[key] - counted.get(key, 0.0) for key in counted_after}
        valid = spent["asr_audio_seconds_total"] / spent["asr_padded_audio_seconds_total"]
    else:
        padded = sum(settings.grid.shape_of(signal.size).samples for signal in signals)
        valid = sum(signal.size for signal in signals) / padded
    thirds = np.quantile(seconds, [1 / 3, 2 / 3])
    groups = {
        "short": seconds < thirds[0],
        "middle": (seconds >= thirds[0]) & (seconds < thirds[1]),
        "long": seconds >= thirds[1],
    }
    return {
        "case": f"{case}, mixed lengths",
        "engine": "OnnxRuntime",
        "precision": "FP32",
        "batch": round((after[0] - before[0]) / (after[1] - before[1]), 2),
        "audio_seconds": round(float(seconds.sum()), 1),
        "clients": concurrency,
        "requests": len(signals),
        "rtfx": round(float(seconds.sum()) / wall, 1),
        "p50_ms": round(float(np.median(latencies)) * 1000),
        "p95_ms": round(float(np.quantile(latencies, 0.95)) * 1000),
        "max_ms": round(float(latencies.max()) * 1000),
        "p95_ms_by_length": {
            name: round(float(np.quantile(latencies[group], 0.95)) * 1000) for name, group in groups.items()
        },
        "valid_share": round(float(valid), 3),
        "versions": versions(),
        "gpu": None,
        "cpu": f"{os.cpu_count()} cores, {platform.machine()}",
        "latencies": [[round(float(a), 2), round(float(b), 3)] for a, b in zip(seconds, latencies, strict=True)],
    }


def plot(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Latency against length for each case."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, len(records), figsize=(11, 4), sharey=True)
    for axis, record in zip(axes, records, strict=True):
        axis.scatter(*zip(*record["latencies"], strict=True), s=6, alpha=0.6)
        axis.set_title(
            f"{record['case']}\nmean acoustic batch {record['batch']}, "
            f"valid {record['valid_share']:.0%}, RTFx {record['rtfx']:.0f}"
        )
        axis.set_xlabel("audio, s")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"latency with {records[0]['clients']} in flight, s")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(
    output: Annotated[Path, typer.Argument(help="Folder for batching.json and batching.png.")],
    requests: Annotated[int, typer.Option(help="Utterances of each case.")] = 768,
    concurrency: Annotated[int, typer.Option(help="Requests in flight.")] = 256,
    seed: Annotated[int, typer.Option(help="Decides lengths and pieces.")] = 1,
) -> None:
    """Measure how batches form through the ensemble and through the scheduler model."""
    signals = utterances(requests, seed=seed, shortest=2, longest=30)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        subprocess.run(
            [
                *(program("model-builder"), "build", "--source", str(CHECKPOINT), "--name", NAME),
                *("--storage", (work / "storage").as_uri(), "--work", str(work / "work")),
            ],
            check=True,
        )
        repository = work / "work" / "repository"
        settings = Settings.load(repository / NAME / "1")
        with triton.serve(repository) as server:
            asyncio.run(load(server.ports.grpc_url, NAME, signals[:32], 32))
            records = [measure(server, case, signals, concurrency, settings) for case in CASES]
    output.mkdir(parents=True, exist_ok=True)
    plot(records, output / "batching.png")
    for record in records:
        del record["latencies"]
    (output / "batching.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps(records, indent=1))


if __name__ == "__main__":
    typer.run(main)
