"""Load for tests and benchmarks, and what the server counted of it."""

import asyncio
import re
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import numpy.typing as npt

from asr_client import transcription
from asr_serving.tensors import SAMPLE_RATE
from model_builder import audio_set, triton

Pcm = npt.NDArray[np.int16]
PATIENCE_SECONDS = 240.0
"""Of a request of a steady load, with all its repetitions."""


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


@dataclass(frozen=True, slots=True)
class Sent:
    """One request of a steady load.

    Attributes:
        at: When its answer or failure came, in seconds since the load began.
        seconds: From sending to that, repetitions included.
        utterance: Index of what was said.
        text: The transcript, None when it failed.
        error: Why it failed.
        retries: How often it was sent again.
    """

    at: float
    seconds: float
    utterance: int
    text: str | None
    error: str | None
    retries: int


@dataclass(slots=True)
class Load:
    """What became of requests that are sent without an end.

    Attributes:
        sent: Those that are answered or have failed, in the order in which they ended.
        in_flight: Those that wait for an answer now.
    """

    sent: list[Sent] = field(default_factory=list)
    in_flight: int = 0

    @property
    def good(self) -> int:
        """Transcripts so far."""
        return sum(item.error is None for item in self.sent)

    @property
    def errors(self) -> list[str]:
        """Messages of failures so far."""
        return [item.error for item in self.sent if item.error is not None]

    @property
    def retried(self) -> int:
        """Requests that were sent more than once."""
        return sum(item.retries > 0 for item in self.sent)

    def wrong(self, right: Sequence[str]) -> list[Sent]:
        """Transcripts that differ from the right ones, by index of the utterance."""
        return [item for item in self.sent if item.text is not None and item.text != right[item.utterance]]


@contextmanager
def steady(
    url: str,
    model: str,
    *,
    in_flight: int = 4,
    pause: float = 0.0,
    connections: int = 1,
    retries: int = 0,
    signals: Sequence[Pcm] | None = None,
) -> Iterator[Load]:
    """Send utterances while the block runs, each client the next one when the last is answered.

    Args:
        url: Host and port; a name of several addresses is balanced over them.
        model: The model.
        in_flight: Clients.
        pause: Seconds that each client waits after an answer.
        connections: That the clients share.
        retries: How often a request is sent again whose server is lost.
        signals: What is said; 32 utterances of 2 to 8 s when None.
    """
    load, ending, began = Load(), threading.Event(), time.monotonic()
    said = utterances(32, seed=7, shortest=2, longest=8) if signals is None else signals
    upcoming = count()

    async def send(client: transcription.Client, number: int) -> None:
        # Not all at once, which would be a wave that comes again and again.
        await asyncio.sleep(pause * number / in_flight)
        while not ending.is_set():
            utterance, lost, sent = next(upcoming) % len(said), list[Exception](), time.monotonic()
            text, error = None, None
            load.in_flight += 1
            try:
                text = (await client.transcribe(said[utterance], again=lost.append)).text
            except transcription.TranscriptionError as failure:
                error = f"{failure.status}: {failure}"
            load.in_flight -= 1
            now = time.monotonic()
            load.sent.append(Sent(now - began, now - sent, utterance, text, error, len(lost)))
            await asyncio.sleep(pause if error is None else max(pause, 0.5))

    async def run() -> None:
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    transcription.connect(url, model, timeout=PATIENCE_SECONDS, retries=retries)
                )
                for _ in range(connections)
            ]
            await asyncio.gather(*(send(clients[number % connections], number) for number in range(in_flight)))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, run())
        try:
            yield load
        finally:
            ending.set()
            running.result(timeout=PATIENCE_SECONDS + 30)
