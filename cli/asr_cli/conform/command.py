"""A conformance run from its options to its report, for a server without Kubernetes."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from asr_cli.conform import kill, run
from asr_cli.conform import record as records
from asr_cli.conform.outcome import Outcome, Result, skipped
from asr_cli.conform.target import ShellError, Target, local_shell, no_shell, page_reader
from asr_client import bench
from asr_client.doctor import parse_address, stt_models
from asr_client.transcription import ServerUnavailableError, Tls, channel, connect

SERVER = "server"
NO_EXEC = "give --exec COMMAND, which runs a program beside the server, such as 'docker exec triton'"
NO_PODS = "only Kubernetes restarts containers and replaces pods"
ASK_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a run does.

    Attributes:
        artifact: Folder of the artifact; None reads it beside the server.
        audio: Folder of its check audio; None takes what comes with the package.
        kill: Whether to end processes and pods.
    """

    artifact: Path | None
    audio: Path | None
    kill: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Reports progress to the caller: `begun` with what is done now, `done` with a pool and one result of it."""

    begun: Callable[[str], None]
    done: Callable[[str, Result], None]


@dataclass(slots=True)
class Report:
    """All results, by the name of the pool."""

    model: str
    kill: bool
    results: dict[str, list[Result]] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return any(result.outcome is Outcome.FAIL for found in self.results.values() for result in found)

    def add(self, pool: str, result: Result, progress: Progress) -> None:
        """Keep a result, and report it."""
        self.results.setdefault(pool, []).append(result)
        progress.done(pool, result)

    def to_json(self, at: datetime) -> dict[str, Any]:
        """The record."""
        return records.record(self.results, model=self.model, kill=self.kill, versions=bench.client_versions(), at=at)


@dataclass(frozen=True, slots=True)
class Server:
    """A server without Kubernetes.

    Attributes:
        url: Host and port of its gRPC.
        metrics_url: Page of its metrics.
        execute: Command before a program that is to run beside it; empty where there is none.
        model: N; None for the only one.
        gpu: Whether it must run on a GPU; None where nothing says so.
    """

    url: str
    metrics_url: str | None
    execute: Sequence[str]
    model: str | None
    gpu: bool | None


async def of_server(server: Server, tls: Tls | None, options: Options, progress: Progress) -> Report:
    """Check one server.

    Raises:
        ServerUnavailableError: No server there, or it serves no model of this project, or several.
    """
    target = Target(
        name=SERVER,
        url=server.url,
        tls=tls,
        model=server.model or await only_model(server.url, tls),
        page=page_reader(server.metrics_url) if server.metrics_url else None,
        shell=local_shell(server.execute) if server.execute else no_shell(NO_EXEC),
        port=str(parse_address(server.url)[1]),
        gpu=server.gpu,
    )
    report = Report(target.model, options.kill)
    state = run.State()
    progress.begun(f"{target.model}: checks that change nothing")
    async for result in run.examine(target, artifact=options.artifact, audio=options.audio, state=state):
        report.add(SERVER, result, progress)
    if options.kill:
        report.add(SERVER, skipped(kill.STUB, NO_PODS), progress)
        report.add(SERVER, skipped(kill.DELETION, NO_PODS), progress)
        progress.begun(f"{target.model}: the server is ended under load")
        report.add(SERVER, await terminated(target, state), progress)
    return report


async def only_model(url: str, tls: Tls | None) -> str:
    """The one model N that a server has.

    Raises:
        ServerUnavailableError: No server there, or it has none or several.
    """
    from tritonclient.utils import InferenceServerException  # noqa: PLC0415

    async with channel(url, tls) as grpc:
        try:
            index = await grpc.get_model_repository_index(client_timeout=ASK_SECONDS)
        except InferenceServerException as error:
            raise ServerUnavailableError(
                f"{url} does not list its models: {error.message()}; asr doctor --url {url} says more, or give --model",
                error.status(),
            ) from error
    found = stt_models(entry.name for entry in index.models)
    if len(found) != 1:
        there = f"it serves {', '.join(found)}: choose one by --model" if found else "it serves none of this project's"
        raise ServerUnavailableError(f"{url} must have one model for speech recognition; {there}")
    return found[0]


async def terminated(target: Target, state: run.State) -> Result:
    """End the server by SIGTERM while requests wait."""
    if not state.expected:
        return skipped(kill.TERMINATION, "the server has transcribed nothing before: see above")

    async def terminate() -> None:
        await asyncio.to_thread(target.ask, "terminate")

    try:
        async with connect(target.url, target.model, tls=target.tls, timeout=run.REQUEST_SECONDS) as client:
            ended = await kill.end_under_load(client, state.speech, state.expected, terminate)
    except ShellError as error:
        return skipped(kill.TERMINATION, str(error))
    return kill.judge_termination(ended)
