"""All checks of one server, in order. A check that cannot be made is skipped with its reason, and the others go on."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_cli.conform import (
    artifact as artifacts,
)
from asr_cli.conform import (
    cancellation,
    load,
    memory,
    performance,
    placement,
    refusals,
    texts,
    tokens,
    versions,
)
from asr_cli.conform.artifact import Artifact, ArtifactError, AudioMissingError, CheckAudio
from asr_cli.conform.outcome import Result, failed, skipped
from asr_cli.conform.target import MetricsError, ShellError, Target
from asr_client import bench, server_statistics
from asr_client.transcription import Client, Transcript, TranscriptionError, connect
from asr_serving.tensors import SAMPLE_RATE, model_names

CONCURRENCY = 32
REQUEST_SECONDS = 300.0
ASK_SECONDS = 30.0
SETTLE_SECONDS = 15.0
POLL_SECONDS = 0.3
DEFAULT_MAX_SECONDS = 600
"""No build serves longer audio, so that one second more is too long for each of them."""
LONGEST_CUT_SECONDS = 39.0
SHORTEST_CUT_SECONDS = 2.0
LOGPROBS_SECONDS = 3.0

Signals = list[npt.NDArray[np.int16]]


@dataclass(slots=True)
class State:
    """What earlier checks have found, for later ones.

    Attributes:
        artifact: What is served; None where it cannot be read.
        audio: Its check audio; None where it is not available.
        speech: What is sent as load: the check audio, or what comes with the package.
        expected: Text of each utterance of `speech` by the scheduler model.
        tied: Utterances of `speech` whose text may differ.
        rtfx: Audio seconds a second that the server has shown with a few requests in flight.
        loaded_rtfx: The same with many in flight.
        server: Triton's version.
        acoustic: Acoustic models that are served.
        models: Models of the set that are served.
    """

    artifact: Artifact | None = None
    audio: CheckAudio | None = None
    speech: Signals = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    tied: set[int] = field(default_factory=set)
    rtfx: float = 1.0
    loaded_rtfx: float = 0.0
    server: str | None = None
    acoustic: list[str] = field(default_factory=list)
    models: set[str] = field(default_factory=set)


async def examine(
    target: Target, *, artifact: Path | None = None, audio: Path | None = None, state: State | None = None
) -> AsyncIterator[Result]:
    """All checks that change nothing.

    Args:
        target: The server.
        artifact: Folder of the artifact that it serves; read beside the server when None.
        audio: Folder of the artifact's check audio; what comes with the package when None.
        state: Filled with what is found.

    Raises:
        ServerUnavailableError: No server there, or it does not serve the model.
    """
    state = State() if state is None else state
    async with connect(target.url, target.model, tls=target.tls, timeout=REQUEST_SECONDS) as client:
        checks: list[tuple[str, Callable[[], AsyncIterator[Result]]]] = [
            ("versions", partial(_versions, target, client, state, artifact)),
            ("placement", partial(_placement, target, client, state)),
            ("tokens", partial(_tokens, target, client, state, audio)),
            ("texts", partial(_texts, target, client, state)),
            ("refusals", partial(_refusals, target, client, state)),
            ("load", partial(_load, target, client, state)),
            ("performance", partial(_performance, target, client, state)),
            ("cancellation", partial(_cancellation, target, client, state)),
            ("memory", partial(_memory, target)),
        ]
        for name, check in checks:
            try:
                async for result in check():
                    yield result
            except TranscriptionError as error:
                yield failed(name, str(error), "Look at Triton's log; asr doctor checks the server step by step.")
            except MetricsError as error:
                yield skipped(name, str(error))


async def _versions(target: Target, client: Client, state: State, folder: Path | None) -> AsyncIterator[Result]:
    metadata = await _ask(client.grpc.get_server_metadata)
    state.server = None if metadata is None else str(metadata.version)
    names = model_names(target.model)
    # Readiness is asked, not the repository's index: it is open however much of the API is restricted.
    state.models = {name for name in names.values() if await _ask(client.grpc.is_model_ready, name)}
    state.acoustic = [names[engine] for engine in ("onnx", "tensorrt") if names[engine] in state.models]
    problem = ""
    try:
        if folder is not None:
            state.artifact = await asyncio.to_thread(artifacts.read, folder)
        else:
            found = await asyncio.to_thread(target.ask, "artifact")
            state.artifact = artifacts.parse(found["manifest"], found["references"])
    except (ArtifactError, ShellError) as error:
        problem = str(error)
    inside: dict[str, Any] | None = None
    try:
        inside = await asyncio.to_thread(target.ask, "versions")
    except ShellError as error:
        yield versions.judge(versions.record(state.server, None, target.image, state.artifact))
        yield versions.without_shell(str(error))
    else:
        yield versions.judge(versions.record(state.server, inside, target.image, state.artifact))
        yield versions.judge_flags(inside["flags"])
    if state.artifact is None:
        hint = "Give --artifact FOLDER, as model-builder fetch makes it, or rights to exec into pods."
        yield skipped("artifact", f"manifest and references cannot be read: {problem}", hint)


async def _placement(target: Target, client: Client, state: State) -> AsyncIterator[Result]:
    metrics = None
    try:
        metrics = await asyncio.to_thread(target.metrics)
    except MetricsError as error:
        yield skipped(placement.MEMORY, str(error))
    for acoustic in state.acoustic:
        config = await _ask(client.grpc.get_model_config, acoustic)
        if config is None:
            yield skipped(f"instance kind {acoustic}", "the server does not show the model's configuration")
            continue
        groups = config.config.instance_group
        kinds = [type(group).Kind.Name(group.kind) for group in groups]
        visible = placement.has_gpu(metrics)
        yield placement.judge_kind(acoustic, kinds, gpu=target.gpu, visible=visible)
    if not state.acoustic:
        hint = "Is the repository complete? asr doctor says what is missing."
        yield failed("instance kind", f"neither onnx_{target.model} nor tensorrt_{target.model} is served", hint)
    if metrics is not None:
        size = state.artifact.model_bytes if state.artifact else None
        yield placement.judge_memory(metrics, size, gpu=target.gpu)


async def _tokens(target: Target, client: Client, state: State, folder: Path | None) -> AsyncIterator[Result]:
    reason = "the artifact cannot be read"
    if state.artifact is not None:
        try:
            state.audio = await asyncio.to_thread(artifacts.check_audio, state.artifact, folder)
        except AudioMissingError as error:
            reason = str(error)
    state.speech = list(state.audio.signals) if state.audio else list(await asyncio.to_thread(artifacts.shipped_audio))
    for acoustic in state.acoustic:
        if state.audio is None or state.artifact is None:
            yield skipped(f"tokens {acoustic}", reason)
        else:
            served = await tokens.serve(client, target.model, acoustic, state.audio)
            limit = tokens.tolerance(state.artifact.precision, gpu=target.gpu)
            found = tokens.compare(state.artifact.references, served, limit)
            state.tied |= found.tied
            yield tokens.judge(acoustic, found, limit, files=len(served))
        # All classes of all steps are much to send: a few seconds suffice.
        piece = state.speech[0][: round(LOGPROBS_SECONDS * SAMPLE_RATE)]
        yield await tokens.check_logprobs(client, target.model, acoustic, piece)


async def _texts(target: Target, _client: Client, state: State) -> AsyncIterator[Result]:
    for model in _models(target, state):
        async with connect(target.url, model, tls=target.tls, timeout=REQUEST_SECONDS) as own:
            served = await texts.serve(own, state.speech, concurrency=CONCURRENCY)
        if model == target.model:
            state.rtfx = max(served.rtfx, 0.1)
            state.expected = [answer.text if isinstance(answer, Transcript) else "" for answer in served.answers]
        if state.audio is None or state.artifact is None:
            reason = "no audio and references of this artifact: see tokens above"
            yield skipped(f"texts {model}", reason, "Give --artifact FOLDER and --audio DIR.")
        else:
            yield texts.judge(model, state.artifact, state.audio, served.answers, state.tied)


def _models(target: Target, state: State) -> list[str]:
    """N and the ensembles that are served."""
    names = model_names(target.model)
    return [
        target.model,
        *(names[role] for role in ("ensemble", "ensemble_tensorrt") if names[role] in state.models),
    ]


async def _refusals(target: Target, _client: Client, state: State) -> AsyncIterator[Result]:
    longest = state.artifact.max_seconds if state.artifact else DEFAULT_MAX_SECONDS
    for model in _models(target, state):
        async with connect(target.url, model, tls=target.tls, timeout=REQUEST_SECONDS) as client:
            wire = client.encode(np.zeros(1, dtype=np.int16)).dtype
            name = {"int16": "INT16", "float32": "FP32", "float64": "FP64"}[wire.name]
            cases = refusals.cases(name, longest)
            before = await _refused(target)
            found = [await refusals.refuse(client, model, case) for case in cases]
            yield refusals.judge(f"refusals {model}", found)
            if model == target.model and before is not None:
                counted = (await _refused(target) or 0.0) - before
                yield refusals.judge_counted(counted, sum(case.by_model for case in cases))
            check = f"class_count {model}"
            if refusals.class_count_is_safe(state.server):
                case = refusals.Case("class_count on a text", np.zeros((1, SAMPLE_RATE), dtype=wire), class_count=1)
                yield refusals.judge(check, [await refusals.refuse(client, model, case)])
            else:
                yield refusals.class_count_skipped(check, state.server)


async def _refused(target: Target) -> float | None:
    """Requests that the scheduler has refused; None where the metrics cannot be read."""
    try:
        return (await settled(target))[0].refused
    except MetricsError:
        return None


async def _load(target: Target, client: Client, state: State) -> AsyncIterator[Result]:
    if not state.expected:
        yield skipped(load.LOAD, "the server has transcribed nothing before: see above")
        return
    chosen = load.choose(state.speech, state.rtfx)
    sent = [chosen[index % len(chosen)] for index in range(load.IN_FLIGHT)]
    signals = [state.speech[index] for index in sent]
    try:
        before: load.Counts | None = (await settled(target))[0]
    except MetricsError:
        before = None
    rows_before = await _rows(client, state)
    served = await texts.serve(client, signals, concurrency=load.IN_FLIGHT)
    state.loaded_rtfx = served.rtfx
    exact = state.artifact is None or (state.artifact.precision == "FP32" and not target.gpu)
    yield load.judge_load(sent, served.answers, state.expected, state.tied, exact=exact)
    good = [
        signal.size for signal, answer in zip(signals, served.answers, strict=True) if isinstance(answer, Transcript)
    ]
    if before is None:
        yield skipped(load.SUMS, "no metrics", "Give --metrics-url, such as http://localhost:8002/metrics.")
    else:
        after, stable = await settled(target)
        found = after.since(before)
        rows_after = await _rows(client, state)
        rows = None if rows_before is None or rows_after is None else rows_after - rows_before
        yield load.judge_sums(found, len(good), sum(good) / SAMPLE_RATE, rows, stable=stable)


async def settled(target: Target) -> tuple[load.Counts, bool]:
    """What the scheduler has counted, once its numbers, which lag behind by a tenth of a second, stand still.

    Returns:
        The counts, and whether they stand still; they do not while others send requests.

    Raises:
        MetricsError: The metrics cannot be read.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    last = await _counts(target)
    while True:
        await asyncio.sleep(POLL_SECONDS)
        now = await _counts(target)
        if now == last or time.monotonic() > deadline:
            return now, now == last
        last = now


async def _counts(target: Target) -> load.Counts:
    return load.counts(await asyncio.to_thread(target.metrics), target.model)


async def _rows(client: Client, state: State) -> int | None:
    """Rows that the acoustic models have computed, as Triton counts them."""
    found = await _ask(client.grpc.get_inference_statistics)
    if found is None:
        return None
    counted = server_statistics.parse(found)
    return sum(counted[name].inferences for name in state.acoustic if name in counted)


async def _performance(target: Target, client: Client, state: State) -> AsyncIterator[Result]:
    measurements = state.artifact.measurements if state.artifact else {}
    alone = performance.alone(measurements) if state.expected else None
    if alone is None:
        yield performance.judge_throughput(state.loaded_rtfx, {}, forwarded=target.forwarded, cpu_share=0.0)
        yield skipped(performance.LATENCY, performance.NO_MEASUREMENTS)
        return
    longest = min(performance.LONGEST_SECONDS, state.artifact.max_seconds if state.artifact else 0)
    ran = await bench.run(
        target.url,
        target.model,
        bench.random_lengths(state.speech, shortest=performance.SHORTEST_SECONDS, longest=longest, seed=0),
        tls=target.tls,
        concurrency=load.IN_FLIGHT,
        requests=bench.MAX_REQUESTS,
        seconds=performance.LOAD_SECONDS,
        warmup=load.IN_FLIGHT,
        timeout=REQUEST_SECONDS,
    )
    summary = bench.summarise(ran.answers, ran.wall_seconds)
    yield performance.judge_throughput(summary.rtfx, measurements, forwarded=target.forwarded, cpu_share=ran.cpu_share)
    seconds, milliseconds = alone
    p50 = await performance.latency(client, performance.joined(state.speech), seconds)
    yield performance.judge_latency(p50, milliseconds, seconds, forwarded=target.forwarded)


async def _cancellation(target: Target, client: Client, state: State) -> AsyncIterator[Result]:
    if not state.expected:
        yield skipped(cancellation.CHECK, "the server has transcribed nothing before: see above")
        return
    longest = float(state.artifact.max_seconds - 1) if state.artifact else LONGEST_CUT_SECONDS
    wanted = cancellation.BACKLOG_SECONDS * state.rtfx / cancellation.REQUESTS
    seconds = min(max(wanted, SHORTEST_CUT_SECONDS), longest, LONGEST_CUT_SECONDS)
    speech = performance.joined(state.speech)
    yield cancellation.judge(await cancellation.give_up(client, speech, seconds, partial(_counts, target)))


async def _memory(target: Target) -> AsyncIterator[Result]:
    try:
        found = await asyncio.to_thread(target.ask, "memory")
    except ShellError as error:
        yield skipped(memory.MEMORY, str(error))
        yield skipped(memory.SHARED, str(error))
        return
    yield memory.judge_memory(found)
    yield memory.judge_shared(found)


async def _ask(question: Callable[..., Awaitable[Any]], *arguments: str) -> Any:  # noqa: ANN401
    """The server's answer about itself; None where it does not say."""
    from tritonclient.utils import InferenceServerException  # noqa: PLC0415

    try:
        return await question(*arguments, client_timeout=ASK_SECONDS)
    except InferenceServerException:
        return None
