"""The command `asr`."""

import asyncio
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from asr_client import __doc__ as description
from asr_contract.server import GRPC_PORT

if TYPE_CHECKING:
    # What these load is for the commands that need it: --help is quick, and works without the extra `client`.
    from asr_cli.conform.command import Options as ConformOptions
    from asr_cli.conform.command import Progress as ConformProgress
    from asr_cli.conform.command import Report as ConformReport
    from asr_cli.conform.outcome import Result as CheckResult
    from asr_client.bench import Latency, Run, Summary
    from asr_client.files import FileResult
    from asr_client.server_statistics import Statistics
    from asr_client.transcription import Pcm, Tls
    from asr_client.word_errors import WordErrors
    from asr_contract.findings import Finding
    from asr_operator.diagnose.plans import Plan

SOME_FAILED = 1
WRONG_USAGE = 2
NO_SERVER = 3
INTERRUPTED = 130
CLIENT_PACKAGES = {"google", "grpc", "numpy", "soundfile", "soxr", "tenacity", "tritonclient"}
"""What the extra `client` brings; `kubernetes` brings them, too, and all else that this command needs."""

app = typer.Typer(
    name="asr",
    help=f"{description}\n\nStart with `asr doctor --url HOST:PORT`, or `asr doctor asr/NAME` for what the operator "
    "serves. Exit codes: 0 success, 1 a file, a request or a "
    "check failed, 2 wrong usage or a package missing, 3 no server there (any more) or it does not serve the model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _address(value: str) -> str:
    from asr_client.doctor import parse_address  # noqa: PLC0415 (numpy)

    try:
        parse_address(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return value


def _optional_address(value: str | None) -> str | None:
    return None if value is None else _address(value)


def _file_to_write(value: Path | None) -> Path | None:
    """Told before the load, not after it."""
    if value is not None and not value.resolve().parent.is_dir():
        raise typer.BadParameter(f"the folder {value.resolve().parent} does not exist")
    return value


def _authorities(value: Path | None) -> Path | None:
    """Told here: gRPC would write eight lines of its own about each connection."""
    import ssl  # noqa: PLC0415

    if value is not None:
        try:
            ssl.create_default_context(cafile=value)
        except ssl.SSLError as error:
            raise typer.BadParameter(f"{value} holds no certificate in PEM") from error
    return value


def _tls(asked: bool, authorities: Path | None, server_name: str | None) -> "Tls | None":
    from asr_client.transcription import Tls  # noqa: PLC0415 (numpy)

    if not asked and authorities is None and server_name is None:
        return None
    return Tls(authorities, server_name)


DEFAULT_URL = f"localhost:{GRPC_PORT}"
DEFAULT_MODEL = "english_stt"
DEFAULT_RETRIES = 6
"""Their pauses take 12 s on average, 24 at most: other pods answer sooner, one that starts again later."""
Url = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        help="Triton's gRPC. A name of several addresses, such as NAME-headless, is balanced over them.",
        callback=_address,
    ),
]
UseTls = Annotated[bool, typer.Option("--tls", help="Speak TLS, as an AsrDeployment with service.tlsSecretRef does.")]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Speak TLS, and trust the authorities of this PEM file.",
        show_default="those that ship with gRPC",
        exists=True,
        dir_okay=False,
        readable=True,
        callback=_authorities,
    ),
]
TlsServerName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Speak TLS, and expect a certificate for this name, as through a port-forward.",
        show_default="the address's",
    ),
]
Model = Annotated[str, typer.Option(help="The model: N, or ensemble_N to go through Triton's own batcher.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds that a request may take, however often it is sent.")]
Retries = Annotated[
    int,
    typer.Option(
        min=0,
        max=100,
        help="How often a request is sent again whose server is lost, after growing pauses of up to 8 s. One that the "
        "server refuses or is too slow for is not.",
    ),
]


def _channel(value: str | None) -> str | None:
    from asr_client import channels  # noqa: PLC0415 (numpy)

    if value is not None:
        try:
            channels.parse(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return value


def _channel_number(value: str | None) -> int | None:
    from asr_client import channels  # noqa: PLC0415

    return None if value is None else channels.parse(value)


Channel = Annotated[
    str | None,
    typer.Option(
        metavar="left|right|1..N|mix",
        help="The channel to take of files that have several; mix is their average.",
        show_default="mix, but an error where channels cancel each other",
        callback=_channel,
    ),
]


@app.command()
def transcribe(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="WAV, FLAC, MP3, Ogg and others, any rate, any number of channels; - is standard input.",
        ),
    ],
    *,
    url: Url = DEFAULT_URL,
    use_tls: UseTls = False,
    tls_ca: TlsCa = None,
    tls_server_name: TlsServerName = None,
    model: Model = DEFAULT_MODEL,
    concurrency: Annotated[int, typer.Option(min=1, max=4096, help="Requests in flight.")] = 64,
    timeout: Timeout = 300.0,
    retries: Retries = DEFAULT_RETRIES,
    channel: Channel = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help='Known texts, {"file.wav": {"text": "..."}} or a NeMo manifest: gives the word error rate at the end. '
            "Needs jiwer.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize",
            help="Count errors in words alone: neither case, punctuation nor symbols; numbers stay as they are.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with the times of words.")] = False,
) -> None:
    """Transcribe audio files.

    Prints file, confidence (0 to 1) and text of each, in the order given.
    Columns are separated by tabs when piped.
    A file that fails is reported on standard error, or as "error" with --json.
    The other files are still sent.

    Example: asr transcribe --url localhost:8001 --model english_stt *.wav

    Example: asr transcribe --reference manifest.json --normalize *.flac

    Example: ffmpeg -i talk.mp4 -f wav - | asr transcribe --json -
    """
    from asr_client import files as client_files  # noqa: PLC0415
    from asr_client import word_errors  # noqa: PLC0415

    if normalize and reference is None:
        raise typer.BadParameter("it needs the known texts: --reference FILE", param_hint="'--normalize'")
    with _errors_told():
        references = None
        if reference is not None:
            word_errors.require()
            references = word_errors.load_references(reference)
        aligned = sys.stdout.isatty()
        width = min(max(len(file) for file in files), 40) if aligned else None
        with _bar("transcribing", total=len(files)) as bar:

            def tell(result: "FileResult") -> None:
                if not result.sent and not as_json:
                    return  # told once, below
                line = _result_line(result, as_json=as_json, width=width)
                # A bar and text on one terminal would overwrite each other: the text goes above the bar.
                if (bar.shown and aligned) or (result.transcript is None and not as_json):
                    bar.console.print(line, markup=False, soft_wrap=True)
                else:
                    typer.echo(line)

            results = asyncio.run(
                client_files.transcribe(
                    url,
                    model,
                    files,
                    tls=_tls(use_tls, tls_ca, tls_server_name),
                    concurrency=concurrency,
                    timeout=timeout,
                    retries=retries,
                    channel=_channel_number(channel),
                    done=lambda _result: bar.advance(),
                    in_order=tell,
                )
            )
        if references is not None:
            _show_word_errors(references, results, normalise=normalize, as_json=as_json)
        _end_transcription(results, url)


def _show_word_errors(
    references: Mapping[str, str], results: "Sequence[FileResult]", *, normalise: bool, as_json: bool
) -> None:
    from asr_client import word_errors  # noqa: PLC0415

    texts = [(result.file, result.transcript.text) for result in results if result.transcript is not None]
    found, known = word_errors.of_files(references, texts, normalise=normalise)
    _tell_word_errors(found, known, files=len(results), normalised=normalise, as_json=as_json)
    if not normalise and found is not None and not as_json:
        words, _ = word_errors.of_files(references, texts, normalise=True)
        if words is not None and words.errors < found.errors:
            _tell_error(f"{words.rate:.2%} without case and punctuation, with --normalize", kind="note")


def _end_transcription(results: "Sequence[FileResult]", url: str) -> None:
    """Say what was sent again or not at all, and exit with a code where something failed."""
    if again := [result for result in results if result.retries]:
        times = sum(result.retries for result in again)
        _tell_error(
            f"{len(again)} of {len(results)} files were sent again, {times} times in all: their server was lost",
            kind="note",
        )
    if unsent := sum(not result.sent for result in results):
        _tell_error(f"{unsent} of {len(results)} files were not sent: no server answers at {url} any more")
        raise typer.Exit(NO_SERVER)
    if any(result.transcript is None for result in results):
        raise typer.Exit(SOME_FAILED)


def _result_line(result: "FileResult", *, as_json: bool, width: int | None) -> str:
    """One line; columns aligned to `width` characters of file name, or separated by tabs when None."""
    if as_json:
        return _json_line(result.to_json())
    if result.transcript is None:
        return " ".join(f"{result.file}: {result.error}".splitlines())
    if width is not None:
        return f"{result.file:<{width}}  {result.transcript.confidence:.2f}  {result.transcript.text}"
    # A tab or a line break in a file's name would end its column.
    columns = (result.file, f"{result.transcript.confidence:.4f}", result.transcript.text)
    return "\t".join(" ".join(column.splitlines()).replace("\t", " ") for column in columns)


def _json_line(value: Mapping[str, object]) -> str:
    """One JSON object a line, in ASCII where standard output has not all letters."""
    return json.dumps(value, ensure_ascii=not str(getattr(sys.stdout, "encoding", "utf-8")).lower().startswith("utf"))


def _tell_word_errors(found: "WordErrors | None", known: int, *, files: int, normalised: bool, as_json: bool) -> None:
    if as_json:
        rate = None if found is None else found.rate
        errors, words = (0, 0) if found is None else (found.errors, found.words)
        counted = {"word_error_rate": rate, "errors": errors, "words": words, "files": known, "normalized": normalised}
        typer.echo(json.dumps(counted))
    elif found is None:
        typer.echo("word error rate: not known, no transcribed file is in the reference", err=True)
    else:
        told = f"{found.rate:.2%} ({found.errors} errors in {found.words} words of {known} of {files} files)"
        typer.echo(f"word error rate: {told}", err=True)


@app.command()
def bench(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Speech to send: WAV, FLAC, MP3, Ogg and others.")],
    *,
    url: Url = DEFAULT_URL,
    use_tls: UseTls = False,
    tls_ca: TlsCa = None,
    tls_server_name: TlsServerName = None,
    model: Model = DEFAULT_MODEL,
    concurrency: Annotated[int, typer.Option(min=1, max=4096, help="Clients: each has one request in flight.")] = 64,
    requests: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Requests to send.", show_default="512, or no end with --seconds"),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, max=86_400, help="Send none after this time.", show_default="no end")
    ] = None,
    audio_seconds: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="MIN MAX",
            help="Send utterances of uniform random length, cut from the files' speech.",
            show_default="the files as they are",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed sends the same utterances.")] = 0,
    warmup_requests: Annotated[int, typer.Option(min=0, max=100_000, help="Sent before, not measured.")] = 32,
    timeout: Timeout = 300.0,
    retries: Retries = 0,
    channel: Channel = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write one JSON record.", dir_okay=False, show_default=False, callback=_file_to_write),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw latencies as PNG. Needs matplotlib.", dir_okay=False, show_default=False, callback=_file_to_write
        ),
    ] = None,
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
    from asr_serving.tensors import SAMPLE_RATE  # noqa: PLC0415

    _check_lengths(audio_seconds)
    limit = requests or (512 if seconds is None else benchmark.MAX_REQUESTS)
    with _errors_told():
        if plot is not None:
            plotting.require()
        signals = _readable(files, _channel_number(channel))
        utterances = (
            benchmark.whole_files(signals, seed=seed)
            if audio_seconds is None
            else benchmark.random_lengths(signals, shortest=audio_seconds[0], longest=audio_seconds[1], seed=seed)
        )
        with _bar("sending", total=limit if requests or seconds is None else None) as bar:
            ran = asyncio.run(
                benchmark.run(
                    url,
                    model,
                    utterances,
                    tls=_tls(use_tls, tls_ca, tls_server_name),
                    concurrency=concurrency,
                    requests=limit,
                    seconds=seconds,
                    warmup=warmup_requests,
                    timeout=timeout,
                    retries=retries,
                    longest=max(signal.size for signal in signals) / SAMPLE_RATE
                    if audio_seconds is None
                    else audio_seconds[1],
                    done=lambda _answer: bar.advance(),
                )
            )
        summary = benchmark.summarise(ran.answers, ran.wall_seconds)
        _show_bench(ran, summary, title=benchmark.case_name(model, concurrency, audio_seconds))
        if output is not None:
            case = benchmark.record(
                ran,
                summary,
                model=model,
                clients=concurrency,
                seed=seed,
                lengths=audio_seconds,
                versions=benchmark.client_versions(),
            )
            output.write_text(json.dumps(case, indent=1) + "\n", encoding="utf-8")
        if plot is not None:
            title = f"{benchmark.case_name(model, concurrency, audio_seconds)}   RTFx {summary.rtfx:.1f}"
            plotting.save(ran.answers, plot, title=title)
        if summary.failed or len(signals) < len(files):
            raise typer.Exit(SOME_FAILED)


def _readable(files: Sequence[str], channel: int | None) -> "list[Pcm]":
    """The audio of the files; what cannot be read is said of each, and left out."""
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
            _tell_error(" ".join(str(error).splitlines()))
            continue
        seconds += signals[-1].size / SAMPLE_RATE
        if seconds > MAX_AUDIO_SECONDS:
            _tell_error(f"the files hold more than {MAX_AUDIO_SECONDS / 3600:g} h of audio, all in memory: give fewer")
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


def _show_bench(ran: "Run", summary: "Summary", *, title: str) -> None:
    # In a pipe rich would assume 80 columns and cut names short.
    console = _console(width=None if sys.stdout.isatty() else 120)
    # Not as the table's title: that would be wrapped to the width of its two short columns.
    console.print(title, style="bold", markup=False, soft_wrap=True)
    console.print(_load_table(ran, summary))
    if summary.latency is not None:
        console.print(_latency_table(summary.latency, summary.by_length))
    if ran.models is None:
        console.print("Triton's statistics could not be read.")
    else:
        console.print(_models_table(ran.models))
    limiting = 0.9
    if ran.cpu_share > limiting:
        _tell_error(f"this client used {ran.cpu_share:.0%} of a core: it may be what limits the load", kind="note")
    for message, times in list(summary.errors.items())[:5]:
        _tell_error(f"{times} requests failed: {message}")


def _load_table(ran: "Run", summary: "Summary") -> Table:
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(justify="right")
    rows = {
        "requests": f"{summary.requests}",
        "failed": f"[red]{summary.failed}[/]" if summary.failed else "0",
        "sent again": f"[yellow]{summary.retried}[/]" if summary.retried else "0",
        "audio seconds": f"{summary.audio_seconds:.1f}",
        "wall seconds": f"{summary.wall_seconds:.2f}",
        "RTFx": f"[bold]{summary.rtfx:.1f}[/]",
        "requests/s": f"{summary.requests_per_second:.1f}",
        "client CPU": f"{ran.cpu_share:.0%}",
    }
    acoustic = ran.acoustic_statistics
    if acoustic is not None:
        rows["acoustic mean batch"] = _number(acoustic.mean_batch, digits=2)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _latency_table(overall: "Latency", by_length: Mapping[str, "Latency"]) -> Table:
    table = Table(title="Latency in ms, by length of audio", title_justify="left")
    for column in ("audio", "requests", "mean", "p50", "p90", "p95", "p99"):
        table.add_column(column, justify="left" if column == "audio" else "right")
    for name, latency in {"all": overall, **by_length}.items():
        table.add_row(
            f"{name} {latency.shortest_s:.1f}-{latency.longest_s:.1f} s",
            str(latency.requests),
            f"{latency.mean_ms:.1f}",
            *(f"{value:.1f}" for value in latency.percentiles_ms.values()),
        )
    return table


def _models_table(models: "Statistics") -> Table:
    table = Table(title="Triton's statistics over the run", title_justify="left")
    table.add_column("model", no_wrap=True)
    for column in ("inferences", "executions", "mean batch", "queue ms", "compute ms", "failed"):
        table.add_column(column, justify="right")
    for name, counted in sorted(models.items()):
        table.add_row(
            name,
            str(counted.inferences),
            str(counted.executions),
            _number(counted.mean_batch, digits=2),
            _number(counted.queue.mean_ms, digits=1),
            _number(counted.compute.mean_ms, digits=1),
            str(counted.failed),
        )
    return table


def _number(value: float | None, *, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Its namespace.", show_default="that of your kubeconfig")
]
Context = Annotated[
    str | None, typer.Option(help="Context of your kubeconfig.", show_default="the current one", metavar="NAME")
]


@app.command()
def doctor(
    resource: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="An AsrDeployment of your cluster: english or asr/english."),
    ] = None,
    *,
    # No check of its form here: doctor tells it as a finding, with a hint.
    url: Annotated[str, typer.Option(metavar="HOST:PORT", help="Triton's gRPC.")] = DEFAULT_URL,
    use_tls: UseTls = False,
    tls_ca: TlsCa = None,
    tls_server_name: TlsServerName = None,
    model: Annotated[
        str | None, typer.Option(help="The model to check.", show_default="all of this project's that are served")
    ] = None,
    http_url: Annotated[
        str | None,
        typer.Option(help="Triton's HTTP, such as http://localhost:8000: checked, too.", show_default=False),
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line for each check.")] = False,
) -> None:
    """Check an AsrDeployment, or a server, step by step: what is wrong, and what to do.

    With a NAME: what the operator has built, what is missing, why it is not Ready.
    It reads the cluster of your kubeconfig, and writes nothing.

    Without: a server, from its address over models and tensors to answers and statistics.

    Exit code 1 when a check failed; warnings alone give 0.

    Example: asr doctor asr/english -n speech

    Example: asr doctor --url localhost:8001 --model english_stt --http-url http://localhost:8000
    """
    if resource is not None:
        _doctor_of_resource(_resource_name(resource), namespace, context, as_json=as_json)
        return
    from asr_client import doctor as checks  # noqa: PLC0415

    tls = _tls(use_tls, tls_ca, tls_server_name)

    async def all_checks() -> bool:
        well = True
        async for finding in checks.examine(url, tls=tls, model=model, http_url=http_url):
            well = _tell_finding(finding, as_json=as_json) and well
        return well

    with _errors_told():
        if not asyncio.run(all_checks()):
            raise typer.Exit(SOME_FAILED)


def _tell_finding(finding: "Finding", *, as_json: bool) -> bool:
    """Print what a check found; returns whether it is well."""
    from asr_contract.findings import Outcome  # noqa: PLC0415

    well = finding.outcome is not Outcome.FAILED
    if as_json:
        typer.echo(_json_line(finding.to_json()))
        return well
    marks = {Outcome.OK: "[green]✓[/]", Outcome.WARNING: "[yellow]![/]", Outcome.FAILED: "[red]✗[/]"}
    console = _console()
    console.print(f"{marks[finding.outcome]} {finding.check:<10} {escape(finding.message)}", soft_wrap=True)
    if finding.hint:
        console.print(f"             [dim]→[/] {escape(finding.hint)}", soft_wrap=True)
    return well


def _resource_name(value: str) -> str:
    kind, slash, name = value.rpartition("/")
    if slash and kind not in {"asr", "asrdeployment", "asrdeployments"}:
        raise typer.BadParameter(f"{value}: write the name of an AsrDeployment, such as asr/english", param_hint="NAME")
    if ":" in name:
        raise typer.BadParameter(f"{value}: a server's address is given as --url {value}", param_hint="NAME")
    return name


def _doctor_of_resource(name: str, namespace: str | None, context: str | None, *, as_json: bool) -> None:
    from asr_contract.findings import Finding, Outcome  # noqa: PLC0415
    from asr_operator.diagnose import explain  # noqa: PLC0415 (the cluster's packages)
    from asr_operator.diagnose.reader import Cluster, ClusterError  # noqa: PLC0415

    try:
        cluster = Cluster(context)
        found = cluster.snapshot(namespace or cluster.namespace, name)
    except ClusterError as error:
        _tell_finding(Finding("cluster", Outcome.FAILED, str(error)), as_json=as_json)
        raise typer.Exit(SOME_FAILED) from error
    outcomes = [_tell_finding(finding, as_json=as_json) for finding in explain.examine(found, datetime.now(UTC))]
    if not all(outcomes):
        raise typer.Exit(SOME_FAILED)


@app.command()
def plans(
    resource: Annotated[
        str | None, typer.Argument(metavar="NAME", help="An AsrDeployment.", show_default="all of the namespace")
    ] = None,
    *,
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")] = False,
    context: Context = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line for each pool.")] = False,
) -> None:
    """Show which TensorRT plans there are: for each pool its GPU, the TensorRT version, and how far its plan is.

    A plan runs on the GPU product and the TensorRT version that built it, and on no other.
    A pool without its plan serves ONNX until then, unless spec.engine.fallback is None.
    Exit code 1 when a plan failed.

    Example: asr plans english -n speech
    """
    from asr_operator.diagnose import plans as planning  # noqa: PLC0415 (the cluster's packages)
    from asr_operator.diagnose.reader import Cluster, ClusterError  # noqa: PLC0415

    try:
        cluster = Cluster(context)
        where = None if all_namespaces else namespace or cluster.namespace
        if resource is not None:
            names = [(where or cluster.namespace, _resource_name(resource))]
        else:
            metadata = [item["metadata"] for item in cluster.resources(where)]
            names = [(item["namespace"], item["name"]) for item in metadata]
        found = [plan for each in names for plan in planning.plans(cluster.snapshot(*each))]
    except ClusterError as error:
        _tell_error(str(error))
        raise typer.Exit(SOME_FAILED) from error
    if as_json:
        for plan in found:
            typer.echo(_json_line(plan.to_json()))
    elif found:
        _console(width=None if sys.stdout.isatty() else 240).print(_plans_table(found))
    else:
        _tell_error(
            f"there is no AsrDeployment in {'the cluster' if where is None else f'namespace {where}'}", kind="note"
        )
    if any(plan.state is planning.State.FAILED for plan in found):
        raise typer.Exit(SOME_FAILED)


def _plans_table(found: "Sequence[Plan]") -> Table:
    table = Table(box=None)
    for column in ("resource", "pool", "GPU", "capability", "TensorRT", "plan", "serves"):
        table.add_column(column, no_wrap=True)
    table.add_column("")
    colours = {"published": "green", "failed": "red", "building": "yellow", "waiting": "yellow", "missing": "yellow"}
    for plan in found:
        state = f"[{colours[plan.state]}]{plan.state}[/]" if plan.state in colours else plan.state.value
        cells = (plan.resource, plan.pool, plan.gpu, plan.compute_capability, plan.tensorrt)
        table.add_row(*(escape(cell or "-") for cell in cells), state, plan.serves or "nothing", escape(plan.note))
    return table


@app.command()
def conform(
    resource: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="An AsrDeployment of your cluster: english or asr/english."),
    ] = None,
    *,
    namespace: Namespace = None,
    context: Context = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Triton's gRPC, without Kubernetes.",
            callback=_optional_address,
            show_default=False,
        ),
    ] = None,
    metrics_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="With --url: its metrics, http://HOST:8002/metrics.", show_default=False),
    ] = None,
    execute: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="COMMAND",
            help="With --url: what runs a program beside the server, such as 'docker exec triton'.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --url: the model N.", show_default="the only one that is served")
    ] = None,
    gpu: Annotated[
        bool | None,
        typer.Option(
            "--gpu/--no-gpu", help="With --url: the model must run on a GPU.", show_default="as the metrics show"
        ),
    ] = None,
    artifact: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The artifact, as model-builder fetch makes it.",
            show_default="read beside the server",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The check audio that the artifact was built with (spec.acceptance.audio).",
            show_default="what comes with the package",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    use_tls: UseTls = False,
    tls_ca: TlsCa = None,
    tls_server_name: TlsServerName = None,
    kill: Annotated[
        bool, typer.Option("--kill", help="End processes and pods, too: requests of other clients may fail.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write one JSON file, fit for an issue: no addresses, keys, audio or texts. - prints it.",
            dir_okay=False,
            show_default=False,
            callback=_file_to_write,
        ),
    ] = None,
) -> None:
    """Check that a server does on its own hardware and image what this project promises.

    Versions, texts and tokens against the checkpoint's own, GPU really in use,
    refusals, 256 requests in flight, metrics, clients that give up, memory.
    A plan's speed against what its build measured.

    It takes a minute or two, and loads the server: not while users wait.
    Without --kill nothing is changed. With it, a Python process of Triton is killed,
    the server is ended, and a pod is deleted, under load.

    With a NAME it checks one pod of each pool. It needs the role view, and
    create on pods/portforward and pods/exec (with --kill: delete on pods).
    What you may not do is skipped, with the reason.

    Exit codes: 0 nothing failed, 1 a check failed, 2 wrong usage, 3 no server.

    Example: asr conform asr/english -n speech --output conformance.json

    Example: asr conform --url localhost:8001 --metrics-url http://localhost:8002/metrics --exec 'docker exec triton'
    """
    from asr_cli.conform import command  # noqa: PLC0415

    if (resource is None) == (url is None):
        raise typer.BadParameter("give either the NAME of an AsrDeployment or --url HOST:PORT", param_hint="NAME")
    if resource is not None and (metrics_url or execute or model or gpu is not None):
        raise typer.BadParameter("--metrics-url, --exec, --model and --gpu go with --url", param_hint="NAME")
    tls = _tls(use_tls, tls_ca, tls_server_name)
    options = command.Options(artifact=artifact, audio=audio, kill=kill)
    console = _console(stderr=True)
    with _errors_told():
        with console.status("conformance") as status:

            def begun(what: str) -> None:
                status.update(escape(what))

            def done(pool: str, result: "CheckResult") -> None:
                # A run takes minutes, and in a log a table at its end alone would look like a hang.
                if console.is_terminal:
                    status.update(f"last: {_conform_line(pool, result)}")
                else:
                    console.print(_conform_line(pool, result), soft_wrap=True)

            progress = command.Progress(begun, done)
            if url is not None:
                server = command.Server(url, metrics_url, shlex.split(execute or ""), model, gpu)
                report = asyncio.run(command.of_server(server, tls, options, progress))
            else:
                name = _resource_name(resource or "")
                report = _conform_resource(name, namespace, context, tls=tls, options=options, progress=progress)
        printed = output is not None and str(output) == "-"
        terminal = (sys.stderr if printed else sys.stdout).isatty()
        _console(stderr=printed, width=None if terminal else 200).print(_conform_table(report.results))
        record = json.dumps(report.to_json(datetime.now(UTC)), indent=1)
        if printed:
            typer.echo(record)
        elif output is not None:
            output.write_text(f"{record}\n", encoding="utf-8")
        if report.failed:
            raise typer.Exit(SOME_FAILED)


def _conform_resource(
    name: str,
    namespace: str | None,
    context: str | None,
    *,
    tls: "Tls | None",
    options: "ConformOptions",
    progress: "ConformProgress",
) -> "ConformReport":
    from asr_cli.conform import resource  # noqa: PLC0415
    from asr_operator.diagnose.reader import Cluster, ClusterError  # noqa: PLC0415 (the cluster's packages)

    try:
        cluster = Cluster(context)
        return resource.conform(
            cluster, namespace or cluster.namespace, name, tls=tls, options=options, progress=progress
        )
    except ClusterError as error:
        _tell_error(str(error))
        raise typer.Exit(NO_SERVER) from error


OUTCOME_COLOURS = {"pass": "green", "fail": "red", "skipped": "yellow"}


def _conform_line(pool: str, result: "CheckResult") -> str:
    colour = OUTCOME_COLOURS[result.outcome.value]
    return f"[{colour}]{result.outcome.value:<7}[/] {escape(pool)}  {escape(result.check)}: {escape(result.message)}"


def _conform_table(results: "Mapping[str, Sequence[CheckResult]]") -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("pool", "check", "outcome"):
        table.add_column(column, no_wrap=True)
    table.add_column("what was found, and what to do", overflow="fold")
    for pool, found in results.items():
        for result in found:
            colour = OUTCOME_COLOURS[result.outcome.value]
            hint = f" [dim]→[/] {escape(result.hint)}" if result.hint else ""
            text = "\n".join(
                [escape(result.message) + hint, *(f"  {escape(line)}" for line in result.details.splitlines())]
            )
            table.add_row(escape(pool), escape(result.check), f"[{colour}]{result.outcome.value}[/]", text)
    return table


def _console(*, stderr: bool = False, width: int | None = None) -> Console:
    # Without emoji: rich would make one of `:b:` in an address or in a file's name.
    return Console(stderr=stderr, width=width, highlight=False, emoji=False)


@dataclass(frozen=True, slots=True)
class _Bar:
    """A progress bar.

    Attributes:
        advance: One more is done.
        shown: Whether there is anything to see.
        console: Standard error: what is printed here stands above the bar.
    """

    advance: Callable[[], None]
    shown: bool
    console: Console


@contextmanager
def _bar(name: str, *, total: int | None) -> Iterator[_Bar]:
    """A progress bar on standard error if that is a terminal."""
    console = _console(stderr=True)
    columns = (TextColumn(name), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
    # Without redirection: rich would send a piped standard output to the terminal, above the bar.
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        task = progress.add_task(name, total=total)
        yield _Bar(lambda: progress.advance(task), console.is_terminal, console)


def _tell_error(message: str, *, kind: str = "error") -> None:
    colour = "red" if kind == "error" else "yellow"
    _console(stderr=True).print(f"[{colour}]{kind}:[/] {escape(message)}", soft_wrap=True)


@contextmanager
def _errors_told() -> Iterator[None]:
    """Tell what a user can do something about in one line, and exit with its code."""
    from asr_client.plot import PlottingMissingError  # noqa: PLC0415
    from asr_client.transcription import AudioTooLongError, ServerUnavailableError  # noqa: PLC0415
    from asr_client.word_errors import WordErrorsError  # noqa: PLC0415

    try:
        yield
    except ServerUnavailableError as error:
        _tell_error(str(error))
        raise typer.Exit(NO_SERVER) from error
    except (PlottingMissingError, WordErrorsError, AudioTooLongError) as error:
        _tell_error(str(error))
        raise typer.Exit(WRONG_USAGE) from error
    except KeyboardInterrupt:
        # At once: Python would wait for threads that read, such as a FIFO that nobody writes to.
        with suppress(OSError):
            print(end="", flush=True)  # noqa: T201 (also where standard output is closed)
        os._exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader has what it wanted, such as `head`: typer ends quietly.
        raise
    except OSError as error:
        _tell_error(str(error))
        raise typer.Exit(SOME_FAILED) from error


def main() -> None:
    """Entry point."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A letter that the terminal's encoding has not must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = "client" if package in CLIENT_PACKAGES else "kubernetes"
        _tell_error(f"{error.name} is not installed: pip install '.[{extra}]' in the project's folder")
        sys.exit(WRONG_USAGE)


if __name__ == "__main__":
    main()
