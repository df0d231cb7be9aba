"""Texts that a model gives for the check audio, against the checkpoint's own."""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_cli.conform.artifact import Artifact, CheckAudio
from asr_cli.conform.outcome import Result, failed, passed
from asr_client.transcription import Client, Transcript, TranscriptionError
from asr_serving.tensors import SAMPLE_RATE

SHOWN = 3
"""Differing texts on the terminal."""
STEP_SECONDS = 0.2
"""The last word may end this long after the audio: a step of the encoder is up to 80 ms, and a window reaches on."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a model answered.

    Attributes:
        answers: A transcript or an error for each utterance.
        wall_seconds: From the first request to the last answer.
        audio_seconds: Of all utterances.
    """

    answers: Sequence[Transcript | TranscriptionError]
    wall_seconds: float
    audio_seconds: float

    @property
    def rtfx(self) -> float:
        """Seconds of audio transcribed in a second."""
        return self.audio_seconds / self.wall_seconds if self.wall_seconds > 0 else 0.0


async def serve(client: Client, signals: Sequence[npt.NDArray[np.int16]], *, concurrency: int) -> Served:
    """Transcribe utterances, at most `concurrency` at once."""
    gate = asyncio.Semaphore(concurrency)

    async def one(signal: npt.NDArray[np.int16]) -> Transcript | TranscriptionError:
        async with gate:
            try:
                return await client.transcribe(signal)
            except TranscriptionError as error:
                return error

    began = time.perf_counter()
    answers = await asyncio.gather(*(one(signal) for signal in signals))
    wall = time.perf_counter() - began
    return Served(answers, wall, sum(signal.size for signal in signals) / SAMPLE_RATE)


def judge(
    model: str,
    artifact: Artifact,
    audio: CheckAudio,
    answers: Sequence[Transcript | TranscriptionError],
    tied: Collection[int],
) -> Result:
    """Whether a model writes the checkpoint's texts, with words whose times lie in the audio.

    Args:
        model: Its name.
        artifact: Holds the references.
        audio: What was sent.
        answers: One for each file.
        tied: Files whose text may differ, since two tokens were equally probable.
    """
    check = f"texts {model}"
    wrong: list[str] = []
    errors: list[str] = []
    times: list[int] = []
    different = excused = 0
    for index, (answer, reference) in enumerate(zip(answers, artifact.references, strict=True)):
        name = artifact.files[index] if audio.public else f"file {index + 1}"
        if isinstance(answer, TranscriptionError):
            errors.append(f"{name}: {answer}")
            continue
        if answer.text != reference.text and index in tied:
            excused += 1
        elif answer.text != reference.text:
            different += 1
            wrong.append(f"{name}: checkpoint {reference.text!r}, served {answer.text!r}")
        if not _ordered(answer, audio.signals[index].size / SAMPLE_RATE):
            times.append(index)
    files = len(artifact.references)
    figures: dict[str, Any] = {
        "files": files,
        "failed": len(errors),
        "different": different,
        "near_ties": excused,
        "wrong_words_or_times": len(times),
    }
    if errors:
        message = f"{len(errors)} of {files} requests failed: {errors[0]}"
        return failed(check, message, "Look at Triton's log; asr doctor checks the server step by step.", **figures)
    if different:
        message = f"{different} of {files} texts differ from the checkpoint's"
        hint = "Is this the audio of the artifact? If so, the model computes something else here: report it."
        return failed(check, message, hint, details="\n".join(wrong[:SHOWN]), **figures)
    if times:
        message = f"in {len(times)} of {files} transcripts words, their times or the confidence are not valid"
        return failed(check, message, "Client and server are of different versions: update the older one.", **figures)
    ties = f" but for {excused} near-ties" if excused else ""
    return passed(check, f"{files} of {files} texts are the checkpoint's{ties}, words and times are valid", **figures)


def _ordered(answer: Transcript, seconds: float) -> bool:
    """Whether words make up the text, their times lie in the audio in order, and the confidence is one."""
    starts = [word.start for word in answer.words]
    return (
        " ".join(word.text for word in answer.words) == answer.text
        and starts == sorted(starts)
        and all(0 <= word.start <= word.end <= seconds + STEP_SECONDS for word in answer.words)
        and 0 <= answer.confidence <= 1
    )
