"""The command `asr transcribe`."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr_cli.errors import NO_SERVER, SOME_FAILED, errors_reported
from asr_cli.options import (
    DEFAULT_MODEL,
    DEFAULT_RETRIES,
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
    tls_of,
)
from asr_cli.terminal import json_line, progress_bar, show_message

if TYPE_CHECKING:
    from asr_client.files import FileResult
    from asr_client.word_errors import WordErrors

FilesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE",
        help="WAV, FLAC, MP3, Ogg and others, any rate, any number of channels; - is standard input.",
    ),
]
ReferenceOption = Annotated[
    Path | None,
    typer.Option(
        help='Known texts, {"file.wav": {"text": "..."}} or a NeMo manifest: gives the word error rate at the end. '
        "Needs jiwer.",
        exists=True,
        dir_okay=False,
        show_default=False,
    ),
]
NormalizeOption = Annotated[
    bool,
    typer.Option(
        "--normalize",
        help="Count errors in words alone: neither case, punctuation nor symbols; numbers stay as they are.",
    ),
]


def transcribe(
    files: FilesArgument,
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
    reference: ReferenceOption = None,
    normalize: NormalizeOption = False,
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
    with errors_reported():
        references = None
        if reference is not None:
            word_errors.require()
            references = word_errors.load_references(reference)
        send = partial(
            client_files.transcribe,
            url,
            model,
            files,
            tls=tls_of(use_tls, tls_ca, tls_server_name),
            concurrency=concurrency,
            timeout=timeout,
            retries=retries,
            channel=channel_number(channel),
        )
        results = _send_with_progress(send, files, as_json=as_json)
        if references is not None:
            _show_word_errors(references, results, normalise=normalize, as_json=as_json)
        _exit_code(results, url)


def _send_with_progress(
    send: "Callable[..., Coroutine[Any, Any, list[FileResult]]]", files: Sequence[str], *, as_json: bool
) -> "list[FileResult]":
    """Transcribe, and print each result in the order of the files as soon as it is known."""
    aligned = sys.stdout.isatty()
    width = min(max(len(file) for file in files), 40) if aligned else None
    with progress_bar("transcribing", total=len(files)) as bar:

        def show(result: "FileResult") -> None:
            if not result.sent and not as_json:
                return  # all of them are reported in one line at the end
            line = result_line(result, as_json=as_json, width=width)
            # A bar and text on one terminal would overwrite each other: the text goes above the bar.
            if (bar.shown and aligned) or (result.transcript is None and not as_json):
                bar.console.print(line, markup=False, soft_wrap=True)
            else:
                typer.echo(line)

        return asyncio.run(send(done=lambda _result: bar.advance(), in_order=show))


def _show_word_errors(
    references: Mapping[str, str], results: "Sequence[FileResult]", *, normalise: bool, as_json: bool
) -> None:
    from asr_client import word_errors  # noqa: PLC0415

    texts = [(result.file, result.transcript.text) for result in results if result.transcript is not None]
    found, known = word_errors.of_files(references, texts, normalise=normalise)
    _print_word_errors(found, known, files=len(results), normalised=normalise, as_json=as_json)
    if not normalise and found is not None and not as_json:
        words, _ = word_errors.of_files(references, texts, normalise=True)
        if words is not None and words.errors < found.errors:
            show_message(f"{words.rate:.2%} without case and punctuation, with --normalize", kind="note")


def _print_word_errors(found: "WordErrors | None", known: int, *, files: int, normalised: bool, as_json: bool) -> None:
    if as_json:
        rate = None if found is None else found.rate
        errors, words = (0, 0) if found is None else (found.errors, found.words)
        counted = {"word_error_rate": rate, "errors": errors, "words": words, "files": known, "normalized": normalised}
        typer.echo(json.dumps(counted))
    elif found is None:
        typer.echo("word error rate: not known, no transcribed file is in the reference", err=True)
    else:
        text = f"{found.rate:.2%} ({found.errors} errors in {found.words} words of {known} of {files} files)"
        typer.echo(f"word error rate: {text}", err=True)


def _exit_code(results: "Sequence[FileResult]", url: str) -> None:
    """Report what was sent again or not at all, and exit with a code where something failed."""
    if again := [result for result in results if result.retries]:
        times = sum(result.retries for result in again)
        show_message(
            f"{len(again)} of {len(results)} files were sent again, {times} times in all: their server was lost",
            kind="note",
        )
    if unsent := sum(not result.sent for result in results):
        show_message(f"{unsent} of {len(results)} files were not sent: no server answers at {url} any more")
        raise typer.Exit(NO_SERVER)
    if any(result.transcript is None for result in results):
        raise typer.Exit(SOME_FAILED)


def result_line(result: "FileResult", *, as_json: bool, width: int | None) -> str:
    """One line; columns aligned to `width` characters of file name, or separated by tabs when None."""
    if as_json:
        return json_line(result.to_json())
    if result.transcript is None:
        return " ".join(f"{result.file}: {result.error}".splitlines())
    if width is not None:
        return f"{result.file:<{width}}  {result.transcript.confidence:.2f}  {result.transcript.text}"
    # A tab or a line break in a file's name would end its column.
    columns = (result.file, f"{result.transcript.confidence:.4f}", result.transcript.text)
    return "\t".join(" ".join(column.splitlines()).replace("\t", " ") for column in columns)
