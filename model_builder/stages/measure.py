"""Stage `measure`: is every shape of the plan right, and how fast is it? On the GPU of this machine.

First the check audio goes through every profile in batches padded with noise, and its tokens are compared with NeMo's.
Then each shape is timed, with and without a CUDA graph, and what pays is written into the configuration.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_contract.artifact import ModelFacts
from asr_contract.errors import RejectedError
from asr_contract.recipe import Frontend, Recipe
from asr_serving import tensors
from asr_serving.audio import Samples
from asr_serving.batching import Grid, Shape
from asr_serving.frontend import plain
from asr_serving.tensors import SAMPLE_RATE
from model_builder import accuracy, audio_set, cuda, tensorrt
from model_builder.audio_set import AudioSet
from model_builder.onnx_graph import Arrays, finite
from model_builder.plan_shapes import STEP_RATIO, Profile
from model_builder.progress import Reporter, Task
from model_builder.references import Heard, near_tie_margin, settled
from model_builder.repository.config import Served, input_dims

REPEATS = 20
QUICK_REPEATS = 5
GRAPH_GAIN = 0.98
"""A graph is used where it takes less than this share of the time without."""
TIER_GAIN = 1.05
"""A larger batch is used where its throughput is more than this over the next smaller one's."""
CONCURRENT_SECONDS = 2.0
SCHEDULERS = 2
"""On an H200 two keep up a quarter more than one, and a third makes batches smaller (`benchmarks/plans.py`)."""
MEMORY_SHARE = 0.8
"""Of the GPU's free memory, for the contexts of all instances."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One shape: seconds of padded audio over seconds of GPU time is `rtfx`; copies are left out."""

    samples: int
    batch: int
    plain_ms: float
    graph_ms: float

    @property
    def milliseconds(self) -> float:
        """The faster of the two."""
        return self.graph_ms if self.uses_graph else self.plain_ms

    @property
    def uses_graph(self) -> bool:
        """Whether a graph pays."""
        return self.graph_ms < GRAPH_GAIN * self.plain_ms

    @property
    def rtfx(self) -> float:
        """Padded audio seconds a second."""
        return self.batch * self.samples / SAMPLE_RATE / self.milliseconds * 1000


def run(
    plan_file: Path,
    profiles: Sequence[Profile],
    audio: AudioSet,
    heard: Sequence[Heard],
    *,
    recipe: Recipe,
    facts: ModelFacts,
    lengths: Sequence[int],
    max_batch_milliseconds: float,
    quick: bool,
    reporter: Reporter,
) -> dict[str, Any]:
    """Check and time all shapes; returns the figures, from which `served` makes the configuration.

    `lengths` are the padded lengths in samples, shortest first.

    Raises:
        RejectedError: A shape gives NaN, a wrong length, or other tokens than NeMo.
        IncompatiblePlanError, GpuError: The plan does not load here.
    """
    plan = tensorrt.Plan(plan_file.read_bytes())
    inputs = _Inputs(recipe, facts)
    agreement: dict[str, float | None] = {}
    timings: list[Timing] = []
    with reporter.task("measure", len(profiles)) as task:
        for index, profile in enumerate(profiles):
            name = f"{profile.batch} x {profile.samples[1] / SAMPLE_RATE:g} s"
            task.note(name)
            with plan.execution(index) as execution:
                agreed = _agreement(execution, profile, lengths=lengths, audio=audio, heard=heard, inputs=inputs)
                agreement[name] = None if agreed is None else agreed.share
                padded = [profile.samples[1]] if profile.samples[0] == profile.samples[2] else lengths
                timings += [_time(execution, samples, profile.batch, inputs, quick=quick) for samples in padded]
            task.advance()
            if agreed is not None and agreed.share * 1000 < recipe.min_token_agreement_permille:
                raise RejectedError(
                    f"{agreed.share:.2%} of the plan's tokens agree with NeMo's in batches of {name}; at least "
                    f"{recipe.min_token_agreement_permille / 10:g} % are required; {agreed.file}: {agreed.least:.2%}"
                )
        memory = plan.memory()
        most = max(1, int(MEMORY_SHARE * cuda.free_memory() // max(1, memory * len(profiles))))
        concurrent = {1: 0.0} if quick or most < 2 else _instances(plan, profiles, inputs, task)  # noqa: PLR2004
        instances = max(concurrent, key=lambda count: concurrent[count])
        used = kept(timings, max_batch_milliseconds)
        best = max(used, key=lambda timing: timing.rtfx)
        alone = min(timings, key=lambda timing: (timing.batch, abs(timing.samples - 15 * SAMPLE_RATE)))
        task.note(
            f"best {best.rtfx:,.0f} audio s/s at {best.batch} x {best.samples / SAMPLE_RATE:g} s  "
            f"one of {alone.samples / SAMPLE_RATE:g} s {alone.milliseconds:.1f} ms  {instances} instances"
        )
    return {
        "token_agreement": agreement,
        "shapes": [
            asdict(timing) | {"rtfx": round(timing.rtfx), "graph": timing.uses_graph, "used": timing in used}
            for timing in timings
        ],
        "audio_seconds_per_second_by_instances": {str(count): round(rate) for count, rate in concurrent.items()},
        "instances": instances,
        "activation_bytes": memory,
    }


def served(figures: dict[str, Any], profiles: Sequence[Profile]) -> Served:
    """The configuration that the figures of `run` ask for."""
    used = [item for item in figures["shapes"] if item["used"]]
    shapes = sorted(
        (Shape(item["samples"], item["batch"], round(min(item["plain_ms"], item["graph_ms"]), 3)) for item in used),
        key=lambda shape: (shape.samples, shape.batch),
    )
    return Served(
        grid=Grid(tuple(shapes), min_fill=1 / STEP_RATIO),
        plan=tuple(profiles),
        instances=figures["instances"],
        graphs=tuple((item["samples"], item["batch"]) for item in used if item["graph"]),
        schedulers=SCHEDULERS,
    )


def kept(timings: Sequence[Timing], max_milliseconds: float) -> list[Timing]:
    """Shapes worth using: of each length the smallest batch, and larger ones that are faster and not too slow."""
    found: list[Timing] = []
    for timing in sorted(timings, key=lambda item: (item.samples, item.batch)):
        below = found[-1] if found and found[-1].samples == timing.samples else None
        pays = below is not None and timing.rtfx > TIER_GAIN * below.rtfx and timing.milliseconds <= max_milliseconds
        if below is None or pays:
            found.append(timing)
    return found


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Makes what the acoustic model takes."""

    recipe: Recipe
    facts: ModelFacts

    def noise(self, batch: int, samples: int) -> Arrays:
        """Random audio (or features) that fills a shape: zeros would run faster than real data."""
        if self.recipe.frontend is Frontend.NUMPY:
            return self.speech([], batch, samples)
        dims = input_dims(self.recipe, self.facts.features, self.facts.hop, samples)
        (signal, shape), (length, _) = dims.items()
        array = np.random.default_rng(0).normal(0, 0.1, (batch, *shape)).astype(np.float32)
        return {signal.name: array, length.name: np.full((batch, 1), shape[-1], dtype=np.int32)}

    def speech(self, signals: Sequence[Samples], batch: int, samples: int) -> Arrays:
        """The signals in a batch, noise behind each."""
        return plain(*audio_set.in_noise(signals, batch=batch, samples=samples, wire=self.recipe.wire))


@dataclass(frozen=True, slots=True)
class _Agreement:
    """Share of tokens like NeMo's, the file with the least, and its share; what rounding decides in NeMo is aside."""

    share: float
    file: str
    least: float


def _agreement(
    execution: tensorrt.Execution,
    profile: Profile,
    *,
    lengths: Sequence[int],
    audio: AudioSet,
    heard: Sequence[Heard],
    inputs: _Inputs,
) -> _Agreement | None:
    """Tokens like NeMo's, over the check audio that fits, in the profile's smallest or largest batches, if fewer.

    None where nothing could be compared here: no check audio is that short, or features come from NeMo's preprocessor.
    """
    if inputs.recipe.frontend is not Frontend.NUMPY:
        return None
    fitting = [index for index, item in enumerate(audio.utterances) if item.samples.size <= profile.samples[2]]
    if not fitting:
        return None
    found: dict[int, npt.NDArray[np.int32]] = {}
    worst: _Agreement | None = None
    for batch in {profile.smallest_batch, profile.batch}:
        for start in range(0, len(fitting), batch):
            chosen = fitting[start : start + batch]
            signals = [audio.utterances[index].encoded(inputs.recipe.wire) for index in chosen]
            longest = max(signal.size for signal in signals)
            samples = next(size for size in lengths if size >= max(longest, profile.samples[0]))
            outputs = execution.run(inputs.speech(signals, batch, samples))
            for row, index in enumerate(chosen):
                steps = int(outputs["encoded_length"][row, 0])
                if not finite({"logprobs": outputs["logprobs"][row, :steps]}):
                    raise RejectedError(
                        f"{audio.utterances[index].name}: log-probabilities are NaN or infinite in batches of "
                        f"{batch} x {samples / SAMPLE_RATE:g} s"
                    )
                part = slice(min(steps, heard[index].tokens.size))
                off = np.abs(outputs["token_logprobs"][row, part] - heard[index].token_logprobs[part]).max(initial=0.0)
                margin = near_tie_margin(heard[index], float(off), inputs.recipe.precision)
                found[index] = settled(heard[index], outputs["tokens"][row, :steps], margin)
        share = accuracy.token_agreement(
            [heard[index].tokens for index in fitting], [found[index] for index in fitting]
        )
        if worst is None or share < worst.share:
            by_file = {index: accuracy.token_agreement([heard[index].tokens], [found[index]]) for index in fitting}
            least = min(fitting, key=lambda index: by_file[index])
            worst = _Agreement(share, audio.utterances[least].name, by_file[least])
    return worst


def _time(execution: tensorrt.Execution, samples: int, batch: int, inputs: _Inputs, *, quick: bool) -> Timing:
    feed = inputs.noise(batch, samples)
    repeats = QUICK_REPEATS if quick else REPEATS
    plain = execution.time(feed, repeats=repeats)
    execution.capture({name: tuple(array.shape) for name, array in feed.items()})
    return Timing(samples, batch, round(plain, 4), round(execution.time(feed, repeats=repeats), 4))


def _instances(plan: tensorrt.Plan, profiles: Sequence[Profile], inputs: _Inputs, task: Task) -> dict[int, float]:
    """Audio seconds a second, copies included, by how many batches the GPU works on at once."""
    index = max(range(len(profiles)), key=lambda number: (profiles[number].batch > 1, profiles[number].samples[1]))
    profile = profiles[index]
    feed = inputs.noise(profile.batch, profile.samples[1])
    rates = {}
    for count in (1, 2):
        task.note(f"{count} at once")
        with ExitStack() as stack:
            executions = [stack.enter_context(plan.execution(index)) for _ in range(count)]
            started = time.monotonic()
            with ThreadPoolExecutor(count) as pool:
                done = sum(pool.map(_repeat, executions, [feed] * count))
            spent = time.monotonic() - started
        rates[count] = done * profile.batch * profile.samples[1] / SAMPLE_RATE / spent
    return rates


def _repeat(execution: tensorrt.Execution, feed: Arrays) -> int:
    """How many batches it gets through in CONCURRENT_SECONDS."""
    until, done = time.monotonic() + CONCURRENT_SECONDS, 0
    while time.monotonic() < until:
        execution.run(feed, [tensor.name for tensor in tensors.ACOUSTIC])
        done += 1
    return done
