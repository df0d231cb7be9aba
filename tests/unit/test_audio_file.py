"""`asr_client.audio.read`: from files to int16 at 16 kHz."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from asr_client.audio import AudioFileError, read

TONE_HZ = 440


def tone(rate: int, seconds: float = 0.5, amplitude: float = 0.5) -> npt.NDArray[np.float32]:
    """A sine of 440 Hz, [L] in [-1, 1]."""
    times = np.arange(round(rate * seconds)) / rate
    samples: npt.NDArray[np.float32] = (amplitude * np.sin(2 * np.pi * TONE_HZ * times)).astype(np.float32)
    return samples


def stored(
    samples: npt.NDArray[np.generic], rate: int = 16_000, kind: str = "WAV", subtype: str = "PCM_16"
) -> io.BytesIO:
    """An audio file in memory; `samples` [L] or [L, channels]."""
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=kind, subtype=subtype)
    content.seek(0)
    return content


@given(arrays(np.int16, st.integers(1, 2_000)), st.sampled_from(["WAV", "FLAC"]))
def test_16_bit_samples_at_16_khz_arrive_bit_for_bit(samples: npt.NDArray[np.int16], kind: str) -> None:
    assert np.array_equal(read(stored(samples, kind=kind)), samples)


def test_lowest_and_highest_sample_arrive_bit_for_bit() -> None:
    samples = np.array([-32768, 32767, 0], dtype=np.int16)
    assert read(stored(samples)).tolist() == [-32768, 32767, 0]


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_other_rates_keep_their_duration(rate: int) -> None:
    assert abs(read(stored(tone(rate), rate)).size - 8_000) <= 1


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_keep_their_pitch_and_loudness(rate: int) -> None:
    # Apart from the edges, where the resampler's filter has no neighbours.
    inside = slice(800, -800)
    difference = read(stored(tone(rate), rate))[inside] / 32768 - tone(16_000)[inside]
    assert np.abs(difference).max() < 0.002


def test_channels_are_averaged() -> None:
    left, right = np.array([1000, -3000, 20], dtype=np.int16), np.array([2000, -1000, 40], dtype=np.int16)
    assert read(stored(np.stack([left, right], axis=1))).tolist() == [1500, -2000, 30]


def test_float_audio_above_full_scale_is_clipped() -> None:
    samples = np.array([1.5, -1.5, 0.5], dtype=np.float32)
    assert read(stored(samples, subtype="FLOAT")).tolist() == [32767, -32768, 16384]


def test_24_bit_samples_are_rounded() -> None:
    samples = np.array([0.25, -0.5], dtype=np.float64)
    assert read(stored(samples, subtype="PCM_24")).tolist() == [8192, -16384]


def test_a_path_is_read_like_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "tone.flac"
    path.write_bytes(stored(tone(16_000), kind="FLAC").getvalue())
    assert np.array_equal(read(path), read(stored(tone(16_000), kind="FLAC")))


def test_a_file_without_samples_is_refused() -> None:
    with pytest.raises(AudioFileError, match="holds no samples"):
        read(stored(np.zeros(0, dtype=np.int16)))


def test_a_wav_that_was_not_written_to_its_end_is_told() -> None:
    content = bytearray(stored(tone(16_000)).getvalue())
    length = content.index(b"data") + 4
    content[length : length + 4] = bytes(4)
    with pytest.raises(AudioFileError, match="was it written to the end"):
        read(io.BytesIO(content))


def test_flac_whose_header_does_not_tell_its_length_is_refused() -> None:
    content = bytearray(stored(tone(16_000), kind="FLAC").getvalue())
    content[21] &= 0xF0  # its 36 bits are the lower half of this byte and the next four
    content[22:26] = bytes(4)
    with pytest.raises(AudioFileError, match="does not say how long it is"):
        read(io.BytesIO(content))


def test_less_than_one_sample_at_16_khz_is_refused() -> None:
    with pytest.raises(AudioFileError, match="holds less than one sample"):
        read(stored(np.zeros(1, dtype=np.int16), rate=192_000))


@pytest.mark.parametrize("content", [b"", b"RIFF", b"this is not audio at all" * 10])
def test_what_is_not_audio_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(AudioFileError, match="standard input: cannot be read as audio"):
        read(io.BytesIO(content), name="standard input")


def test_a_missing_file_is_told_as_missing(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="No such file"):
        read(tmp_path / "missing.wav")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="directory"):
        read(tmp_path)


def test_nan_samples_are_refused() -> None:
    with pytest.raises(AudioFileError, match="NaN or infinite"):
        read(stored(np.array([0.1, np.nan], dtype=np.float32), subtype="FLOAT"))


def test_infinities_that_would_cancel_out_in_the_mean_are_refused() -> None:
    samples = np.array([[np.inf, -np.inf]], dtype=np.float32)
    with pytest.raises(AudioFileError, match="NaN or infinite"):
        read(stored(samples, subtype="FLOAT"))


def test_integers_written_as_floats_are_refused() -> None:
    with pytest.raises(AudioFileError, match="divide 16-bit integers by 32768"):
        read(stored(np.array([12_000.0, -300.0], dtype=np.float32), subtype="FLOAT"))
