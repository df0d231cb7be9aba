"""Load for tests and benchmarks, and what the server counted of it."""

import asyncio
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from asr_client import transcription
from asr_serving.tensors import SAMPLE_RATE
from model_builder import audio_set, triton

Pcm = npt.NDArray[np.int16]


def utterances(count: int, *, seed: int, shortest: float, longest: float) -> list[Pcm]:
    """Pieces of the check audio, joined end to end, of uniformly distributed length in seconds."""
    random = np.random.default_rng(seed)
    check = audio_set.load(audio_set.SHIPPED, max_seconds=60)
    speech = np.tile(np.concatenate([utterance.signal for utterance in check.utterances]), 2)
    sizes = (random.uniform(shortest, longest, count) * SAMPLE_RATE).astype(int)
    starts = [int(random.integers(0, speech.size - size)) for size in sizes]
    return [speech[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def prometheus(ports: triton.Ports) -> dict[str, float]:
    """What the scheduler has told so far, added up over all labels but the upper bounds of histograms (`le`)."""
    with urllib.request.urlopen(f"http://{ports.host}:{ports.metrics}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    found: dict[str, float] = {}
    for line in lines:
        if line.startswith("asr_"):
            name, bound = line.split("{")[0], re.search(r'le="[^"]*"', line)
            key = f"{name}{{{bound[0]}}}" if bound else name
            found[key] = found.get(key, 0) + float(line.split()[-1])
    return found


def settled(ports: triton.Ports) -> dict[str, float]:
    """What the scheduler has counted when nothing more is going on: it tells of it a little later."""
    found = prometheus(ports)
    while True:
        time.sleep(0.5)
        if (later := prometheus(ports)) == found:
            return found
        found = later


@dataclass(slots=True)
class Answers:
    """What became of requests that are sent without a pause.

    Attributes:
        good: Transcripts so far.
        errors: Messages of failures so far.
    """

    good: int = 0
    errors: list[str] = field(default_factory=list)


@contextmanager
def steady(url: str, model: str, *, in_flight: int = 4) -> Iterator[Answers]:
    """Send utterances of 2 to 8 s over one connection while the block runs, `in_flight` at any time."""
    answers, ending = Answers(), threading.Event()
    signals = utterances(32, seed=7, shortest=2, longest=8)

    async def send(client: transcription.Client, number: int) -> None:
        while not ending.is_set():
            try:
                await client.transcribe(signals[(answers.good + number) % len(signals)])
            except transcription.TranscriptionError as error:
                answers.errors.append(str(error))
                await asyncio.sleep(0.5)
            else:
                answers.good += 1

    async def run() -> None:
        async with transcription.connect(url, model, timeout=60) as client:
            await asyncio.gather(*(send(client, number) for number in range(in_flight)))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, run())
        try:
            yield answers
        finally:
            ending.set()
            running.result(timeout=90)
