"""Stage `check`: ONNX Runtime against NeMo on real audio, alone and padded into batches.

The limits follow from the audio: what rounding alone does to NeMo's own results, twice over, is always accepted
(`model_builder.rounding`). With speech at usual levels that is far below the fixed limits, which then decide.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_contract.errors import RejectedError
from asr_contract.recipe import Frontend, Precision, Recipe
from asr_serving import tensors
from asr_serving.audio import Batch, Samples, floats
from asr_serving.frontend import plain
from asr_serving.text import Vocabulary
from model_builder import accuracy, audio_set, references, rounding
from model_builder.audio_set import AudioSet
from model_builder.nemo import Checkpoint
from model_builder.onnx_graph import Arrays, Session, finite
from model_builder.progress import Reporter
from model_builder.references import Heard, load
from model_builder.rounding import Expected

__all__ = ["Heard", "load", "run"]

MAX_FEATURE_DIFFERENCE = 1e-2
"""In units of a band's deviation. Differences of 1e-4 are usual; a wrong window or mel bank gives tenths."""
MAX_LOGPROB_DIFFERENCE_FP32 = 1e-2
BATCH_SIZES = (1, 4, 16)
MAX_PADDED_SAMPLES = 120 * 16_000
"""Of one batch: activations of large models take gigabytes otherwise."""


@dataclass(slots=True)
class Figures:
    """Greatest differences over all utterances and batch sizes.

    Attributes:
        decided_by: Of features and log-probabilities, the file that came closest to its limit, or furthest beyond it.
        single_precision: How far NeMo's own features in single precision are from the exact ones, what that does to
            its log-probabilities, and the files whose text it changes.
    """

    max_feature_difference: float = 0.0
    mean_feature_difference: float = 0.0
    max_logprob_difference: float = 0.0
    token_agreement: float = 1.0
    utterances: int = 0
    audio_seconds: float = 0.0
    decided_by: dict[str, dict[str, Any]] = field(default_factory=dict)
    single_precision: dict[str, Any] = field(default_factory=dict)
    by_batch_size: dict[str, dict[str, float]] = field(default_factory=dict)
    by_utterance: list[dict[str, Any]] = field(default_factory=list)


def run(
    checkpoint: Checkpoint,
    mel: Path,
    model: Path,
    audio: AudioSet,
    heard: Path,
    *,
    recipe: Recipe,
    reporter: Reporter,
) -> dict[str, Any]:
    """Compare features, log-probabilities, tokens and lengths; write NeMo's own transcripts to `heard`.

    Raises:
        RejectedError: NaN or infinity, a wrong length, a difference above its limit, or a vocabulary that does not
            write NeMo's tokens as NeMo does.
    """
    signals = [utterance.encoded(recipe.wire) for utterance in audio.utterances]
    names = [utterance.name for utterance in audio.utterances]
    figures = Figures(utterances=len(signals), audio_seconds=round(audio.seconds, 1))
    with reporter.task("check", len(signals) * (len(BATCH_SIZES) + 2)) as task:
        task.note("NeMo transcribes the check audio")
        expected = []
        for utterance in audio.utterances:
            expected.append(rounding.expected(checkpoint, utterance.samples, single=recipe.frontend is Frontend.NEMO))
            task.advance()
        if recipe.precision is Precision.FP16:
            expected = rounding.in_half_precision(checkpoint, expected)
        own = [
            references.from_logprobs(item.reference.text, item.reference.logprobs, item.logprobs_moved)
            for item in expected
        ]
        check_vocabulary(checkpoint.vocabulary, own, names)
        figures.by_utterance = [
            {
                "file": utterance.name,
                "seconds": round(utterance.seconds, 2),
                "max_feature_difference": 0.0,
                "feature_limit": MAX_FEATURE_DIFFERENCE,
                "max_logprob_difference": 0.0,
                "logprob_limit": max(MAX_LOGPROB_DIFFERENCE_FP32, references.ROUNDING_MULTIPLE * item.moved),
            }
            for utterance, item in zip(audio.utterances, own, strict=True)
        ]
        figures.single_precision = _single_precision(expected, names)
        _compare_features(Session(mel), signals, expected, recipe, figures)
        task.advance(len(signals))
        session = Session(model)
        for size in BATCH_SIZES:
            if size > recipe.max_batch_size:
                continue
            task.note(f"ONNX Runtime, batches of {size}")
            worst, tokens = 0.0, {}
            for batch in _batches(signals, size):
                outputs = _run(session, checkpoint, [signals[index] for index in batch], recipe, seed=size)
                for row, index in enumerate(batch):
                    entry = figures.by_utterance[index]
                    difference = _compare(outputs, row, expected[index], names[index])
                    worst = max(worst, difference)
                    entry["max_logprob_difference"] = max(entry["max_logprob_difference"], difference)
                    part = slice(own[index].tokens.size)
                    off = np.abs(outputs["token_logprobs"][row, part] - own[index].token_logprobs).max(initial=0.0)
                    margin = references.near_tie_margin(own[index], float(off), recipe.precision)
                    tokens[index] = references.settled(own[index], outputs["tokens"][row, part], margin)
                    agreed = accuracy.token_agreement([own[index].tokens], [tokens[index]])
                    entry["token_agreement"] = min(entry.get("token_agreement", 1.0), agreed)
                task.advance(len(batch))
            agreement = accuracy.token_agreement([item.tokens for item in own], [tokens[key] for key in sorted(tokens)])
            figures.by_batch_size[str(size)] = {"max_logprob_difference": worst, "token_agreement": agreement}
            figures.max_logprob_difference = max(figures.max_logprob_difference, worst)
            figures.token_agreement = min(figures.token_agreement, agreement)
        figures.decided_by = {
            "features": _decided_by(figures.by_utterance, "feature"),
            "log-probabilities": _decided_by(figures.by_utterance, "logprob"),
        }
        task.note(
            f"features ≤ {figures.max_feature_difference:.1e}  log-probabilities ≤ "
            f"{figures.max_logprob_difference:.1e}  tokens {figures.token_agreement:.2%}"
        )
        references.save(own, heard)
        _judge(figures, recipe)
    return asdict(figures)


def check_vocabulary(vocabulary: Vocabulary, own: Sequence[Heard], names: Sequence[str]) -> None:
    """See to it that the server writes the checkpoint's tokens as the checkpoint does.

    Raises:
        RejectedError: It writes those of a file otherwise.
    """
    for name, item in zip(names, own, strict=True):
        written = references.written(item, vocabulary)
        if not references.same_text(written, item.text):
            raise RejectedError(
                f"{name}: NeMo writes {item.text!r}, and the server would write {written!r} of its tokens"
            )


def _single_precision(expected: Sequence[Expected], names: Sequence[str]) -> dict[str, Any]:
    return {
        "max_feature_difference": max(item.single_features_moved for item in expected),
        "max_logprob_difference": max(item.single_logprobs_moved for item in expected),
        "other_texts": [
            {"file": name, "single": item.single_text, "exact": item.reference.text}
            for name, item in zip(names, expected, strict=True)
            if item.single_text != item.reference.text
        ],
    }


def _decided_by(entries: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    worst = max(entries, key=lambda item: float(item[f"max_{kind}_difference"] / item[f"{kind}_limit"]))
    return {
        "file": worst["file"],
        "difference": worst[f"max_{kind}_difference"],
        "limit": worst[f"{kind}_limit"],
    }


def _judge(figures: Figures, recipe: Recipe) -> None:
    judged = ["features"]
    if recipe.precision is Precision.FP32:
        judged.append("log-probabilities")
    for kind in judged:
        decided = figures.decided_by[kind]
        if decided["difference"] > decided["limit"]:
            raise RejectedError(
                f"{decided['file']}: {kind} differ from NeMo's by {decided['difference']:.3g}; at most "
                f"{decided['limit']:.3g} is accepted",
                asdict(figures),
            )
    if figures.token_agreement * 1000 < recipe.min_token_agreement_permille:
        worst = min(figures.by_utterance, key=lambda item: float(item["token_agreement"]))
        raise RejectedError(
            f"{figures.token_agreement:.2%} of the tokens agree with NeMo's; at least "
            f"{recipe.min_token_agreement_permille / 10:g} % are required; {worst['file']}: "
            f"{worst['token_agreement']:.2%}",
            asdict(figures),
        )


def _batches(signals: Sequence[Samples], size: int) -> list[list[int]]:
    """Long and short utterances side by side, so that padding is as large as it gets within MAX_PADDED_SAMPLES."""
    by_length = sorted(range(len(signals)), key=lambda index: signals[index].size)
    mixed = [by_length[index // 2] if index % 2 == 0 else by_length[-1 - index // 2] for index in range(len(by_length))]
    batches: list[list[int]] = []
    longest = 0
    for index in mixed:
        longest = max(longest, signals[index].size)
        full = not batches or len(batches[-1]) == size or (len(batches[-1]) + 1) * longest > MAX_PADDED_SAMPLES
        if full:
            batches.append([])
            longest = signals[index].size
        batches[-1].append(index)
    return batches


def _padded(signals: Sequence[Samples], recipe: Recipe, seed: int) -> tuple[Batch, npt.NDArray[np.int32]]:
    longest = max(signal.size for signal in signals)
    return audio_set.in_noise(signals, batch=len(signals), samples=longest, wire=recipe.wire, seed=seed)


def _run(session: Session, checkpoint: Checkpoint, signals: Sequence[Samples], recipe: Recipe, *, seed: int) -> Arrays:
    audio, lengths = _padded(signals, recipe, seed)
    if recipe.frontend is Frontend.NUMPY:
        return session.run(plain(audio, lengths))
    features, frames = checkpoint.features(floats(audio), lengths)
    return session.run({"processed_signal": features, tensors.PROCESSED_SIGNAL_LENGTH.name: frames})


def _compare_features(
    session: Session, signals: Sequence[Samples], expected: Sequence[Expected], recipe: Recipe, figures: Figures
) -> None:
    means = []
    for signal, item, entry in zip(signals, expected, figures.by_utterance, strict=True):
        # Padded with noise to twice its length, against NeMo's features of the utterance alone.
        padded = audio_set.in_noise([signal], batch=1, samples=2 * signal.size, wire=recipe.wire)
        features = session.run(plain(*padded))["processed_signal"]
        difference = np.abs(features[0, :, : item.reference.features.shape[1]] - item.reference.features)
        if not finite({"features": difference}):
            raise RejectedError(f"{entry['file']}: the mel graph gives NaN or infinite features")
        bands = difference.max(axis=1)
        limits = np.maximum(MAX_FEATURE_DIFFERENCE, references.ROUNDING_MULTIPLE * item.features_moved)
        band = int((bands / limits).argmax())
        entry["max_feature_difference"], entry["feature_limit"] = float(bands[band]), float(limits[band])
        entry["feature_band"] = band
        figures.max_feature_difference = max(figures.max_feature_difference, float(bands.max()))
        means.append(float(difference.mean()))
    figures.mean_feature_difference = float(np.mean(means))


def _compare(outputs: Arrays, row: int, expected: Expected, name: str) -> float:
    """Greatest difference of the log-probabilities over the valid steps."""
    reference = expected.reference
    steps = int(outputs["encoded_length"][row, 0])
    if steps != len(reference.logprobs):
        raise RejectedError(f"{name}: the graph says {steps} encoder steps, NeMo {len(reference.logprobs)}")
    logprobs = outputs["logprobs"][row, :steps]
    if not finite({"logprobs": logprobs}):
        raise RejectedError(f"{name}: log-probabilities are NaN or infinite")
    return float(np.abs(logprobs - reference.logprobs).max())
