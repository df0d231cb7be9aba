"""Closed-loop load: a fixed number of clients, each sends its next utterance when the last one is answered.

Making utterances, summing up and the record are pure; `run` talks to the server.
"""

import asyncio
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import count, pairwise
from typing import Any

import numpy as np

from asr_client.server_statistics import ModelStatistics, Statistics, acoustic_model, difference, parse
from asr_client.transcription import AudioTooLongError, Client, Pcm, Tls, TranscriptionError, connect
from asr_serving.tensors import SAMPLE_RATE

PERCENTILES = (50, 90, 95, 99)
TERCILES = ("short", "middle", "long")
MAX_REQUESTS = 1_000_000
MAX_AUDIO_SECONDS = 24 * 3600.0
"""Audio of all files, which is in memory during the load: 2.8 GB."""
MAX_MESSAGES = 20
"""Different error messages in a record: many of them name the length of one utterance."""
WARMUP_FROM = 1 << 32
"""Warm-up utterances have numbers of their own, so that the measured ones do not depend on how many there were."""
PAUSE_AFTER_FAILURE_SECONDS = 0.05
"""A server that refuses at once would otherwise get, and this client count, thousands of failures a second."""

Utterances = Callable[[int], Pcm]
"""The utterance [L] of a number from 0; the same one each time it is asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request that was measured.

    Attributes:
        audio_seconds: Length of its audio.
        latency_s: From sending to the answer or the failure.
        error: Why it failed, None when it was answered.
        retries: How often it was sent again, since the server was lost; its latency contains that.
    """

    audio_seconds: float
    latency_s: float
    error: str | None = None
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Latency:
    """Latencies of answered requests in milliseconds.

    Attributes:
        requests: How many.
        shortest_s: Shortest audio among them, in seconds.
        longest_s: Longest audio among them, in seconds.
        mean_ms: Mean.
        percentiles_ms: By percentile, such as 95.
    """

    requests: int
    shortest_s: float
    longest_s: float
    mean_ms: float
    percentiles_ms: Mapping[int, float]

    def to_json(self) -> dict[str, Any]:
        """For a record."""
        return {
            "requests": self.requests,
            "audio_seconds": [round(self.shortest_s, 3), round(self.longest_s, 3)],
            "mean_ms": round(self.mean_ms, 3),
            **{f"p{percent}_ms": round(value, 3) for percent, value in self.percentiles_ms.items()},
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a load.

    Attributes:
        requests: Requests sent, failed ones included.
        failed: Requests that failed.
        retried: Requests that were sent more than once.
        audio_seconds: Audio of the answered requests.
        wall_seconds: From the first request sent to the last one answered.
        latency: Of all answered requests, None when there are none.
        by_length: The same for the shortest, middle and longest third; empty when all are of one length.
        errors: How often each message was given, the most frequent first.
    """

    requests: int
    failed: int
    retried: int
    audio_seconds: float
    wall_seconds: float
    latency: Latency | None
    by_length: Mapping[str, Latency]
    errors: Mapping[str, int]

    @property
    def rtfx(self) -> float:
        """Seconds of audio transcribed in a second."""
        return self.audio_seconds / self.wall_seconds if self.wall_seconds > 0 else 0.0

    @property
    def requests_per_second(self) -> float:
        """Answered requests a second."""
        return (self.requests - self.failed) / self.wall_seconds if self.wall_seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """What `run` brings back.

    Attributes:
        answers: In the order in which the requests ended.
        wall_seconds: From the first request sent to the last one answered.
        cpu_share: CPU time of this client by wall time; near 1 and above, the client limits the load.
        models: What each model did meanwhile; None when the server could not be asked.
        server: Triton's version, None when not known.
        engine: Backend of the acoustic model as Triton names it, None when not known.
        acoustic: Name of the acoustic model behind the one that was asked, None when there is none.
    """

    answers: Sequence[Answer]
    wall_seconds: float
    cpu_share: float
    models: Statistics | None
    server: str | None
    engine: str | None
    acoustic: str | None

    @property
    def acoustic_statistics(self) -> ModelStatistics | None:
        """What the acoustic model did."""
        return self.models.get(self.acoustic) if self.models is not None and self.acoustic is not None else None


def whole_files(signals: Sequence[Pcm], *, seed: int) -> Utterances:
    """The files as they are, in an order drawn once, again and again.

    Args:
        signals: [L_i] int16; at least one.
        seed: Of the order.
    """
    order = np.random.default_rng(seed).permutation(len(signals))
    return lambda index: signals[int(order[index % len(signals)])]


def random_lengths(signals: Sequence[Pcm], *, shortest: float, longest: float, seed: int) -> Utterances:
    """Utterances of uniform random length, cut at random places from all speech in a row.

    Args:
        signals: [L_i] int16; they hold at least one sample.
        shortest: Seconds.
        longest: Seconds.
        seed: Of lengths and places; utterance `index` depends on these two numbers only.
    """
    low, high = round(shortest * SAMPLE_RATE), round(longest * SAMPLE_RATE)
    speech = np.concatenate(list(signals))
    # Long enough that any start within the speech has `high` samples behind it: utterances are views of one array.
    tape = np.resize(speech, speech.size + high)

    def utterance(index: int) -> Pcm:
        random = np.random.default_rng((seed, index))
        size = int(random.integers(low, high, endpoint=True))
        start = int(random.integers(speech.size))
        return tape[start : start + size]

    return utterance


def percentiles(values: Sequence[float]) -> dict[int, float]:
    """Percentiles 50, 90, 95 and 99, linear between neighbours; `values` [N] must not be empty."""
    return {
        percent: float(value) for percent, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)
    }


def latency_of(answers: Sequence[Answer]) -> Latency | None:
    """Latencies of the answered requests, None when there are none."""
    answered = [answer for answer in answers if answer.error is None]
    if not answered:
        return None
    milliseconds = [answer.latency_s * 1e3 for answer in answered]
    seconds = [answer.audio_seconds for answer in answered]
    return Latency(
        requests=len(answered),
        shortest_s=min(seconds),
        longest_s=max(seconds),
        mean_ms=float(np.mean(milliseconds)),
        percentiles_ms=percentiles(milliseconds),
    )


def by_length(answers: Sequence[Answer]) -> dict[str, Latency]:
    """Latencies of the shortest, middle and longest third of the answered; empty when all are of one length."""
    answered = sorted((answer for answer in answers if answer.error is None), key=lambda answer: answer.audio_seconds)
    if not answered or answered[0].audio_seconds == answered[-1].audio_seconds:
        return {}
    edges = [round(len(answered) * third / 3) for third in range(4)]
    thirds = (latency_of(answered[start:end]) for start, end in pairwise(edges))
    return {name: latency for name, latency in zip(TERCILES, thirds, strict=True) if latency is not None}


def summarise(answers: Sequence[Answer], wall_seconds: float) -> Summary:
    """Sum up measured requests."""
    errors = Counter(answer.error for answer in answers if answer.error is not None)
    return Summary(
        requests=len(answers),
        failed=errors.total(),
        retried=sum(answer.retries > 0 for answer in answers),
        audio_seconds=sum(answer.audio_seconds for answer in answers if answer.error is None),
        wall_seconds=wall_seconds,
        latency=latency_of(answers),
        by_length=by_length(answers),
        errors=dict(errors.most_common()),
    )


def case_name(model: str, clients: int, lengths: tuple[float, float] | None) -> str:
    """A name for what was measured, such as `english_stt 256 clients 2-30 s`."""
    return f"{model} {clients} clients " + ("whole files" if lengths is None else f"{lengths[0]:g}-{lengths[1]:g} s")


def record(
    ran: Run,
    summary: Summary,
    *,
    model: str,
    clients: int,
    seed: int,
    lengths: tuple[float, float] | None,
    versions: Mapping[str, str | None],
) -> dict[str, Any]:
    """One case for results.json. What cannot be asked of the server is None: precision and GPU."""
    acoustic = ran.acoustic_statistics
    median = summary.latency.percentiles_ms if summary.latency is not None else {}
    return {
        "case": case_name(model, clients, lengths),
        "engine": ran.engine,
        "precision": None,
        "batch": _rounded(acoustic.mean_batch if acoustic is not None else None),
        "audio_seconds": round(summary.audio_seconds, 3),
        "clients": clients,
        "rtfx": _rounded(summary.rtfx),
        "p50_ms": _rounded(median.get(50)),
        "p95_ms": _rounded(median.get(95)),
        "versions": {"triton": ran.server, **versions},
        "gpu": None,
        "details": {
            "model": model,
            "acoustic_model": ran.acoustic,
            "seed": seed,
            "utterance_seconds": list(lengths) if lengths is not None else None,
            "requests": summary.requests,
            "failed": summary.failed,
            "retried": summary.retried,
            "errors": dict(list(summary.errors.items())[:MAX_MESSAGES]),
            "wall_seconds": round(summary.wall_seconds, 3),
            "requests_per_second": _rounded(summary.requests_per_second),
            "client_cpu_share": _rounded(ran.cpu_share),
            "latency": summary.latency.to_json() if summary.latency is not None else None,
            "latency_by_length": {name: latency.to_json() for name, latency in summary.by_length.items()},
            "models": {name: counted.to_json() for name, counted in (ran.models or {}).items()},
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def client_versions() -> dict[str, str | None]:
    """Versions of what runs here."""

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("asr-operator", "tritonclient", "grpcio")},
    }


async def run(
    url: str,
    model: str,
    utterances: Utterances,
    *,
    tls: Tls | None = None,
    concurrency: int,
    requests: int,
    seconds: float | None = None,
    warmup: int = 0,
    timeout: float | None = None,  # noqa: ASYNC109 (of each request)
    retries: int = 0,
    longest: float = 0.0,
    done: Callable[[Answer], None] = lambda _answer: None,
) -> Run:
    """Send utterances, `concurrency` at once, and measure.

    Args:
        url: Host and port of Triton's gRPC.
        model: The model.
        utterances: What to send.
        tls: None for a server that speaks plain gRPC.
        concurrency: Requests in flight.
        requests: Requests to send.
        seconds: Send no more after this time; what is in flight is still waited for.
        warmup: Requests sent before that are not measured.
        timeout: Seconds that each request may take, however often it is sent; None for ever.
        retries: How often a request is sent again whose server is lost.
        longest: The longest utterance in seconds, so that the model can be asked before the load whether it takes it.
        done: Called when a measured request ends.

    Raises:
        AudioTooLongError: The model does not take the longest utterance.
        ServerUnavailableError: No server there, or it does not serve the model.
    """
    async with connect(url, model, tls=tls, timeout=timeout, retries=retries) as client:
        limit = await client.max_seconds()
        if limit is not None and longest > limit:
            raise AudioTooLongError(
                f"the longest utterance has {longest:.2f} s, and {model} takes at most {limit:g} s: --audio-seconds 2 "
                f"{limit:g} cuts utterances from the files"
            )
        await _load(client, utterances, range(WARMUP_FROM, WARMUP_FROM + warmup), concurrency)
        before = await _ask(client.grpc.get_inference_statistics)
        cpu, started = time.process_time(), time.perf_counter()
        answers = await _load(
            client,
            utterances,
            range(requests),
            concurrency,
            until=None if seconds is None else started + seconds,
            done=done,
        )
        wall = time.perf_counter() - started
        cpu_share = (time.process_time() - cpu) / wall
        after = await _ask(client.grpc.get_inference_statistics)
        models = None if before is None or after is None else difference(parse(before), parse(after))
        acoustic = acoustic_model(model, models) if models is not None else None
        server = await _ask(client.grpc.get_server_metadata)
        config = await _ask(client.grpc.get_model_config, acoustic) if acoustic is not None else None
    return Run(
        answers=answers,
        wall_seconds=wall,
        cpu_share=cpu_share,
        models=models,
        server=None if server is None else str(server.version),
        engine=None if config is None else str(config.config.backend or config.config.platform) or None,
        acoustic=acoustic,
    )


async def _load(
    client: Client,
    utterances: Utterances,
    numbers: range,
    concurrency: int,
    *,
    until: float | None = None,
    done: Callable[[Answer], None] = lambda _answer: None,
) -> list[Answer]:
    answers: list[Answer] = []
    upcoming = count(numbers.start)

    async def one_client() -> None:
        while until is None or time.perf_counter() < until:
            number = next(upcoming)
            if number not in numbers:
                return
            signal = utterances(number)
            sent, lost = time.perf_counter(), list[TranscriptionError]()
            try:
                await client.transcribe(signal, again=lost.append)
                error = None
            except TranscriptionError as failure:
                error = str(failure)
            answers.append(Answer(signal.size / SAMPLE_RATE, time.perf_counter() - sent, error, len(lost)))
            done(answers[-1])
            if error is not None:
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)

    await asyncio.gather(*(one_client() for _ in range(min(concurrency, len(numbers)))))
    return answers


async def _ask(question: Callable[..., Any], *arguments: str) -> Any:  # noqa: ANN401
    """A server that is gone now, or does not tell, costs that part of the report only."""
    from tritonclient.utils import InferenceServerException  # noqa: PLC0415

    try:
        return await question(*arguments, client_timeout=30)
    except InferenceServerException:
        return None
