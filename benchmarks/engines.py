"""Load on one server from several client processes, and where the time of a request and the processors went.

Clients are processes of their own on the same machine. All warm the server up, wait for each other, and then send for
the same seconds; what the server and the processors did is counted over these seconds alone.
"""

import asyncio
import ctypes
import dataclasses
import multiprocessing
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from asr_client import bench, transcription
from asr_client.transcription import Client, Pcm, TranscriptionError
from asr_serving import audio, frontend, settings, tensors, text
from asr_serving.tensors import SAMPLE_RATE
from benchmarks import footprint
from model_builder import audio_set, triton
from model_builder.stages import check
from tests.support.load import settled

TIMEOUT_SECONDS = 60.0
"""Of a request."""
WARM_UP_SECONDS = 3.0
"""Before anything is measured all clients send for so long, or two requests each if that takes less."""
PATIENCE_SECONDS = 120.0
"""For all client processes to start and to warm up; a process that failed does not come."""
GPU_SAMPLE_SECONDS = 0.1
REPEATS = 20

_barrier: Barrier | None = None
"""Of a client process: where all wait for each other, and for the process that counts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """What clients ask.

    Attributes:
        model: Name of the model.
        stages: Models behind it by what they do: `front end`, `engine`, `decoding`. The scheduler model does front end
            and decoding itself, and calls the engine.
        outputs: What clients want of it.
        shared_memory: Audio reaches the server by system shared memory instead of the wire.
    """

    model: str
    stages: dict[str, str]
    outputs: tuple[str, ...] = tuple(tensor.name for tensor in tensors.TRANSCRIPT)
    shared_memory: bool = False

    @property
    def has_scheduler(self) -> bool:
        """It is this project's `N`, which counts for itself."""
        return set(self.stages) == {"engine"}


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """What one client process did. `started` and `ended` are of the machine's monotonic clock."""

    answers: list[bench.Answer]
    started: float
    ended: float
    cpu_seconds: float


Ask = Callable[[Pcm], Any]
"""Sends one utterance [L] int16; answers with the text."""


@dataclasses.dataclass(frozen=True, slots=True)
class Asking:
    """What `bench` sends its load through, for a model that need not be this project's."""

    ask: Ask

    async def transcribe(self, signal: Pcm, *, again: Callable[[TranscriptionError], None]) -> None:
        """Send one utterance, once: `again` is never called."""
        del again
        await self.ask(signal)


@asynccontextmanager
async def asking(url: str, target: Target, clients: int, longest: int) -> AsyncIterator[Ask]:
    """A connection that sends utterances of at most `longest` samples, at most `clients` at once."""
    async with transcription.connect(url, target.model, timeout=TIMEOUT_SECONDS) as client:
        if target.shared_memory:
            async with _shared(client, target, clients, longest) as ask:
                yield ask
        else:

            async def send(signal: Pcm) -> str:
                return _text(await client.infer(client.encode(signal), target.outputs))

            yield send


@asynccontextmanager
async def _shared(client: Client, target: Target, clients: int, longest: int) -> AsyncIterator[Ask]:
    """Each request in flight has a slot of one region, which holds its audio."""
    from tritonclient.grpc import InferInput, InferRequestedOutput  # noqa: PLC0415
    from tritonclient.utils import InferenceServerException, np_to_triton_dtype, shared_memory  # noqa: PLC0415

    size = client.encode(np.zeros(longest, np.int16)).nbytes
    name = f"asr-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    region = shared_memory.create_shared_memory_region(name, f"/{name}", size * clients)
    free = list(range(clients))
    outputs = [InferRequestedOutput(output) for output in target.outputs]

    async def send(signal: Pcm) -> str:
        encoded, slot = client.encode(signal), free.pop()
        try:
            shared_memory.set_shared_memory_region(region, [encoded], offset=slot * size)
            sent = InferInput("audio_signal", list(encoded.shape), np_to_triton_dtype(encoded.dtype))
            sent.set_shared_memory(name, encoded.nbytes, offset=slot * size)
            result = await client.grpc.infer(target.model, [sent], outputs=outputs, client_timeout=TIMEOUT_SECONDS)
        except InferenceServerException as error:
            raise TranscriptionError(error.message(), error.status()) from error
        finally:
            free.append(slot)
        return _text({output: result.as_numpy(output) for output in target.outputs})

    try:
        await client.grpc.register_system_shared_memory(name, f"/{name}", size * clients)
        yield send
        await client.grpc.unregister_system_shared_memory(name)
    finally:
        shared_memory.destroy_shared_memory_region(region)


def _text(answer: dict[str, Any]) -> str:
    said: bytes = answer[tensors.DECODED_TEXTS.name].ravel()[0]
    return said.decode()


def texts(url: str, target: Target, signals: Sequence[Pcm]) -> list[str]:
    """Transcripts of utterances, one after the other.

    Raises:
        TranscriptionError: One failed.
    """

    async def run() -> list[str]:
        async with asking(url, target, 1, max(signal.size for signal in signals)) as ask:
            return [await ask(signal) for signal in signals]

    return asyncio.run(run())


def _start(barrier: Barrier) -> None:
    global _barrier  # noqa: PLW0603 (barriers reach processes of a pool only this way)
    _barrier = barrier


def client(  # noqa: PLR0917 (what a pool passes on)
    url: str, target: Target, lengths: tuple[float, float], clients: int, seconds: float, seed: int
) -> Share:
    """One client process: its share of the load."""
    assert _barrier is not None
    try:
        return asyncio.run(_client(_barrier, url, target, lengths, clients=clients, seconds=seconds, seed=seed))
    except BaseException:
        _barrier.abort()  # nobody shall wait for this one
        raise


async def _client(
    barrier: Barrier,
    url: str,
    target: Target,
    lengths: tuple[float, float],
    *,
    clients: int,
    seconds: float,
    seed: int,
) -> Share:
    signals = [item.signal for item in audio_set.load(audio_set.SHIPPED, max_seconds=60).utterances]
    utterances = bench.random_lengths(signals, shortest=lengths[0], longest=lengths[1], seed=seed)
    async with asking(url, target, clients, round(lengths[1] * SAMPLE_RATE)) as ask:
        asked: Any = Asking(ask)

        async def send(first: int, requests: int, until: float) -> list[bench.Answer]:
            return await bench._load(asked, utterances, range(first, first + requests), clients, until=until)

        await send(bench.WARMUP_FROM, 2 * clients, time.perf_counter() + WARM_UP_SECONDS)
        barrier.wait(PATIENCE_SECONDS)  # all are warm; the first process counts
        barrier.wait(PATIENCE_SECONDS)
        cpu, started = time.process_time(), time.perf_counter()
        answers = await send(0, bench.MAX_REQUESTS, started + seconds)
        return Share(answers, started, time.perf_counter(), time.process_time() - cpu)


def load(
    server: triton.Server, target: Target, lengths: tuple[float, float], *, clients: int, processes: int, seconds: float
) -> dict[str, Any]:
    """Load from several processes: throughput and latency, and where the time went meanwhile.

    Args:
        server: It runs.
        target: What is asked of it.
        lengths: Shortest and longest utterance in seconds.
        clients: Requests in flight.
        processes: Client processes; a multiple of them is in flight.
        seconds: How long clients send; what is in flight then is waited for.
    """
    processes = min(processes, clients)
    share, url, root = clients // processes, server.ports.grpc_url, server.process.pid
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    with context.Pool(processes, initializer=_start, initargs=(barrier,)) as pool:
        arguments = [(url, target, lengths, share, seconds, seed) for seed in range(processes)]
        running = pool.starmap_async(client, arguments, chunksize=1)
        try:
            barrier.wait(PATIENCE_SECONDS)
            told, counted = settled(server.ports), asyncio.run(statistics(url))
            server_cpu, machine, started = footprint.cpu(root), footprint.machine_busy(), time.perf_counter()
            with gpu_busy() as busy:
                barrier.wait(PATIENCE_SECONDS)
                shares = running.get(PATIENCE_SECONDS + seconds)
            wall = time.perf_counter() - started
            machine, after = footprint.machine_busy() - machine, footprint.cpu(root)
        except threading.BrokenBarrierError:
            running.get()  # raises what happened to the client that did not come
            raise
    server.check_alive()
    told = {name: value - told.get(name, 0.0) for name, value in settled(server.ports).items()}
    counted = _since(counted, asyncio.run(statistics(url)))
    answers = [answer for item in shares for answer in item.answers]
    lasted = max(item.ended for item in shares) - min(item.started for item in shares)
    summary = bench.summarise(answers, lasted)
    engine = counted.get(target.stages["engine"], {"inferences": 0, "executions": 0})  # absent if all requests failed
    return {
        "batch": _ratio(engine["inferences"], engine["executions"]),
        "audio_seconds": round(summary.audio_seconds, 1),
        "clients": share * processes,
        "processes": processes,
        "shared_memory": target.shared_memory,
        "requests": summary.requests,
        "failed": summary.failed,
        "errors": dict(list(summary.errors.items())[:3]),
        "rtfx": round(summary.rtfx, 1),
        "p50_ms": None if summary.latency is None else round(summary.latency.percentiles_ms[50], 2),
        "p95_ms": None if summary.latency is None else round(summary.latency.percentiles_ms[95], 2),
        "valid_share": _ratio(
            told.get("asr_audio_seconds_total", 0.0), told.get("asr_padded_audio_seconds_total", 0.0), digits=3
        ),
        "mean_ms": mean_ms(target, counted, told, None if summary.latency is None else summary.latency.mean_ms),
        "models": counted,
        "cores": {
            "clients": round(sum(item.cpu_seconds for item in shares) / lasted, 2),
            **{name: round((spent - server_cpu.get(name, 0.0)) / wall, 2) for name, spent in after.items()},
            "machine": round(machine / wall, 2),
        },
        "client_cpu_ms_each": _ratio(sum(item.cpu_seconds for item in shares) * 1e3, len(answers)),
        "gpu_busy": round(fmean(busy), 3) if busy else None,
    }


def own_work(folder: Path, heard: Sequence[check.Heard], batch: int, samples: int) -> dict[str, Any]:
    """What the scheduler model in `folder` does itself for one batch, alone in this process: fastest of many times.

    Args:
        folder: The model's version folder.
        heard: Tokens to decode; repeated until they are as long as the audio.
        batch: Utterances.
        samples: Length of each.
    """
    configured = settings.Settings.load(folder)
    vocabulary, feed = text.Vocabulary.load(folder / "vocabulary.json"), frontend.load(configured.frontend, folder)
    batches, signals = audio.Batches(), [np.ones(samples, np.int16)] * batch
    steps = round(samples / SAMPLE_RATE / vocabulary.step_seconds)
    chosen = [heard[number % len(heard)] for number in range(batch)]
    tokens = np.stack([np.resize(item.tokens, steps) for item in chosen])
    logprobs = np.stack([np.resize(item.token_logprobs, steps) for item in chosen])
    lengths = np.full(batch, steps)

    def fastest(work: Callable[[], object]) -> float:
        taken = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
        return round(min(taken) * 1e3, 2)

    return {
        "batch": batch,
        "samples": samples,
        "padding_ms": fastest(lambda: feed(*batches.pad(signals, samples))),
        "decoding_ms": fastest(lambda: text.transcribe(tokens, logprobs, lengths, vocabulary)),
    }


Counted = dict[str, dict[str, Any]]
"""By model: requests, rows (`inferences`), executions, and milliseconds of the requests together in each phase.

`batches` holds the same phases by size of the batch, each execution once.
"""
PHASES = ("compute_input", "compute_infer", "compute_output")
PARTS = (
    *("client and wire", "grouping", "queues", "front end", "copies to and from the engine", "engine", "decoding"),
    "front end and decoding",
)
"""Where an utterance's time goes."""


async def statistics(url: str) -> Counted:
    """What Triton's statistics extension tells of each model."""
    async with transcription.channel(url) as grpc:
        response = await grpc.get_inference_statistics()
    found: Counted = {}
    for model in response.model_stats:  # each has one version
        spent = model.inference_stats
        found[model.name] = {
            "requests": int(spent.success.count),
            "failed": int(spent.fail.count),
            "inferences": int(model.inference_count),
            "executions": int(model.execution_count),
            **{phase: getattr(spent, phase).ns / 1e6 for phase in ("queue", *PHASES)},
            "batches": {
                int(batch.batch_size): {
                    "executions": int(batch.compute_infer.count),
                    **{phase: getattr(batch, phase).ns / 1e6 for phase in PHASES},
                }
                for batch in model.batch_stats
            },
        }
    return found


def _since(before: Counted, after: Counted) -> Counted:
    """What was counted between two readings, of models that did anything; milliseconds rounded."""

    def minus(new: dict[Any, Any], old: dict[Any, Any]) -> dict[Any, Any]:
        return {
            key: minus(value, old.get(key, {})) if isinstance(value, dict) else round(value - old.get(key, 0), 1)
            for key, value in new.items()
        }

    spent = {name: minus(counted, before.get(name, {})) for name, counted in after.items()}
    for counted in spent.values():
        counted["batches"] = {size: batch for size, batch in counted["batches"].items() if batch["executions"]}
    return {name: counted for name, counted in sorted(spent.items()) if counted["executions"]}


def mean_ms(target: Target, counted: Counted, told: dict[str, float], latency: float | None) -> dict[str, float] | None:
    """Where an utterance was, on average, between its sending and its answer, in milliseconds.

    `client and wire` is what no model counts: the client, gRPC, and Triton's way to the first model and back. Where a
    scheduler model works, `grouping` is the wait for the batch, and `front end and decoding` what it does itself: pad,
    call, decode, answer (`own_work` has parts of it alone). `queues` is the wait for models that Triton calls, the
    engine alone where a scheduler does the rest. Means over slightly different requests are subtracted, so that of few
    requests one part may be negative.

    Args:
        target: What was asked.
        counted: By Triton.
        told: By the scheduler model.
        latency: What clients measured.
    """
    if latency is None:
        return None
    engine = {phase: _seen(counted[target.stages["engine"]], phase) for phase in PHASES}
    copies = engine["compute_input"] + engine["compute_output"]
    if target.has_scheduler:
        acoustic, utterances = counted[target.stages["engine"]], max(1.0, told["asr_utterances_total"])
        inside = told["asr_request_seconds_sum"] / max(1.0, told["asr_request_seconds_count"]) * 1e3
        grouping = told["asr_waiting_seconds_total"] / utterances * 1e3
        queues = acoustic["queue"] / max(1, acoustic["requests"])
        own = inside - grouping - queues - copies - engine["compute_infer"]
        parts = {"grouping": grouping, "queues": queues, "front end and decoding": own}
    else:
        models = {stage: counted[name] for stage, name in target.stages.items()}
        queues = sum(model["queue"] / max(1, model["requests"]) for model in models.values())
        work = {
            stage: sum(_seen(models[stage], phase) for phase in PHASES) for stage in target.stages if stage != "engine"
        }
        parts = {"queues": queues, **work}
        inside = sum(parts.values()) + copies + engine["compute_infer"]
    parts |= {"client and wire": latency - inside, "copies to and from the engine": copies}
    parts |= {"engine": engine["compute_infer"]}
    return {name: round(parts[name], 2) for name in PARTS if name in parts}


def _seen(model: dict[str, Any], phase: str) -> float:
    """Milliseconds of a phase as the mean utterance saw it: a batch of 8 counts 8 times."""
    rows = sum(size * batch["executions"] for size, batch in model["batches"].items())
    return float(sum(size * batch[phase] for size, batch in model["batches"].items()) / max(1, rows))


def _ratio(part: float, whole: float, digits: int = 2) -> float | None:
    return round(part / whole, digits) if whole else None


class _Utilization(ctypes.Structure):
    """`nvmlUtilization_t`: percent of the last sample period in which a kernel ran, and memory was used."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


@contextmanager
def gpu_busy() -> Iterator[list[float]]:
    """Sample the first GPU's utilisation, 0 to 1, while the block runs; nothing is sampled without NVIDIA's driver.

    Triton's own metric of it needs more of DCGM than the wheel has.
    """
    samples: list[float] = []
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        yield samples
        return
    device, used, done = ctypes.c_void_p(), _Utilization(), threading.Event()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)):
        yield samples
        return

    def sample() -> None:
        while not done.wait(GPU_SAMPLE_SECONDS):
            if nvml.nvmlDeviceGetUtilizationRates(device, ctypes.byref(used)) == 0:
                samples.append(used.gpu / 100)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield samples
    finally:
        done.set()
        sampler.join()
        nvml.nvmlShutdown()
