"""`asr_client.audio.read`: from files to int16 at 16 kHz."""

import io
import os
import struct
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
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


def with_length(content: bytes, *, riff: int, data: int) -> io.BytesIO:
    """A WAV with these lengths in its header."""
    changed = bytearray(content)
    place = changed.index(b"data") + 4
    changed[4:8], changed[place : place + 4] = struct.pack("<I", riff), struct.pack("<I", data)
    return io.BytesIO(changed)


@pytest.mark.parametrize("riff", [0, 8, 36, 2**32 - 1, None], ids=str)
@pytest.mark.parametrize("data", [0, 2**31, 2**32 - 1], ids=str)
def test_a_wav_whose_length_was_never_written_is_read_to_its_end(riff: int | None, data: int) -> None:
    content = stored(tone(16_000)).getvalue()
    changed = with_length(content, riff=len(content) - 8 if riff is None else riff, data=data)
    assert np.array_equal(read(changed), read(io.BytesIO(content)))


def test_a_wav_that_holds_notes_and_no_samples_is_empty() -> None:
    content = stored(np.zeros(0, dtype=np.int16)).getvalue() + b"LIST" + struct.pack("<I", 300) + bytes(300)
    with pytest.raises(AudioFileError, match="holds no samples"):
        read(io.BytesIO(content))


def flac_of_unknown_length() -> io.BytesIO:
    """FLAC as an encoder writes it into a pipe."""
    content = bytearray(stored(tone(16_000), kind="FLAC").getvalue())
    content[21] &= 0xF0  # its 36 bits are the lower half of this byte and the next four
    content[22:26] = bytes(4)
    return io.BytesIO(content)


def test_flac_whose_header_does_not_tell_its_length_is_read_to_its_end() -> None:
    assert np.array_equal(read(flac_of_unknown_length()), read(stored(tone(16_000), kind="FLAC")))


def test_flac_of_unknown_length_is_given_up_where_it_is_too_long() -> None:
    with pytest.raises(AudioFileError, match=r"is longer than the 0\.1 s that are taken"):
        read(flac_of_unknown_length(), max_seconds=0.1)


def test_less_than_one_sample_at_16_khz_is_refused() -> None:
    with pytest.raises(AudioFileError, match="holds less than one sample"):
        read(stored(np.zeros(1, dtype=np.int16), rate=192_000))


@pytest.mark.parametrize("content", [b"RIFF", b"this is not audio at all" * 10, bytes(1_000), b"\xff\xff" * 1_000])
def test_what_is_not_audio_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(AudioFileError, match="standard input: cannot be read as audio"):
        read(io.BytesIO(content), name="standard input")


def test_an_empty_file_is_called_empty() -> None:
    with pytest.raises(AudioFileError, match=r"^standard input: is empty$"):
        read(io.BytesIO(), name="standard input")


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


# Every kind that libsndfile reads

NOT_WRITTEN = {("AIFF", "DWVW_12"), ("MP3", "MPEG_LAYER_I"), ("MP3", "MPEG_LAYER_II"), ("WAV", "MPEG_LAYER_III")}
KINDS = [
    (kind, subtype)
    for kind in soundfile.available_formats()
    if kind not in {"RAW", "SD2"}  # no header; a second file holds it
    for subtype in soundfile.available_subtypes(kind)
    if (kind, subtype) not in NOT_WRITTEN
]
SPEECH = min((Path(__file__).parents[2] / "model_builder" / "check_audio").glob("*.wav"))


@pytest.fixture(scope="module")
def speech() -> npt.NDArray[np.float32]:
    """Three seconds of a check recording: coders of speech do badly at a tone."""
    samples: npt.NDArray[np.float32] = soundfile.read(SPEECH, dtype="float32")[0][:48_000]
    return samples


@pytest.mark.parametrize(("kind", "subtype"), KINDS, ids=lambda value: value)
def test_what_libsndfile_writes_is_read_from_beginning_to_end(
    kind: str, subtype: str, speech: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    path = tmp_path / "a"
    soundfile.write(path, speech, 16_000, format=kind, subtype=subtype)
    with soundfile.SoundFile(path) as file:
        rate, frames = file.samplerate, file.frames
    heard = read(path)
    assert heard.size == pytest.approx(frames * 16_000 / rate, abs=1)
    if rate == 16_000:  # XI and WVE have a rate of their own
        assert max(likeness(heard[delay:], speech) for delay in range(4)) > 0.8


def likeness(one: npt.NDArray[np.int16], other: npt.NDArray[np.float32]) -> float:
    """Correlation over the shorter of both."""
    size = min(one.size, other.size)
    return float(np.corrcoef(one[:size], other[:size])[0, 1])


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9])
def test_a_file_that_is_cut_short_is_read_or_refused(kind: str, keep: float, speech: npt.NDArray[np.float32]) -> None:
    content = io.BytesIO()
    soundfile.write(content, speech, 16_000, format=kind)
    cut = content.getvalue()[: int(keep * len(content.getvalue()))]
    heard, refusal = outcome(cut)
    assert 0 < heard < speech.size if refusal is None else "\n" not in refusal


def outcome(content: bytes) -> tuple[int, str | None]:
    """Samples that were read, or why not."""
    try:
        return read(io.BytesIO(content), max_seconds=600).size, None
    except AudioFileError as error:
        return 0, str(error)


@given(
    st.binary(max_size=300), st.sampled_from(["WAV", "FLAC", "AIFF", "AU", "CAF", "W64", "OGG", "MP3", "NIST", "VOC"])
)
def test_a_damaged_header_is_read_or_refused(damage: bytes, kind: str) -> None:
    content = bytearray(DAMAGED[kind])
    content[4 : 4 + len(damage)] = damage
    heard, refusal = outcome(bytes(content))
    assert heard > 0 if refusal is None else "\n" not in refusal


def encoded(kind: str) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, tone(16_000), 16_000, format=kind)
    return content.getvalue()


DAMAGED = {kind: encoded(kind) for kind in ("WAV", "FLAC", "AIFF", "AU", "CAF", "W64", "OGG", "MP3", "NIST", "VOC")}


@pytest.mark.parametrize("cover", [1_000, 300_000])
def test_an_mp3_with_a_cover_picture_in_front_is_read(cover: int, speech: npt.NDArray[np.float32]) -> None:
    content = io.BytesIO()
    soundfile.write(content, speech, 16_000, format="MP3")
    size = bytes((cover >> 7 * place) & 0x7F for place in (3, 2, 1, 0))
    picture = b"APIC" + struct.pack(">I", cover - 10) + bytes(cover - 8)
    tagged = b"ID3\x03\0\0" + size + picture + content.getvalue()
    assert likeness(read(io.BytesIO(tagged)), speech) > 0.9


@pytest.mark.parametrize("first", [-1, 0xFB - 256, -257])
def test_samples_without_a_header_are_not_taken_for_mp3(first: int, capfd: pytest.CaptureFixture[str]) -> None:
    samples = np.random.default_rng(0).normal(0, 30, 60_000).astype("<i2")
    samples[0] = first
    with pytest.raises(AudioFileError, match="ffmpeg -f s16le -ar RATE"):
        read(io.BytesIO(samples.tobytes()))
    assert capfd.readouterr().err == ""


# Block by block


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_blocks_are_resampled_like_the_whole(rate: int, subtype: str) -> None:
    samples = np.random.default_rng(rate).normal(0, 0.1, 300_001).astype(np.float32)
    heard = read(stored(samples, rate, subtype=subtype)).astype(np.int64)
    as_stored = soundfile.read(stored(samples, rate, subtype=subtype), dtype="float32")[0]
    whole = np.rint(np.clip(soxr.resample(as_stored, rate, 16_000) * 32768, -32768, 32767))
    assert heard.size == whole.size
    assert np.abs(heard - whole).max() <= 1


@given(st.integers(1, 5_000), st.sampled_from([8_000, 11_025, 44_100]), st.integers(1, 700), st.data())
def test_the_size_of_blocks_does_not_matter(size: int, rate: int, block: int, data: st.DataObject) -> None:
    samples = data.draw(arrays(np.int16, size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asr_client.audio.BLOCK_SAMPLES", block)
        try:
            in_blocks = read(stored(samples, rate)).astype(np.int64)
        except AudioFileError:
            in_blocks = np.zeros(0, dtype=np.int64)
    whole = np.rint(np.clip(soxr.resample(samples / np.float32(32768), rate, 16_000) * 32768, -32768, 32767))
    assert in_blocks.size == whole.size
    assert np.abs(in_blocks - whole).max(initial=0) <= 1


def test_a_long_recording_takes_the_memory_of_what_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "meeting.wav"
    with soundfile.SoundFile(path, "w", 48_000, 2, "PCM_16") as file:
        for _ in range(100):
            file.write(np.ones((48_000, 2), dtype=np.int16))
    tracemalloc.start()
    heard = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert heard.size == 100 * 16_000
    assert peak < 1.5 * heard.nbytes + 3_000_000  # unpacked it has 38 MB


# Other than files


def test_a_device_is_refused() -> None:
    with pytest.raises(AudioFileError, match=r"^/dev/zero: is a device"):
        read(Path("/dev/zero"))


def test_a_stream_of_zeros_is_refused_before_it_ends() -> None:
    with Path("/dev/zero").open("rb") as endless, pytest.raises(AudioFileError, match="cannot be read as audio"):
        read(endless, max_seconds=40)


def test_a_wav_without_end_is_given_up() -> None:
    header = with_length(stored(tone(16_000)).getvalue(), riff=2**32 - 1, data=2**32 - 1).getvalue()

    class Endless(io.RawIOBase):
        def __init__(self) -> None:
            self.sent = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            part = header if self.sent == 0 else bytes(65_536)
            size = min(len(part), len(buffer))
            buffer[:size] = part[:size]
            self.sent += size
            return size

    endless = Endless()
    with pytest.raises(AudioFileError, match="too long to be sent"):
        read(io.BufferedReader(endless), max_seconds=40)
    assert endless.sent < 50_000_000


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF", "W64"])
def test_a_named_pipe_is_read_like_a_file(kind: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 160_000)
    content = io.BytesIO()
    soundfile.write(content, noise, 16_000, format=kind)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content.getvalue(),))
    writer.start()
    heard = read(pipe, max_seconds=40)
    writer.join()
    assert np.array_equal(heard, read(io.BytesIO(content.getvalue())))


def test_a_full_temporary_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    monkeypatch.setattr("asr_client.audio.SPOOLED_BYTES", 100_000)
    with pytest.raises(AudioFileError, match=r"cannot be stored in /nowhere .*TMPDIR"):
        read(stored(np.zeros(1_000_000, dtype=np.int16)))


@contextmanager
def unprivileged() -> Iterator[None]:
    """As another user where the tests run as the superuser, who may read every file."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_that_may_not_be_read_is_told() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folder lets nobody else in
        Path(folder).chmod(0o755)
        path = Path(folder) / "secret.wav"
        path.write_bytes(stored(tone(16_000)).getvalue())
        path.chmod(0)
        with unprivileged(), pytest.raises(AudioFileError, match=r"secret\.wav.*Permission denied"):
            read(path)


@pytest.mark.parametrize("rate", [1, 2**31 - 1])
def test_a_sample_rate_that_cannot_be_is_told(rate: int) -> None:
    with pytest.raises(AudioFileError, match=f"has {rate} samples a second, says its header"):
        read(stored(np.zeros(100, dtype=np.int16), rate))


# Channels


def test_64_channels_are_averaged() -> None:
    samples = np.tile(np.arange(0, 6400, 100, dtype=np.int16), (500, 1))
    assert set(read(stored(samples)).tolist()) == {3150}


def test_channels_in_opposite_phase_are_refused_with_what_to_do() -> None:
    samples = tone(16_000)
    with pytest.raises(AudioFileError, match=r"cancel each other .* --channel left, or ffmpeg"):
        read(stored(np.stack([samples, -samples], axis=1)))


@pytest.mark.parametrize(("channel", "expected"), [(1, [100, 200]), (2, [-100, -200]), (0, [0, 0])])
def test_a_channel_can_be_chosen(channel: int, expected: list[int]) -> None:
    samples = np.array([[100, -100], [200, -200]], dtype=np.int16)
    assert read(stored(samples), channel=channel).tolist() == expected


def test_a_channel_that_is_not_there_is_told() -> None:
    with pytest.raises(AudioFileError, match="has 1 channel, there is no 2"):
        read(stored(tone(16_000)), channel=2)
