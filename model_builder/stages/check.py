"""Stage `check`: ONNX Runtime against NeMo on real audio, alone and padded into batches."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_serving import tensors
from asr_serving.audio import Batch, Samples, floats
from asr_serving.frontend import plain
from model_builder import accuracy, audio_set
from model_builder.audio_set import AudioSet
from model_builder.errors import RejectedError
from model_builder.nemo import Checkpoint, Reference
from model_builder.onnx_graph import Arrays, Session, finite
from model_builder.progress import Reporter
from model_builder.recipe import Frontend, Precision, Recipe

MAX_FEATURE_DIFFERENCE = 1e-2
"""In units of a band's deviation. Differences of 1e-4 are usual; a wrong window or mel bank gives tenths."""
MAX_LOGPROB_DIFFERENCE_FP32 = 1e-2
BATCH_SIZES = (1, 4, 16)
MAX_PADDED_SAMPLES = 120 * 16_000
"""Of one batch: activations of large models take gigabytes otherwise."""


@dataclass(slots=True)
class Figures:
    """Greatest differences over all utterances and batch sizes."""

    max_feature_difference: float = 0.0
    mean_feature_difference: float = 0.0
    max_logprob_difference: float = 0.0
    token_agreement: float = 1.0
    utterances: int = 0
    audio_seconds: float = 0.0
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
        RejectedError: NaN or infinity, a wrong length, or a difference above the threshold.
    """
    signals = [utterance.encoded(recipe.wire) for utterance in audio.utterances]
    figures = Figures(utterances=len(signals), audio_seconds=round(audio.seconds, 1))
    figures.by_utterance = [
        {"file": utterance.name, "seconds": round(utterance.seconds, 2), "max_logprob_difference": 0.0}
        for utterance in audio.utterances
    ]
    total = len(signals) * (len(BATCH_SIZES) + 2)
    with reporter.task("check", total) as task:
        task.note("NeMo transcribes the check audio")
        references = []
        for utterance in audio.utterances:
            references += checkpoint.reference([utterance.samples])
            task.advance()
        _compare_features(Session(mel), signals, references, recipe, figures)
        task.advance(len(signals))
        session = Session(model)
        for size in BATCH_SIZES:
            if size > recipe.max_batch_size:
                continue
            task.note(f"ONNX Runtime, batches of {size}")
            worst, tokens = 0.0, []
            for batch in _batches(signals, size):
                outputs = _run(session, checkpoint, [signals[index] for index in batch], recipe, seed=size)
                for row, index in enumerate(batch):
                    difference = _compare(outputs, row, references[index], audio.utterances[index].name)
                    worst, entry = max(worst, difference), figures.by_utterance[index]
                    entry["max_logprob_difference"] = max(entry["max_logprob_difference"], difference)
                    tokens.append((index, outputs["tokens"][row, : references[index].tokens.size]))
                task.advance(len(batch))
            ordered = [values for _, values in sorted(tokens, key=lambda item: item[0])]
            agreement = accuracy.token_agreement([reference.tokens for reference in references], ordered)
            figures.by_batch_size[str(size)] = {"max_logprob_difference": worst, "token_agreement": agreement}
            figures.max_logprob_difference = max(figures.max_logprob_difference, worst)
            figures.token_agreement = min(figures.token_agreement, agreement)
        task.note(
            f"features ≤ {figures.max_feature_difference:.1e}  log-probabilities ≤ "
            f"{figures.max_logprob_difference:.1e}  tokens {figures.token_agreement:.2%}"
        )
        _judge(figures, recipe)
    content = [
        {
            "text": reference.text,
            "tokens": reference.tokens.tolist(),
            "token_logprobs": [round(value, 6) for value in reference.logprobs.max(axis=1).tolist()],
        }
        for reference in references
    ]
    heard.write_text(json.dumps(content), encoding="utf-8")
    return asdict(figures)


@dataclass(frozen=True, slots=True)
class Heard:
    """NeMo's own transcript of an utterance: its text, and of each encoder step the best token and its log-probability.

    Attributes:
        text: What it wrote.
        tokens: [steps] int32.
        token_logprobs: [steps] float32.
    """

    text: str
    tokens: npt.NDArray[np.int32]
    token_logprobs: npt.NDArray[np.float32]


def load(path: Path) -> list[Heard]:
    """Read what `run` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return [
        Heard(
            item["text"],
            np.array(item["tokens"], dtype=np.int32),
            np.array(item["token_logprobs"], dtype=np.float32),
        )
        for item in content
    ]


def _judge(figures: Figures, recipe: Recipe) -> None:
    if figures.max_feature_difference > MAX_FEATURE_DIFFERENCE:
        raise RejectedError(
            f"features differ from NeMo's by {figures.max_feature_difference:.3g}; at most "
            f"{MAX_FEATURE_DIFFERENCE:g} is accepted"
        )
    fp32 = recipe.precision is Precision.FP32
    if fp32 and figures.max_logprob_difference > MAX_LOGPROB_DIFFERENCE_FP32:
        raise RejectedError(
            f"log-probabilities differ from NeMo's by {figures.max_logprob_difference:.3g}; at most "
            f"{MAX_LOGPROB_DIFFERENCE_FP32:g} is accepted"
        )
    if figures.token_agreement * 1000 < recipe.min_token_agreement_permille:
        raise RejectedError(
            f"{figures.token_agreement:.2%} of the tokens agree with NeMo's; at least "
            f"{recipe.min_token_agreement_permille / 10:g} % are required"
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
    session: Session, signals: Sequence[Samples], references: list[Reference], recipe: Recipe, figures: Figures
) -> None:
    means = []
    for signal, reference, entry in zip(signals, references, figures.by_utterance, strict=True):
        # Padded with noise to twice its length, against NeMo's features of the utterance alone.
        padded = audio_set.in_noise([signal], batch=1, samples=2 * signal.size, wire=recipe.wire)
        features = session.run(plain(*padded))["processed_signal"]
        difference = np.abs(features[0, :, : reference.features.shape[1]] - reference.features)
        if not finite({"features": difference}):
            raise RejectedError("the mel graph gives NaN or infinite features")
        entry["max_feature_difference"] = float(difference.max())
        figures.max_feature_difference = max(figures.max_feature_difference, float(difference.max()))
        means.append(float(difference.mean()))
    figures.mean_feature_difference = float(np.mean(means))


def _compare(outputs: Arrays, row: int, reference: Reference, name: str) -> float:
    """Greatest difference of the log-probabilities over the valid steps."""
    steps = int(outputs["encoded_length"][row, 0])
    if steps != len(reference.logprobs):
        raise RejectedError(f"{name}: the graph says {steps} encoder steps, NeMo {len(reference.logprobs)}")
    logprobs = outputs["logprobs"][row, :steps]
    if not finite({"logprobs": logprobs}):
        raise RejectedError(f"{name}: log-probabilities are NaN or infinite")
    return float(np.abs(logprobs - reference.logprobs).max())
