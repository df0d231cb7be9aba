"""The command `asr bench`."""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_cli.errors import SOME_FAILED, WRONG_USAGE, errors_reported
from asr_cli.options import (
    DEFAULT_MODEL,
    DEFAULT_URL,
    Channel,
    Model,
    Retries,
    Timeout,
    TlsCa,
    TlsServerName,
    Url,
    UseTls,
    channel_number,
    file_to_write,
    tls_of,
)
from asr_cli.tables import latency_table, load_table, models_table
from asr_cli.terminal import new_console, progress_bar, show_message

if TYPE_CHECKING:
    from asr_client.bench import Run, Summary
    from asr_client.transcription import Pcm

RequestsOption = Annotated[
    int | None,
    typer.Option(min=1, max=1_000_000, help="Requests to send.", show_default="512, or no end with --seconds"),
]
SecondsOption = Annotated[
    float | None, typer.Option(min=0.1, max=86_400, help="Send none after this time.", show_default="no end")
]
AudioSecondsOption = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="MIN MAX",
        help="Send utterances of uniform random length, cut from the files' speech.",
        show_default="the files as they are",
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(help="Write one JSON record.", dir_okay=False, show_default=False, callback=file_to_write),
]
PlotOption = Annotated[
    Path | None,
    typer.Option(
        help="Draw latencies as PNG. Needs matplotlib.", dir_okay=False, show_default=False, callback=file_to_write
    ),
]


def bench(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Speech to send: WAV, FLAC, MP3, Ogg and others.")],
    *,
    url: Url = DEFAULT_URL,
    use_tls: UseTls = False,
    tls_ca: TlsCa = None,
    tls_server_name: TlsServerName = None,
    model: Model = DEFAULT_MODEL,
    concurrency: Annotated[int, typer.Option(min=1, max=4096, help="Clients: each has one request in flight.")] = 64,
    requests: RequestsOption = None,
    seconds: SecondsOption = None,
    audio_seconds: AudioSecondsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed sends the same utterances.")] = 0,
    warmup_requests: Annotated[int, typer.Option(min=0, max=100_000, help="Sent before, not measured.")] = 32,
    timeout: Timeout = 300.0,
    retries: Retries = 0,
    channel: Channel = None,
    output: OutputOption = None,
    plot: PlotOption = None,
) -> None:
    """Measure throughput, latency and batching under closed-loop load.

    Each client sends its next utterance when the last one is answered.
    RTFx is seconds of audio transcribed in a second.
    Batches and queues are Triton's own counts over the run.
    They include the requests of other clients.

    Example: asr bench --url localhost:8001 --concurrency 256 --audio-seconds 2 30 --requests 1024 *.wav

    Example: asr bench --seconds 60 --warmup-requests 64 --output results.json --plot results.png *.wav
    """
    from asr_client import bench as benchmark  # noqa: PLC0415
    from asr_client import plot as plotting  # noqa: PLC0415

    _check_lengths(audio_seconds)
    limit = requests or (512 if seconds is None else benchmark.MAX_REQUESTS)
    with errors_reported():
        if plot is not None:
            plotting.require()
        signals = _readable(files, channel_number(channel))
        utterances, longest = _utterances(signals, audio_seconds, seed)
        with progress_bar("sending", total=limit if requests or seconds is None else None) as bar:
            ran = asyncio.run(
                benchmark.run(
                    url,
                    model,
                    utterances,
                    tls=tls_of(use_tls, tls_ca, tls_server_name),
                    concurrency=concurrency,
                    requests=limit,
                    seconds=seconds,
                    warmup=warmup_requests,
                    timeout=timeout,
                    retries=retries,
                    longest=longest,
                    done=lambda _answer: bar.advance(),
                )
            )
        summary = benchmark.summarise(ran.answers, ran.wall_seconds)
        title = benchmark.case_name(model, concurrency, audio_seconds)
        _show(ran, summary, title=title)
        if output is not None:
            versions = benchmark.client_versions()
            case = benchmark.record(
                ran, summary, model=model, clients=concurrency, seed=seed, lengths=audio_seconds, versions=versions
            )
            output.write_text(json.dumps(case, indent=1) + "\n", encoding="utf-8")
        if plot is not None:
            plotting.save(ran.answers, plot, title=f"{title}   RTFx {summary.rtfx:.1f}")
        if summary.failed or len(signals) < len(files):
            raise typer.Exit(SOME_FAILED)


def _utterances(
    signals: "Sequence[Pcm]", lengths: tuple[float, float] | None, seed: int
) -> "tuple[Callable[[int], Pcm], float]":
    """The utterance of each number, and the length of the longest in seconds."""
    from asr_client import bench as benchmark  # noqa: PLC0415
    from asr_serving.tensors import SAMPLE_RATE  # noqa: PLC0415

    if lengths is None:
        return benchmark.whole_files(signals, seed=seed), max(signal.size for signal in signals) / SAMPLE_RATE
    shortest, longest = lengths
    return benchmark.random_lengths(signals, shortest=shortest, longest=longest, seed=seed), longest


def _readable(files: Sequence[str], channel: int | None) -> "list[Pcm]":
    """The audio of the files. A file that cannot be read is reported and left out."""
    from asr_client.audio import AudioFileError  # noqa: PLC0415
    from asr_client.bench import MAX_AUDIO_SECONDS  # noqa: PLC0415
    from asr_client.files import read  # noqa: PLC0415
    from asr_serving.tensors import SAMPLE_RATE  # noqa: PLC0415

    signals: list[Pcm] = []
    seconds = 0.0
    for file in files:
        try:
            signals.append(read(file, channel=channel))
        except AudioFileError as error:
            show_message(" ".join(str(error).splitlines()))
            continue
        seconds += signals[-1].size / SAMPLE_RATE
        if seconds > MAX_AUDIO_SECONDS:
            show_message(f"the files hold more than {MAX_AUDIO_SECONDS / 3600:g} h of audio, all in memory: give fewer")
            raise typer.Exit(WRONG_USAGE)
    if not signals:
        raise typer.Exit(SOME_FAILED)
    return signals


def _check_lengths(lengths: tuple[float, float] | None) -> None:
    low, high = 0.001, 3600.0
    if lengths is not None and not low <= lengths[0] <= lengths[1] <= high:
        raise typer.BadParameter(
            f"{lengths[0]:g} {lengths[1]:g}: give seconds, the shorter first, from {low:g} to {high:g}",
            param_hint="'--audio-seconds'",
        )


def _show(ran: "Run", summary: "Summary", *, title: str) -> None:
    # In a pipe rich would assume 80 columns and cut names short.
    console = new_console(width=None if sys.stdout.isatty() else 120)
    # Not as the table's title: that would be wrapped to the width of its two short columns.
    console.print(title, style="bold", markup=False, soft_wrap=True)
    console.print(load_table(ran, summary))
    if summary.latency is not None:
        console.print(latency_table(summary.latency, summary.by_length))
    if ran.models is None:
        console.print("Triton's statistics could not be read.")
    else:
        console.print(models_table(ran.models))
    limiting = 0.9
    if ran.cpu_share > limiting:
        show_message(f"this client used {ran.cpu_share:.0%} of a core: it may be what limits the load", kind="note")
    for message, times in list(summary.errors.items())[:5]:
        show_message(f"{times} requests failed: {message}")
