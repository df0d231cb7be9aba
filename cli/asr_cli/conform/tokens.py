"""Tokens that the acoustic model gives for the check audio, against the checkpoint's own.

The scheduler model returns texts, not tokens. So preprocessing and acoustic model are called one after the other, as
the ensemble does.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_cli.conform.artifact import CheckAudio, Reference
from asr_cli.conform.outcome import Result, failed, passed
from asr_client.transcription import Client, TranscriptionError, infer
from asr_serving import tensors
from asr_serving.tensors import model_names

TOLERANCE = {"FP32": 1e-2, "FP16": 0.25, "BF16": 2.0}
"""Of a token's log-probability at any step: as the build's own acceptance test allows, by precision."""
EVEN = 0.25
"""How far the log-probability of a near-tie may be above that of one half, whatever the precision."""
MOST_NEAR_TIES = 0.01
"""Of all steps: as the build's acceptance test allows by default."""
CONCURRENCY = 8
REQUEST_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Steps:
    """Best tokens [steps] of one utterance and their log-probabilities [steps], as served."""

    tokens: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tokens of all utterances against the references.

    Attributes:
        steps: Encoder steps of all references.
        near_ties: Steps whose token differs because two tokens were equally probable.
        wrong: Utterances with a token that differs otherwise, or with another number of steps.
        tied: Utterances whose only differences are near-ties: their text may differ.
        difference: Greatest difference of a log-probability; NaN is infinite.
    """

    steps: int
    near_ties: int
    wrong: tuple[int, ...]
    tied: frozenset[int]
    difference: float


def tolerance(precision: str, *, gpu: bool | None) -> float:
    """Allowed difference of a log-probability. GPUs round FP32 to TF32, which has FP16's digits."""
    return TOLERANCE["FP16"] if gpu and precision == "FP32" else TOLERANCE.get(precision, TOLERANCE["BF16"])


def compare(references: Sequence[Reference], served: Sequence[Steps], limit: float) -> Comparison:
    """Compare step by step.

    A token may differ where two were equally probable: then each has a probability of at most one half, and the best
    one's log-probability is nearly the same in both.

    Args:
        references: The checkpoint's own.
        served: As many, in the same order.
        limit: Allowed difference of a log-probability.
    """
    wrong, tied, near_ties, difference = [], set(), 0, 0.0
    for index, (reference, found) in enumerate(zip(references, served, strict=True)):
        if found.tokens.shape != reference.tokens.shape:
            wrong.append(index)
            continue
        differ = found.tokens != reference.tokens
        if reference.logprobs is None:
            ties = np.zeros_like(differ)
        else:
            gaps = np.abs(found.logprobs - reference.logprobs)
            gaps = np.where(np.isfinite(gaps), gaps, np.inf)
            difference = max(difference, float(gaps.max(initial=0.0)))
            even = np.maximum(found.logprobs, reference.logprobs) <= math.log(0.5) + min(limit, EVEN)
            ties = differ & even & (gaps <= limit)
        if (differ & ~ties).any():
            wrong.append(index)
        elif differ.any():
            tied.add(index)
        near_ties += int(ties.sum())
    steps = sum(reference.tokens.size for reference in references)
    return Comparison(steps, near_ties, tuple(wrong), frozenset(tied), difference)


def judge(model: str, found: Comparison, limit: float, *, files: int) -> Result:
    """Whether the acoustic model gives the checkpoint's tokens."""
    check = f"tokens {model}"
    figures: dict[str, Any] = {
        "files": files,
        "steps": found.steps,
        "near_ties": found.near_ties,
        "files_that_differ": len(found.wrong),
        "max_logprob_difference": round(found.difference, 6) if math.isfinite(found.difference) else None,
        "allowed_logprob_difference": limit,
    }
    if found.wrong:
        message = f"tokens of {len(found.wrong)} of {files} files differ from the checkpoint's"
        hint = "The acoustic model computes something else here than where it was built: report this with the record."
        return failed(check, message, hint, **figures)
    if found.near_ties > MOST_NEAR_TIES * found.steps:
        message = f"{found.near_ties} of {found.steps} tokens differ, each where two were equally probable"
        hint = "So many are more than rounding explains: report this with the record."
        return failed(check, message, hint, **figures)
    if found.difference > limit:
        message = f"log-probabilities differ from the checkpoint's by {found.difference:.2g}; {limit:g} is allowed"
        hint = "The tokens are the same still, but this is more than rounding explains: report it with the record."
        return failed(check, message, hint, **figures)
    ties = f" but for {found.near_ties} near-ties" if found.near_ties else ""
    message = f"all {found.steps} steps of {files} files as the checkpoint's{ties}; log-probabilities within "
    return passed(check, f"{message}{found.difference:.1g}", **figures)


def judge_logprobs(model: str, tokens: npt.NDArray[np.int32], logprobs: npt.NDArray[np.float32]) -> Result:
    """Whether the optional output `logprobs` [1, T, V] has its maximum at `tokens` [1, T], and sums to one."""
    check = f"logprobs {model}"
    hint = "The optional output logprobs does not go with tokens: report this with the record."
    if logprobs.shape[:2] != tokens.shape:
        message = f"logprobs {list(logprobs.shape)} and tokens {list(tokens.shape)} are of different lengths"
        return failed(check, message, hint)
    sums = np.exp(logprobs.astype(np.float64)).sum(axis=2)
    agree = float((logprobs.argmax(axis=2) == tokens).mean()) if tokens.size else 1.0
    figures: dict[str, Any] = {"steps": int(tokens.size), "agreement": agree}
    if agree < 1.0:
        return failed(check, f"the best token of logprobs is tokens in {agree:.1%} of the steps", hint, **figures)
    if not np.allclose(sums, 1.0, atol=1e-2):
        return failed(check, "probabilities do not sum to one", hint, **figures)
    return passed(check, f"present when asked for, best token as in tokens at all {tokens.size} steps", **figures)


async def acoustic_inputs(
    client: Client, model: str, acoustic: str, signal: npt.NDArray[np.int16]
) -> Mapping[str, Any]:
    """What the acoustic model takes of one utterance, as preprocessing gives it.

    Raises:
        TranscriptionError: A request failed.
    """
    from tritonclient.utils import InferenceServerException  # noqa: PLC0415

    try:
        metadata = await client.grpc.get_model_metadata(acoustic, client_timeout=REQUEST_SECONDS)
    except InferenceServerException as error:
        raise TranscriptionError(error.message(), error.status()) from error
    names = [tensor.name for tensor in metadata.inputs]
    given = {"audio_signal": client.encode(signal)}
    return await infer(client.grpc, model_names(model)["preprocessing"], given, names, timeout=REQUEST_SECONDS)


async def serve(client: Client, model: str, acoustic: str, audio: CheckAudio) -> list[Steps]:
    """Tokens of the check audio.

    Raises:
        TranscriptionError: A request failed.
    """
    gate = asyncio.Semaphore(CONCURRENCY)

    async def one(signal: npt.NDArray[np.int16]) -> Steps:
        async with gate:
            fed = await acoustic_inputs(client, model, acoustic, signal)
            outputs = [tensor.name for tensor in tensors.ACOUSTIC]
            given = await infer(client.grpc, acoustic, dict(fed), outputs, timeout=REQUEST_SECONDS)
        steps = int(given["encoded_length"].item())
        return Steps(given["tokens"][0, :steps], given["token_logprobs"][0, :steps])

    return list(await asyncio.gather(*(one(signal) for signal in audio.signals)))


async def check_logprobs(client: Client, model: str, acoustic: str, signal: npt.NDArray[np.int16]) -> Result:
    """Ask once for the optional output.

    Raises:
        TranscriptionError: The request failed.
    """
    fed = await acoustic_inputs(client, model, acoustic, signal)
    given = await infer(client.grpc, acoustic, dict(fed), ["tokens", "logprobs"], timeout=REQUEST_SECONDS)
    return judge_logprobs(acoustic, given["tokens"], given["logprobs"])
