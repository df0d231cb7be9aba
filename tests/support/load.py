"""Load for tests and benchmarks, and what the server counted of it."""

import urllib.request

import numpy as np
import numpy.typing as npt

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
    """The scheduler's counters so far."""
    with urllib.request.urlopen(f"http://{ports.host}:{ports.metrics}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return {line.split("{")[0]: float(line.split()[-1]) for line in lines if line.startswith("asr_")}
