import numpy as np
import numpy.typing as npt
import pytest

from asr_serving.audio import MIN_SAMPLES, AudioError, Batches, Limits, checked, floats
from asr_serving.frontend import plain

LIMITS = Limits(max_samples=16_000)


def test_int16_stays_what_it_is() -> None:
    signal = checked(np.full((1, MIN_SAMPLES), -32768, dtype=np.int16), LIMITS)
    batch, _ = Batches().pad([signal], MIN_SAMPLES)
    assert batch.dtype == np.int16
    assert floats(batch).min() == -1.0


def test_the_acoustic_model_gets_integers_as_pairs_of_bytes_the_low_one_first() -> None:
    fed = plain(np.array([[1, -2]], dtype=np.int16), np.array([[2]], dtype=np.int32))
    assert fed["audio"].tolist() == [[1, 0, 254, 255]]


def test_float64_becomes_float32() -> None:
    assert checked(np.full((1, MIN_SAMPLES), 0.5), LIMITS).dtype == np.float32


def test_the_result_outlives_the_request() -> None:
    signal = np.zeros((1, MIN_SAMPLES), dtype=np.float32)
    samples = checked(signal, LIMITS)
    signal[:] = 1
    assert not samples.any()


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (np.zeros((2, 4000), dtype=np.int16), "one utterance a request"),
        (np.zeros(4000, dtype=np.int16), "one utterance a request"),
        (np.zeros((1, 0), dtype=np.int16), "has 0 samples"),
        (np.zeros((1, MIN_SAMPLES - 1), dtype=np.int16), "at least 400"),
        (np.zeros((1, 16_001), dtype=np.int16), r"takes at most 1 s: cut the audio"),
        (np.full((1, 4000), np.nan, dtype=np.float32), "NaN"),
        (np.full((1, 4000), np.inf, dtype=np.float64), "NaN or infinite"),
        (np.full((1, 4000), 20_000.0, dtype=np.float32), "divide 16-bit integers by 32768"),
    ],
)
def test_audio_that_cannot_be_transcribed_is_refused_with_a_reason(
    signal: npt.NDArray[np.generic], message: str
) -> None:
    with pytest.raises(AudioError, match=message):
        checked(signal, LIMITS)


def test_padding_is_zero_and_lengths_are_true() -> None:
    batch, lengths = Batches().pad([np.ones(3, dtype=np.float32), np.ones(5, dtype=np.float32)], 6)
    assert batch.tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]
    assert lengths.tolist() == [[3], [5]]


def test_nothing_of_a_batch_is_left_in_the_next_one() -> None:
    batches = Batches()
    batches.pad([np.ones(6, dtype=np.float32)] * 2, 6)
    batch, _ = batches.pad([np.full(1, 16384, dtype=np.int16)], 4)
    assert batch.tolist() == [[16384, 0, 0, 0]]
