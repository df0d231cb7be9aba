"""Transcribe files: read, send, and hand back in the order given. Few are in memory at once, however many there are."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from asr_client import audio
from asr_client.transcription import Pcm, Tls, Transcript, TranscriptionError, connect, gather_bounded, is_lost
from asr_serving.tensors import SAMPLE_RATE

STDIN = "-"
STDIN_SHOWN = "standard input"
MAX_SECONDS = 3600.0
"""Longest audio that is unpacked: `asr bench` cuts utterances from it."""
MAX_SERVED_SECONDS = 600.0
"""No server takes more, where it does not tell what it takes."""
SECONDS_IN_MEMORY = 3600.0
"""Audio of all files that are read or in flight; 115 MB, and gRPC makes copies of it."""


@dataclass(frozen=True, slots=True)
class FileResult:
    """What came of one file.

    Attributes:
        file: As it was given; `-` for standard input.
        seconds: Length of its audio, None when it could not be read.
        transcript: None when it failed.
        error: Why it failed.
        retries: How often it was sent again, since the server was lost.
        sent: False when it was left out, since the server is gone.
    """

    file: str
    seconds: float | None = None
    transcript: Transcript | None = None
    error: str | None = None
    retries: int = 0
    sent: bool = True

    def to_json(self) -> dict[str, Any]:
        """One line of `asr transcribe --json`; times in seconds."""
        if self.transcript is None:
            return {"file": self.file, "error": self.error, "retries": self.retries}
        return {
            "file": self.file,
            "text": self.transcript.text,
            "confidence": round(self.transcript.confidence, 4),
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "words": [{"word": word.text, "start": word.start, "end": word.end} for word in self.transcript.words],
            "retries": self.retries,
        }


def read(file: str, *, max_seconds: float = MAX_SECONDS, channel: int | None = None) -> Pcm:
    """Read a file, or standard input for `-`: [L] int16 at 16 kHz.

    Args:
        file: Its path, or `-`.
        max_seconds: Longest audio that is unpacked.
        channel: As for `audio.read`.

    Raises:
        AudioFileError: Not audio, empty, longer than `max_seconds`, not readable, or more than memory holds.
    """
    try:
        return _read(file, max_seconds, channel)
    except MemoryError as error:
        raise audio.AudioFileError(f"{_shown(file)}: takes more memory than there is") from error


def _read(file: str, max_seconds: float, channel: int | None) -> Pcm:
    if not file:
        raise audio.AudioFileError("a file's name is empty")
    if file != STDIN:
        path = Path(file)
        if path.is_dir():
            raise audio.AudioFileError(f"{file}: is a folder; give files, such as {file.rstrip('/')}/*.wav")
        return audio.read(path, name=file, max_seconds=max_seconds, channel=channel)
    # None where the command was started with it closed.
    if sys.stdin is None or sys.stdin.isatty():
        state = "closed" if sys.stdin is None else "a terminal"
        raise audio.AudioFileError(f"{STDIN_SHOWN}: is {state}; pipe audio into it, such as: asr transcribe - < a.wav")
    return audio.read(sys.stdin.buffer, name=STDIN_SHOWN, max_seconds=max_seconds, channel=channel)


class AudioMemory:
    """A bound on the audio that is in memory, in seconds. It never refuses all: what is larger than it waits for it.

    Args:
        seconds: The bound.
    """

    def __init__(self, seconds: float) -> None:
        self._bound = self._free = seconds
        self._changed = asyncio.Condition()

    async def take(self, seconds: float) -> float:
        """Wait until so much is free; returns what was taken, to be given back."""
        taken = min(seconds, self._bound)
        async with self._changed:
            await self._changed.wait_for(lambda: self._free >= taken)
            self._free -= taken
        return taken

    async def give_back(self, seconds: float) -> None:
        """Free what was taken, or part of it."""
        async with self._changed:
            self._free += seconds
            self._changed.notify_all()


async def transcribe(
    url: str,
    model: str,
    files: Sequence[str],
    *,
    tls: Tls | None = None,
    concurrency: int = 64,
    timeout: float | None = None,  # noqa: ASYNC109 (of each request)
    retries: int = 0,
    channel: int | None = None,
    done: Callable[[FileResult], None] = lambda _result: None,
    in_order: Callable[[FileResult], None] = lambda _result: None,
) -> list[FileResult]:
    """Transcribe files, many at once, one a request. One that fails does not stop the others.

    But when one was sent again in vain, however often, and no other was answered meanwhile, the server is gone: files
    that are not under way then are left out.

    Args:
        url: Host and port of Triton's gRPC.
        model: The model.
        files: Paths, and `-` for standard input.
        tls: None for a server that speaks plain gRPC.
        concurrency: Requests in flight.
        timeout: Seconds that each request may take, however often it is sent; None for ever.
        retries: How often a request is sent again whose server is lost.
        channel: The one to take of each file, from 1, or `channels.MIX`; None for the average, unless it cancels.
        done: Called with each result as it arrives.
        in_order: Called with each result as soon as all files before it have theirs, too; when interrupted, with those
            that there are.

    Returns:
        A result for each file, in their order.

    Raises:
        ServerUnavailableError: No server there, or it does not serve the model.
    """
    found: dict[int, FileResult] = {}
    told = answered = 0
    gone = False
    # Not the loop's own threads: `asyncio.run` would wait for one that reads a FIFO, which nothing can end.
    threads = ThreadPoolExecutor()
    memory = AudioMemory(SECONDS_IN_MEMORY)

    async with connect(url, model, tls=tls, timeout=timeout, retries=retries) as client:
        # Asked first: what is too long is refused by its header, and not unpacked, resampled and sent before.
        max_seconds = await client.max_seconds() or MAX_SERVED_SECONDS
        reading = partial(read, max_seconds=max_seconds, channel=channel)

        async def one(index: int) -> None:
            nonlocal told, answered, gone
            file, seconds, lost = files[index], None, list[int]()  # answers that there were when it was sent again
            if gone:
                result = FileResult(file, error="not sent: the server is gone", sent=False)
            else:
                taken = await memory.take(max_seconds)
                try:
                    # Decoding and resampling take time; answers of the other requests must not wait for it.
                    signal = await asyncio.get_running_loop().run_in_executor(threads, reading, file)
                    seconds = signal.size / SAMPLE_RATE
                    await memory.give_back(taken - seconds)
                    taken = seconds
                    transcript = await client.transcribe(signal, again=lambda _error: lost.append(answered))
                    answered += 1
                    result = FileResult(file, seconds, transcript, retries=len(lost))
                except (audio.AudioFileError, TranscriptionError) as error:
                    gone = gone or (is_lost(error) and lost[:1] == [answered])
                    result = FileResult(file, seconds, error=_reason(file, error), retries=len(lost))
                finally:
                    await memory.give_back(taken)
            found[index] = result
            done(result)
            while told in found:
                in_order(found[told])
                told += 1

        try:
            await gather_bounded([partial(one, index) for index in range(len(files))], concurrency)
        except asyncio.CancelledError:
            for index in sorted(found):
                if index >= told:
                    in_order(found[index])
            raise
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
    return [found[index] for index in range(len(files))]


def _reason(file: str, error: Exception) -> str:
    """The message without the file's name in front: what tells it names the file itself."""
    return str(error).removeprefix(f"{_shown(file)}: ")


def _shown(file: str) -> str:
    return STDIN_SHOWN if file == STDIN else file
