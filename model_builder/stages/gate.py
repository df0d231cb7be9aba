"""Stage `gate`: a real Triton serves the repository, and transcribes the check audio as a user would.

All ways through it must agree with NeMo: the model `N`, the ensemble of each engine, and preprocessing and acoustic
model called by hand, which shows the tokens.
"""

import asyncio
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_client.transcription import (
    ServerUnavailableError,
    TranscriptionError,
    channel,
    gather_bounded,
    infer,
    is_lost,
    transcribe_all,
)
from asr_serving import tensors
from asr_serving.tensors import model_names
from model_builder import accuracy, triton
from model_builder.audio_set import AudioSet
from model_builder.errors import RejectedError, ServerError
from model_builder.progress import Reporter, Task
from model_builder.recipe import Precision, Recipe
from model_builder.repository.config import acoustic_inputs, acoustic_roles
from model_builder.stages.check import Heard

CONCURRENCY = 32
MAX_TOKEN_LOGPROB_DIFFERENCE = {Precision.FP32: 1e-2, Precision.FP16: 0.25, Precision.BF16: 2.0}
"""Of any step. A sound FP32 build has 1e-5 and FP16 0.02; a window that is off by one sample 0.02, a weight matrix
scaled by 1.05 0.04, one that is zeroed or doubled 0.5 to 1.2."""
MEAN_TOKEN_LOGPROB_DIFFERENCE = {Precision.FP32: 1e-3, Precision.FP16: 5e-3, Precision.BF16: 4e-2}
"""Over all steps. A sound FP16 build has 3e-4; one weight matrix zeroed or doubled gives 0.014 to 0.02.
BF16 has an eighth of FP16's digits."""


def run(
    repository: Path, audio: AudioSet, references: list[Heard], *, recipe: Recipe, log: Path, reporter: Reporter
) -> dict[str, Any]:
    """Transcribe, compare, decide; returns the figures.

    Raises:
        RejectedError: Word error rate or token agreement is past the recipe's thresholds, the tokens' log-probabilities
            differ from the checkpoint's by more than the precision explains, or a request failed.
        ServerError: Triton did not start, or ended, or does not answer.
    """
    names = model_names(recipe.model_name)
    roles = acoustic_roles(recipe)
    text_roles = ("scheduler", *("ensemble" if role == "onnx" else "ensemble_tensorrt" for role in roles))
    with reporter.task("gate", (len(roles) + len(text_roles)) * len(references)) as task:
        task.note("Triton starts")
        with triton.serve(repository, log=log) as server:
            url = server.ports.grpc_url
            task.note("Triton transcribes the check audio")
            try:
                texts = {role: _texts(url, names[role], audio, task) for role in text_roles}
                heard = {role: asyncio.run(_heard(url, recipe, role, audio, task)) for role in roles}
            except TranscriptionError as error:
                server.check_alive()
                if triton.MEMORY_EXHAUSTED in str(error):
                    needs = triton.shared_memory_needs(repository)
                    raise ServerError(f"{error}; {needs.advice}") from error
                if isinstance(error, ServerUnavailableError) or is_lost(error):
                    raise ServerError(f"{error}:\n{triton.errors_in(log)}") from error
                raise RejectedError(str(error)) from error
        figures = _figures(texts, heard, audio, references)
        figures["server"] = triton.version()
        told = (
            ""
            if figures["checkpoint_wer"] is None
            else f"WER {figures['wer']:.2%} (NeMo {figures['checkpoint_wer']:.2%})  "
        )
        task.note(f"{told}texts {figures['text_agreement']:.2%}  tokens {figures['token_agreement']:.2%} like NeMo's")
        _judge(figures, recipe)
    return figures


def _texts(url: str, model: str, audio: AudioSet, task: Task) -> list[str]:
    results = transcribe_all(
        url,
        model,
        [utterance.signal for utterance in audio.utterances],
        concurrency=CONCURRENCY,
        done=lambda _index, _result: task.advance(),
    )
    texts = []
    for utterance, result in zip(audio.utterances, results, strict=True):
        if isinstance(result, TranscriptionError):
            raise TranscriptionError(f"{model} failed on {utterance.name}: {result}", result.status) from result
        texts.append(result.text)
    return texts


@dataclass(frozen=True, slots=True)
class _Steps:
    """Best tokens [steps] of an utterance and their log-probabilities [steps], as they were served."""

    tokens: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]


async def _heard(url: str, recipe: Recipe, role: str, audio: AudioSet, task: Task) -> list[_Steps]:
    names = model_names(recipe.model_name)
    # Only the names matter here, not how many mel bands there are.
    between = [tensor.name for tensor in acoustic_inputs(recipe, features=1)]
    signal = tensors.audio_signal(recipe.wire)
    dtype = {"INT16": np.int16, "FP32": np.float32, "FP64": np.float64}[signal.dtype]
    found: dict[int, _Steps] = {}
    async with channel(url) as grpc:

        async def one(index: int) -> None:
            utterance = audio.utterances[index]
            sent = utterance.signal if dtype is np.int16 else utterance.samples.astype(dtype)
            fed = await infer(grpc, names["preprocessing"], {signal.name: sent[None]}, between)
            given = await infer(grpc, names[role], fed, [tensor.name for tensor in tensors.ACOUSTIC])
            steps = given["encoded_length"].item()
            found[index] = _Steps(given["tokens"][0, :steps], given["token_logprobs"][0, :steps])
            task.advance()

        jobs = [functools.partial(one, index) for index in range(len(audio.utterances))]
        try:
            await gather_bounded(jobs, CONCURRENCY)
        except TranscriptionError as error:
            failed = f"{names['preprocessing']} or {names[role]} failed: {error}"
            raise TranscriptionError(failed, error.status) from error
    return [found[index] for index in range(len(found))]


def _figures(
    texts: dict[str, list[str]],
    heard: dict[str, list[_Steps]],
    audio: AudioSet,
    references: list[Heard],
) -> dict[str, Any]:
    own = [reference.text for reference in references]
    served = texts["scheduler"]
    agree = [len(set(each)) == 1 for each in zip(own, *texts.values(), strict=True)]
    truth = audio.texts
    # Without known texts the checkpoint's own transcripts are the truth: any word that differs counts.
    measured = {role: accuracy.word_error_rate(truth or own, found) for role, found in texts.items()}
    baseline = accuracy.word_error_rate(truth, own) if truth else None
    return {
        "utterances": len(own),
        "wer": measured["scheduler"],
        "ensemble_wer": {role: value for role, value in measured.items() if role != "scheduler"},
        "checkpoint_wer": baseline,
        "wer_increase": max(measured.values()) - (baseline or 0.0),
        "text_agreement": sum(agree) / len(agree),
        "token_agreement": min(
            accuracy.token_agreement([reference.tokens for reference in references], [steps.tokens for steps in found])
            for found in heard.values()
        ),
        **_logprob_differences(heard.values(), references),
        "transcripts": [
            {"file": utterance.name, "text": utterance.text, "checkpoint": mine, "served": got}
            for utterance, mine, got in zip(audio.utterances, own, served, strict=True)
        ],
    }


def _logprob_differences(heard: Iterable[list[_Steps]], references: list[Heard]) -> dict[str, float]:
    """How far the best token's log-probability is from the checkpoint's: damage shows here before a word changes."""
    differences = np.concatenate(
        [
            np.abs(steps.logprobs[: reference.tokens.size] - reference.token_logprobs[: steps.tokens.size])
            for found in heard
            for steps, reference in zip(found, references, strict=True)
        ]
    )
    return {
        "max_token_logprob_difference": float(differences.max(initial=0.0)),
        "mean_token_logprob_difference": float(differences.mean()) if differences.size else 0.0,
    }


def _judge(figures: dict[str, Any], recipe: Recipe) -> None:
    differing = [item for item in figures["transcripts"] if item["checkpoint"] != item["served"]]
    example = (
        f"; {differing[0]['file']}: NeMo {differing[0]['checkpoint']!r}, served {differing[0]['served']!r}"
        if differing
        else ""
    )
    if figures["wer_increase"] * 1000 > recipe.max_wer_increase_permille:
        raise RejectedError(
            f"served word error rate is {figures['wer_increase']:.2%} above the checkpoint's; at most "
            f"{recipe.max_wer_increase_permille / 10:g} % is accepted{example}"
        )
    if figures["token_agreement"] * 1000 < recipe.min_token_agreement_permille:
        raise RejectedError(
            f"{figures['token_agreement']:.2%} of the served tokens agree with NeMo's; at least "
            f"{recipe.min_token_agreement_permille / 10:g} % are required{example}"
        )
    for kind, limits in (("max", MAX_TOKEN_LOGPROB_DIFFERENCE), ("mean", MEAN_TOKEN_LOGPROB_DIFFERENCE)):
        found = figures[f"{kind}_token_logprob_difference"]
        if not found <= limits[recipe.precision]:  # NaN is none of them
            raise RejectedError(
                f"log-probabilities of the served tokens differ from NeMo's by {found:.2g} ({kind}); at most "
                f"{limits[recipe.precision]:g} is accepted for {recipe.precision}{example}"
            )
