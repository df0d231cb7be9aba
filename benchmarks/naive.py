"""The pipeline that guides show against this project's, in one run on this machine, with mixed lengths.

    python benchmarks/naive.py benchmarks/results

serves the demo checkpoint through a hand-made repository (`naive_repository`: FP64 audio, numpy features one request at
a time, NeMo's own export without batching, all log-probabilities to a Python decoder) and through built ones (the
scheduler model and the ensemble, `--max-batch-size` 32, and smaller ones, since CPUs are slower in large batches).
Each engine gets a server of its own, transcribes the check audio, and then takes the same utterances of uniformly
distributed length: one client, then many, each of which sends its next request when the last one is answered. An
engine whose cases were disturbed by other work on this machine takes its turn again; each case's quietest round counts.
Writes `naive.json` (one record a case; `details` say where the time went, and how busy the machine was with others) and
`naive.png`.
"""

import asyncio
import dataclasses
import json
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from asr_client import server_statistics
from asr_client.transcription import Client, TranscriptionError, channel, connect, gather_bounded
from asr_serving import tensors
from asr_serving.tensors import SAMPLE_RATE, model_names
from benchmarks import footprint
from benchmarks.naive_repository import layout
from model_builder import accuracy, audio_set, triton
from model_builder.pipeline import versions
from tests.support.load import Pcm, utterances
from tests.support.programs import program

NAME = "english_stt"
CHECKPOINT = Path(__file__).parents[1] / "demo" / "english_stt.nemo"
LIGHT_REQUESTS = 48
QUIET_CORES = 0.1
"""A case was measured on a quiet machine when other work took no more cores than that on average."""

COLOURS = {"naive": "tab:gray", "ensemble": "tab:orange", "scheduler": "tab:blue"}
"""By the first word of an engine's name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Engine:
    """One way to serve the checkpoint.

    Attributes:
        name: In the records.
        repository: What its server serves.
        model: What clients ask.
        acoustic: The acoustic model behind it.
        naive: Only the text comes back.
    """

    name: str
    repository: Path
    model: str
    acoustic: str
    naive: bool = False

    async def transcribe(self, client: Client, signal: Pcm) -> str:
        """Text of one utterance [L]."""
        outputs = [tensors.DECODED_TEXTS.name] if self.naive else [tensor.name for tensor in tensors.TRANSCRIPT]
        answer = await client.infer(client.encode(signal), outputs)
        text: bytes = answer[tensors.DECODED_TEXTS.name].ravel()[0]
        return text.decode()


@dataclasses.dataclass(slots=True)
class Answers:
    """What came back, in the order of the signals: text, None for a failure, and seconds from send to answer."""

    texts: list[str | None]
    seconds: list[float]
    wall: float = 0.0
    first_failure: str | None = None


async def load(url: str, engine: Engine, signals: Sequence[Pcm], clients: int) -> Answers:
    """Send all, `clients` at once."""
    answers = Answers([None] * len(signals), [0.0] * len(signals))
    async with connect(url, engine.model) as client:

        async def one(index: int) -> None:
            started = time.monotonic()
            try:
                answers.texts[index] = await engine.transcribe(client, signals[index])
            except TranscriptionError as error:
                answers.first_failure = answers.first_failure or str(error)
            answers.seconds[index] = time.monotonic() - started

        started = time.monotonic()
        await gather_bounded([partial(one, index) for index in range(len(signals))], clients)
        answers.wall = time.monotonic() - started
    return answers


async def statistics(url: str) -> dict[str, server_statistics.ModelStatistics]:
    """What Triton counted so far, by model."""
    async with channel(url) as grpc:
        return server_statistics.parse(await grpc.get_inference_statistics())


def measure(server: triton.Server, engine: Engine, signals: Sequence[Pcm], clients: int, wer: float) -> dict[str, Any]:
    """One case: load, what it took of the machine, and what Triton counted meanwhile."""
    url = server.ports.grpc_url
    before = asyncio.run(statistics(url))
    with footprint.watch(server.process.pid) as taken:
        answers = asyncio.run(load(url, engine, signals, clients))
    server.check_alive()
    counted = server_statistics.difference(before, asyncio.run(statistics(url)))
    answered = [text is not None for text in answers.texts]
    latencies = np.array(answers.seconds)[answered]
    audio = float(np.array([signal.size for signal in signals])[answered].sum()) / SAMPLE_RATE
    batch = counted[engine.acoustic].mean_batch
    return {
        "case": f"{engine.name}, {clients} client{'s' if clients > 1 else ''}",
        "engine": "OnnxRuntime",
        "precision": "FP32",
        "batch": None if batch is None else round(batch, 2),
        "audio_seconds": round(audio, 1),
        "clients": clients,
        "requests": len(signals),
        "failed": answered.count(False),
        "rtfx": round(audio / answers.wall, 1),
        "p50_ms": round(float(np.median(latencies)) * 1000),
        "p95_ms": round(float(np.quantile(latencies, 0.95)) * 1000),
        "peak_rss_mb": round(taken.peak_rss_mb),
        "wer": round(wer, 4),
        "versions": versions() | {"triton": triton.version()},
        "gpu": None,
        "cpu": f"{os.cpu_count()} cores, {platform.machine()}",
        "details": {
            "model": engine.model,
            "wall_s": round(answers.wall, 2),
            "first_failure": answers.first_failure,
            "peak_pss_mb": round(taken.peak_pss_mb),
            "server_cpu_seconds": taken.cpu_seconds,
            "audio_seconds_per_server_cpu_second": round(audio / sum(taken.cpu_seconds.values()), 1),
            "client_cpu_seconds": taken.client_cpu_seconds,
            "other_cores_busy": taken.other_cores,
            "models": {
                name: {
                    "executions": model.executions,
                    "mean_batch": None if model.mean_batch is None else round(model.mean_batch, 2),
                    "mean_queue_ms": None if model.queue.mean_ms is None else round(model.queue.mean_ms, 2),
                    "mean_compute_ms": None if model.compute.mean_ms is None else round(model.compute.mean_ms, 2),
                    "busy_s": round(sum(spent.ns for spent in model.batches.values()) / 1e9, 2),
                }
                for name, model in sorted(counted.items())
                if model.executions
            },
        },
    }


def measure_engine(engine: Engine, signals: Sequence[Pcm], clients: int) -> list[dict[str, Any]]:
    """All cases of one engine on a fresh server: check audio (which also warms up), one client, many."""
    check = audio_set.load(audio_set.SHIPPED, max_seconds=60)
    with triton.serve(engine.repository) as server:
        url = server.ports.grpc_url
        answers = asyncio.run(load(url, engine, [utterance.signal for utterance in check.utterances], 1))
        if None in answers.texts or check.texts is None:
            raise SystemExit(f"{engine.name} fails on the check audio: {answers.first_failure}")
        wer = accuracy.word_error_rate(check.texts, [text or "" for text in answers.texts])
        # The longest once, so that neither memory arenas nor shared memory grow within the first case.
        asyncio.run(load(url, engine, [max(signals, key=len)], 1))
        light = measure(server, engine, signals[:LIGHT_REQUESTS], 1, wer)
        return [light, measure(server, engine, signals, clients, wer)]


def disturbance(record: dict[str, Any]) -> float:
    """Cores that other work took while the case was measured."""
    return float(record["details"]["other_cores_busy"])


def quietest(turns: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of several turns of one engine each case's least disturbed record; its details show all turns."""
    chosen = []
    for same in zip(*turns, strict=True):
        record = min(same, key=disturbance)
        seen = [{"rtfx": other["rtfx"], "other_cores_busy": disturbance(other)} for other in same]
        chosen.append(record | {"details": record["details"] | {"turns": seen}})
    return chosen


def engines(work: Path, batch_sizes: Sequence[int]) -> list[Engine]:
    """Build all repositories into `work`."""
    layout.write(work / "naive", layout.from_checkpoint(CHECKPOINT, work / "checkpoint"))
    found = [Engine("naive", work / "naive", layout.NAME, layout.MODELS["onnx"], naive=True)]
    names = model_names(NAME)
    for size in batch_sizes:
        folder = work / f"batch-{size}"
        subprocess.run(
            [
                *(program("model-builder"), "build", "--source", str(CHECKPOINT), "--name", NAME),
                *("--storage", (folder / "storage").as_uri(), "--work", str(folder / "work")),
                *("--max-batch-size", str(size)),
            ],
            check=True,
        )
        # The ensemble hardly forms batches of mixed lengths: its largest one makes no difference.
        roles = ("ensemble", "scheduler") if size == batch_sizes[0] else ("scheduler",)
        found += [
            Engine(f"{role}, max batch {size}", folder / "work" / "repository", names[role], names["onnx"])
            for role in roles
        ]
    return found


def plot(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Bars: throughput, latency and memory, one client above many; a star marks cases that were always disturbed."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figures = (
        ("rtfx", "audio seconds a second"),
        ("p50_ms", "p50, ms"),
        ("p95_ms", "p95, ms"),
        ("peak_rss_mb", "peak memory, MB"),
    )
    loads = sorted({record["clients"] for record in records})
    figure, grid = plt.subplots(len(loads), len(figures), figsize=(14, 2.7 * len(loads)), sharey="row", squeeze=False)
    for row, clients in zip(grid, loads, strict=True):
        shown = [record for record in records if record["clients"] == clients][::-1]
        marks = [" *" if disturbance(record) > QUIET_CORES else "" for record in shown]
        names = [record["case"].rpartition(", ")[0] + mark for record, mark in zip(shown, marks, strict=True)]
        for axis, (key, title) in zip(row, figures, strict=True):
            bars = axis.barh(
                names, [record[key] for record in shown], color=[COLOURS[re.split(r"\W", name)[0]] for name in names]
            )
            axis.bar_label(bars, fmt="%.0f", padding=2)
            axis.margins(x=0.2)
            axis.set_title(f"{title}, {clients} client{'s' if clients > 1 else ''}")
    figure.text(0.005, 0.005, "* disturbed by other work on the machine", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(  # noqa: PLR0917 (a command line)
    output: Annotated[Path, typer.Argument(help="Folder for naive.json and naive.png.")],
    requests: Annotated[int, typer.Option(help="Utterances of each case with many clients.")] = 256,
    clients: Annotated[int, typer.Option(help="Requests in flight.")] = 64,
    batch_sizes: Annotated[str, typer.Option(help="--max-batch-size of the builds, by commas.")] = "32,8",
    rounds: Annotated[int, typer.Option(help="Turns of an engine at most, until its cases were not disturbed.")] = 4,
    seed: Annotated[int, typer.Option(help="Decides lengths and pieces.")] = 1,
) -> None:
    """Compare the naive pipeline with the built repositories."""
    signals = utterances(requests, seed=seed, shortest=2, longest=30)
    with tempfile.TemporaryDirectory() as temporary:
        served = engines(Path(temporary), [int(size) for size in batch_sizes.split(",")])
        turns: dict[Engine, list[list[dict[str, Any]]]] = {engine: [] for engine in served}
        for _ in range(rounds):
            for engine, taken in turns.items():
                if not taken or any(disturbance(record) > QUIET_CORES for record in quietest(taken)):
                    taken.append(measure_engine(engine, signals, clients))
    records = [record for taken in turns.values() for record in quietest(taken)]
    output.mkdir(parents=True, exist_ok=True)
    plot(records, output / "naive.png")
    (output / "naive.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    for record in records:
        typer.echo(
            f"{record['case']:36} RTFx {record['rtfx']:6.1f}  p50 {record['p50_ms']:6} ms  "
            f"p95 {record['p95_ms']:6} ms  batch {record['batch']:5}  RSS {record['peak_rss_mb']} MB  "
            f"WER {record['wer']:.2%}  failed {record['failed']}  "
            f"audio s / server CPU s {record['details']['audio_seconds_per_server_cpu_second']}  "
            f"other cores busy {disturbance(record)}"
        )


if __name__ == "__main__":
    typer.run(main)
