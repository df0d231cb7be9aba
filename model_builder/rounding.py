"""What the checkpoint makes of an utterance, and how far rounding alone moves it.

Each band is divided by its own deviation. Where a band holds next to nothing (above 4 kHz in telephone speech, or
everywhere in a very quiet recording), that makes rounding as large as speech, in NeMo as in any other implementation.
Where it does, the reference are NeMo's features in double precision; and the same audio, disturbed by as much as FP32
rounds, shows how exactly it defines the results at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from model_builder.nemo import Checkpoint, Floats, Reference

DISTURBED = 2
"""Disturbed copies of each utterance."""
LEVEL_SAMPLES = 400
"""Of a block over which the level of the audio is taken, with its neighbours: about an analysis window."""
MOVES = 3e-4
"""Of a feature, in units of its band's deviation: less does not move a log-probability by what is accepted of them.
Speech at usual levels has 1e-4, telephone speech and speech at -60 dB 1e-3, digital silence 0.1 and more."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The checkpoint's own results for one utterance, and what rounding does to them.

    Attributes:
        reference: Text, features and log-probabilities; where NeMo's own rounding moves a feature by more than MOVES,
            of its features in double precision.
        single_text: The text where NeMo's features are computed in single precision, as `transcribe()` does.
        features_moved: [bands] by how much rounding moves the features of a band at most.
        logprobs_moved: [steps] by how much it moves the log-probabilities of a step at most.
        single_features_moved: By how much NeMo's own rounding moves the features at most.
        single_logprobs_moved: And the log-probabilities; 0 where the features hardly move.
    """

    reference: Reference
    single_text: str
    features_moved: Floats
    logprobs_moved: Floats
    single_features_moved: float
    single_logprobs_moved: float


def expected(checkpoint: Checkpoint, samples: Floats, *, single: bool = False) -> Expected:
    """Transcribe one utterance [L] by NeMo: as it is, and where rounding matters, exactly and disturbed.

    Args:
        checkpoint: The loaded model.
        samples: Audio [L] in [-1, 1].
        single: The served features are NeMo's own in single precision, so they are the reference, and what rounding
            does to them is allowed to the served ones.
    """
    (own,) = checkpoint.reference([samples])
    features, frames = checkpoint.exact_features(np.stack([samples, *disturbed(samples)]).astype(np.float64))
    valid = features[:, :, :frames]
    own_moved = float(np.abs(own.features - valid[0]).max())
    exact = checkpoint.reference_of(features[0], frames) if own_moved > MOVES else own
    reference = own if single else exact
    compared = [*valid[1:], valid[0]] if single else valid[1:]
    features_moved = np.max([np.abs(each - reference.features).max(axis=1) for each in compared], axis=0)
    logprobs_moved = np.zeros(len(reference.logprobs), dtype=np.float32)
    if features_moved.max() > MOVES:
        others = [checkpoint.reference_of(each, frames) for each in features[1:]] + [exact]
        logprobs_moved = np.max([np.abs(each.logprobs - reference.logprobs).max(axis=1) for each in others], axis=0)
    return Expected(
        reference=reference,
        single_text=own.text,
        features_moved=features_moved,
        logprobs_moved=logprobs_moved,
        single_features_moved=own_moved,
        single_logprobs_moved=float(np.abs(own.logprobs - exact.logprobs).max()),
    )


def in_half_precision(checkpoint: Checkpoint, items: Sequence[Expected]) -> list[Expected]:
    """The same, with what weights rounded to FP16 do to the log-probabilities counted as rounding, too."""
    with checkpoint.half_precision_weights():
        moved = [
            np.abs(
                checkpoint.reference_of(item.reference.features, item.reference.features.shape[1]).logprobs
                - item.reference.logprobs
            ).max(axis=1)
            for item in items
        ]
    return [
        replace(item, logprobs_moved=np.fmax(item.logprobs_moved, half))
        for item, half in zip(items, moved, strict=True)
    ]


def disturbed(samples: Floats) -> list[npt.NDArray[np.float64]]:
    """The audio with noise of FP32's rounding (2^-25 of the level around each sample), as often as DISTURBED says."""
    level = _level(samples) * np.finfo(np.float32).eps / 4
    random = np.random.default_rng(0)
    return [samples + level * random.standard_normal(samples.size) for _ in range(DISTURBED)]


def _level(samples: Floats) -> npt.NDArray[np.float64]:
    """Greatest magnitude around each sample."""
    blocks = -(-samples.size // LEVEL_SAMPLES)
    padded = np.pad(np.abs(samples.astype(np.float64)), (0, blocks * LEVEL_SAMPLES - samples.size))
    peaks = np.pad(padded.reshape(blocks, LEVEL_SAMPLES).max(axis=1), 1)
    around = np.max([peaks[:-2], peaks[1:-1], peaks[2:]], axis=0)
    return np.repeat(around, LEVEL_SAMPLES)[: samples.size]
