"""Stage `gate`: a real Triton serves the repository, and transcribes the check audio as a user would.

All ways through it must agree with NeMo: the model `N`, the ensemble of each engine, and preprocessing and acoustic
model called by hand, which shows the tokens. Every text must be the checkpoint's own, in any language, but for
near-ties (`model_builder.references`); known transcripts only add the word error rate.
"""

import asyncio
import functools
from collections.abc import Collection, Sequence
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
from asr_contract.errors import RejectedError, ServerError
from asr_contract.recipe import Precision, Recipe
from asr_serving import tensors
from asr_serving.tensors import model_names
from asr_serving.text import Vocabulary
from model_builder import accuracy, triton
from model_builder import references as own
from model_builder.audio_set import AudioSet
from model_builder.progress import Reporter, Task
from model_builder.references import MEAN_TOKEN_LOGPROB_DIFFERENCE, ROUNDING_MULTIPLE, Heard
from model_builder.repository.config import acoustic_inputs, acoustic_roles
from model_builder.repository.layout import VERSION

CONCURRENCY = 32


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
        vocabulary = Vocabulary.load(repository / names["postprocessing"] / VERSION / "vocabulary.json")
        figures = figures_of(texts, heard, audio, references, vocabulary=vocabulary, precision=recipe.precision)
        figures["server"] = triton.version()
        rates = (
            ""
            if figures["checkpoint_wer"] is None
            else f"WER {figures['wer']:.2%} (NeMo {figures['checkpoint_wer']:.2%})  "
        )
        task.note(f"{rates}texts {figures['text_agreement']:.2%}  tokens {figures['token_agreement']:.2%} like NeMo's")
        judge(figures, recipe)
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
class Steps:
    """Best tokens [steps] of an utterance and their log-probabilities [steps], as they were served."""

    tokens: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]


async def _heard(url: str, recipe: Recipe, role: str, audio: AudioSet, task: Task) -> list[Steps]:
    names = model_names(recipe.model_name)
    # Only the names matter here, not how many mel bands there are.
    between = [tensor.name for tensor in acoustic_inputs(recipe, features=1)]
    signal = tensors.audio_signal(recipe.wire)
    dtype = {"INT16": np.int16, "FP32": np.float32, "FP64": np.float64}[signal.dtype]
    found: dict[int, Steps] = {}
    async with channel(url) as grpc:

        async def one(index: int) -> None:
            utterance = audio.utterances[index]
            sent = utterance.signal if dtype is np.int16 else utterance.samples.astype(dtype)
            fed = await infer(grpc, names["preprocessing"], {signal.name: sent[None]}, between)
            given = await infer(grpc, names[role], fed, [tensor.name for tensor in tensors.ACOUSTIC])
            steps = given["encoded_length"].item()
            found[index] = Steps(given["tokens"][0, :steps], given["token_logprobs"][0, :steps])
            task.advance()

        jobs = [functools.partial(one, index) for index in range(len(audio.utterances))]
        try:
            await gather_bounded(jobs, CONCURRENCY)
        except TranscriptionError as error:
            failed = f"{names['preprocessing']} or {names[role]} failed: {error}"
            raise TranscriptionError(failed, error.status) from error
    return [found[index] for index in range(len(found))]


def figures_of(
    texts: dict[str, list[str]],
    heard: dict[str, list[Steps]],
    audio: AudioSet,
    references: list[Heard],
    *,
    vocabulary: Vocabulary,
    precision: Precision,
) -> dict[str, Any]:
    """Everything that `judge` decides by.

    Args:
        texts: Of each model that gives texts, those of all utterances; the one that clients use is `scheduler`.
        heard: Of each acoustic model, the tokens of all utterances.
        audio: The check audio.
        references: The checkpoint's own transcripts of it.
        vocabulary: That of the repository.
        precision: Of the acoustic model.
    """
    mine = [reference.text for reference in references]
    served = texts["scheduler"]
    files = [
        _file_figures(
            reference,
            [each[index] for each in texts.values()],
            [each[index] for each in heard.values()],
            vocabulary,
            precision,
        )
        | {"file": utterance.name, "text": utterance.text, "checkpoint": reference.text, "served": served[index]}
        for index, (utterance, reference) in enumerate(zip(audio.utterances, references, strict=True))
    ]
    truth = audio.texts
    # Without known texts the checkpoint's own transcripts are the truth: any word that differs counts.
    measured = {role: accuracy.word_error_rate(truth or mine, found) for role, found in texts.items()}
    baseline = accuracy.word_error_rate(truth, mine) if truth else None
    # What a near-tie decides is no error of the served model.
    judged = [
        accuracy.word_error_rate(
            truth or mine,
            [
                item.text if own.explained(item, text, vocabulary, figures["near_tie_margin"]) else text
                for item, text, figures in zip(references, found, files, strict=True)
            ],
        )
        for found in texts.values()
    ]
    steps = sum(reference.tokens.size for reference in references)
    return {
        "utterances": len(mine),
        "wer": measured["scheduler"],
        "ensemble_wer": {role: value for role, value in measured.items() if role != "scheduler"},
        "checkpoint_wer": baseline,
        "wer_increase": max(judged) - (baseline or 0.0),
        "text_agreement": sum(item["same"] for item in files) / len(files),
        "unexplained_texts": sum(not item["explained"] for item in files),
        "token_agreement": min(
            accuracy.token_agreement(
                [reference.tokens for reference in references],
                [
                    own.settled(reference, each.tokens, figures["near_tie_margin"])
                    for reference, each, figures in zip(references, found, files, strict=True)
                ],
            )
            for found in heard.values()
        ),
        "max_token_logprob_difference": max(item["max_token_logprob_difference"] for item in files),
        "mean_token_logprob_difference": _weighted(files, references, "mean_token_logprob_difference", steps),
        "mean_token_logprob_limit": _weighted(files, references, "mean_token_logprob_limit", steps),
        "decided_by": _decided_by(files),
        "transcripts": files,
    }


def _file_figures(
    reference: Heard,
    texts: Collection[str],
    found: Sequence[Steps],
    vocabulary: Vocabulary,
    precision: Precision,
) -> dict[str, Any]:
    """How one utterance was served, in all ways."""
    # How far the best token's log-probability is from the checkpoint's: damage shows here before a word changes.
    differences = np.concatenate(
        [
            np.abs(each.logprobs[: reference.tokens.size] - reference.token_logprobs[: each.tokens.size])
            for each in found
        ]
    )
    greatest = float(differences.max(initial=0.0))
    limit = own.token_logprob_limit(reference, precision)
    mean_limit = max(MEAN_TOKEN_LOGPROB_DIFFERENCE[precision], ROUNDING_MULTIPLE * reference.mean_moved)
    margin = own.near_tie_margin(reference, greatest, precision)
    return {
        "same": all(own.same_text(text, reference.text) for text in texts),
        "explained": all(own.explained(reference, text, vocabulary, margin) for text in texts),
        "near_tie_margin": margin,
        "max_token_logprob_difference": greatest,
        "token_logprob_limit": limit,
        "mean_token_logprob_difference": float(differences.mean()) if differences.size else 0.0,
        "mean_token_logprob_limit": mean_limit,
        "token_agreement": min(
            accuracy.token_agreement([reference.tokens], [own.settled(reference, each.tokens, margin)])
            for each in found
        ),
    }


def _weighted(files: Sequence[dict[str, Any]], references: Sequence[Heard], figure: str, steps: int) -> float:
    """Mean of a figure over all steps."""
    summed = sum(item[figure] * reference.tokens.size for item, reference in zip(files, references, strict=True))
    return float(summed) / max(steps, 1)


def _decided_by(files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The file whose log-probabilities came closest to their limit, or furthest beyond it."""
    worst = max(files, key=lambda item: _past_limit(item, "max", "token"))
    return {
        "file": worst["file"],
        "difference": worst["max_token_logprob_difference"],
        "limit": worst["token_logprob_limit"],
    }


def _past_limit(item: dict[str, Any], kind: str, limit: str) -> float:
    share = float(item[f"{kind}_token_logprob_difference"] / item[f"{limit}_logprob_limit"])
    return share if np.isfinite(share) else np.inf


def judge(figures: dict[str, Any], recipe: Recipe) -> None:
    """Decide.

    Raises:
        RejectedError: A figure is past its limit; the message names the file that decided.
    """
    files = figures["transcripts"]
    differing = [item for item in files if item["checkpoint"] != item["served"]]
    example = (
        f"; {differing[0]['file']}: NeMo {differing[0]['checkpoint']!r}, served {differing[0]['served']!r}"
        if differing
        else ""
    )
    if figures["wer_increase"] * 1000 > recipe.max_wer_increase_permille:
        raise RejectedError(
            f"served word error rate is {figures['wer_increase']:.2%} above the checkpoint's; at most "
            f"{recipe.max_wer_increase_permille / 10:g} % is accepted{example}",
            figures,
        )
    if figures["token_agreement"] * 1000 < recipe.min_token_agreement_permille:
        worst = min(files, key=lambda item: float(item["token_agreement"]))
        raise RejectedError(
            f"{figures['token_agreement']:.2%} of the served tokens agree with NeMo's; at least "
            f"{recipe.min_token_agreement_permille / 10:g} % are required; {worst['file']}: "
            f"{worst['token_agreement']:.2%}{example}",
            figures,
        )
    decided = figures["decided_by"]
    if not decided["difference"] <= decided["limit"]:  # NaN is none of them
        raise RejectedError(
            f"log-probabilities of the served tokens differ from NeMo's by {decided['difference']:.2g} (max); at most "
            f"{decided['limit']:.3g} is accepted for {recipe.precision}: {decided['file']}{example}",
            figures,
        )
    if not figures["mean_token_logprob_difference"] <= figures["mean_token_logprob_limit"]:
        worst = max(files, key=lambda item: _past_limit(item, "mean", "mean_token"))
        raise RejectedError(
            "log-probabilities of the served tokens differ from NeMo's by "
            f"{figures['mean_token_logprob_difference']:.2g} (mean); at most "
            f"{figures['mean_token_logprob_limit']:.3g} is accepted for {recipe.precision}: most in {worst['file']}"
            f"{example}",
            figures,
        )
    unexplained = [item for item in files if not item["explained"]]
    if unexplained:
        first = unexplained[0]
        served = first["served"]
        if own.same_text(served, first["checkpoint"]):
            raise RejectedError(f"{first['file']}: the ensemble's text is not the checkpoint's", figures)
        raise RejectedError(
            f"{len(unexplained)} of {len(files)} served texts are not the checkpoint's own, and near-ties do not "
            f"explain it; {first['file']}: NeMo {first['checkpoint']!r}, served {served!r}",
            figures,
        )
