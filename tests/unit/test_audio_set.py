import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_contract.errors import CheckAudioError, WorkFolderError
from model_builder import audio_set
from model_builder.progress import NullReporter
from model_builder.stages import check_audio


def write(folder: Path, name: str, seconds: float, *, rate: int = 16_000, value: float = 0.1) -> Path:
    path = folder / name
    soundfile.write(path, np.full(round(seconds * rate), value, dtype=np.float32), rate, subtype="FLOAT")
    return path


def test_the_set_that_ships_is_sound_and_has_its_texts() -> None:
    shipped = audio_set.load(audio_set.SHIPPED, max_seconds=40)
    assert len(shipped.utterances) == 20
    assert shipped.texts is not None


def test_of_the_set_that_ships_what_is_too_long_to_be_served_is_left_out() -> None:
    shipped = audio_set.load(audio_set.SHIPPED, max_seconds=20)
    assert len(shipped.utterances) == 19
    assert max(utterance.seconds for utterance in shipped.utterances) <= 20


def test_where_all_of_the_set_that_ships_is_too_long_own_audio_is_asked_for() -> None:
    with pytest.raises(CheckAudioError, match="ships is at most 1 s long; give your own"):
        audio_set.load(audio_set.SHIPPED, max_seconds=1)


def test_other_rates_are_resampled(tmp_path: Path) -> None:
    write(tmp_path, "a.wav", 1, rate=8_000)
    assert audio_set.load(tmp_path, max_seconds=40).utterances[0].signal.size == 16_000


def test_texts_are_optional(tmp_path: Path) -> None:
    write(tmp_path, "a.wav", 1)
    assert audio_set.load(tmp_path, max_seconds=40).texts is None


def test_the_digest_changes_with_the_audio_and_with_the_text(tmp_path: Path) -> None:
    write(tmp_path, "a.wav", 1)
    digests = {audio_set.load(tmp_path, max_seconds=40).sha256}
    (tmp_path / "transcripts.json").write_text('{"a.wav": {"text": "hello"}}')
    digests.add(audio_set.load(tmp_path, max_seconds=40).sha256)
    write(tmp_path, "a.wav", 1, value=0.2)
    digests.add(audio_set.load(tmp_path, max_seconds=40).sha256)
    assert len(digests) == 3


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckAudioError, match="does not exist"):
        audio_set.load(tmp_path / "absent", max_seconds=40)


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckAudioError, match="holds 0 WAV or FLAC files"):
        audio_set.load(tmp_path, max_seconds=40)


def test_a_folder_of_other_files_is_refused_with_how_to_convert_them(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(b"x")
    with pytest.raises(CheckAudioError, match=rf"ffmpeg -i {tmp_path}/a\.m4a -ar 16000 -ac 1 {tmp_path}/a\.wav"):
        audio_set.load(tmp_path, max_seconds=40)


def test_recordings_of_a_call_recorder_are_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "gsm.wav", np.zeros(8_000), 8_000, subtype="GSM610")
    assert audio_set.load(tmp_path, max_seconds=40).utterances[0].seconds == pytest.approx(1, abs=0.05)


def test_all_files_that_are_refused_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path, "a.wav", 1)
    write(tmp_path, "b.wav", 41)
    (tmp_path / "c.wav").write_text("no audio")
    (tmp_path / "d.wav").mkdir()
    with pytest.raises(CheckAudioError) as caught:
        audio_set.load(tmp_path, max_seconds=40)
    named = [line.split(":")[0].rpartition("/")[2] for line in str(caught.value).splitlines()]
    assert named == ["b.wav", "c.wav", "d.wav"]


def test_check_audio_whose_channels_cancel_each_other_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    soundfile.write(tmp_path / "a.wav", np.stack([noise, -noise], axis=1), 16_000)
    with pytest.raises(CheckAudioError, match=r"cancel each other .* -af 'pan=mono"):
        audio_set.load(tmp_path, max_seconds=40)


def test_texts_come_from_a_nemo_manifest_too(tmp_path: Path) -> None:
    write(tmp_path, "a.wav", 1)
    (tmp_path / "transcripts.json").write_text(
        '{"audio_filepath": "/x/a.wav", "text": "hello"}\n', encoding="utf-8-sig"
    )
    assert audio_set.load(tmp_path, max_seconds=40).texts == ["hello"]


@pytest.mark.parametrize(("seconds", "value"), [(0.01, 0.1), (41, 0.1), (1, np.nan), (0, 0.1)])
def test_audio_that_cannot_be_served_is_refused_with_its_name(tmp_path: Path, seconds: float, value: float) -> None:
    write(tmp_path, "odd.wav", seconds, value=value)
    with pytest.raises(CheckAudioError, match=r"odd\.wav"):
        audio_set.load(tmp_path, max_seconds=40)


def test_a_file_that_is_no_audio_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "odd.wav").write_bytes(b"RIFF but not really")
    with pytest.raises(CheckAudioError, match=r"odd\.wav"):
        audio_set.load(tmp_path, max_seconds=40)


def wav(
    *,
    kind: int = 1,
    channels: int = 1,
    rate: int = 16_000,
    bits: int = 16,
    samples: bytes = b"\1\2" * 16_000,
    **lies: int,
) -> bytes:
    """A WAV file of which any field may be wrong."""
    width = channels * bits // 8 % 65_536
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * width % 2**32, lies.get("align", width), bits)
    size = lies.get("size", len(samples))
    return (
        b"RIFF"
        + struct.pack("<I", lies.get("riff", 36 + len(samples)))
        + b"WAVEfmt "
        + struct.pack("<I", lies.get("form", 16))
        + form
        + b"data"
        + struct.pack("<I", size)
        + samples
    )


@pytest.mark.parametrize(
    "content",
    [
        wav(channels=0),
        wav(channels=65_535),
        wav(rate=0),
        wav(rate=1),
        wav(rate=2**31 - 1),
        wav(rate=2**32 - 1),
        wav(bits=0),
        wav(bits=64),
        wav(kind=85),
        wav(form=2**31),
        wav()[:20],
        wav(kind=3, bits=32, samples=struct.pack("<f", float("inf")) * 16_000),
        wav(kind=3, bits=32, samples=struct.pack("<f", 1e30) * 16_000),
    ],
    ids=[
        *(
            "no channels",
            "many channels",
            "no rate",
            "rate 1",
            "high rate",
            "highest rate",
            "no bits",
            "64 bits",
            "MP3",
        ),
        *("long header", "header only", "infinite", "loud"),
    ],
)
def test_a_header_that_cannot_be_is_refused_with_the_files_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.wav").write_bytes(content)
    with pytest.raises(CheckAudioError, match=r"odd\.wav"):
        audio_set.load(tmp_path, max_seconds=40)


@pytest.mark.parametrize(
    "content",
    [
        wav(size=2**32 - 1),
        wav(size=0),
        wav(riff=0),
        wav(align=0),
        wav(bits=8, samples=b"\x81" * 16_000),
        wav(bits=24, samples=b"\0\0\1" * 16_000),
        wav(kind=3, bits=32, samples=struct.pack("<f", 0.1) * 16_000),
        wav(kind=3, bits=64, samples=struct.pack("<d", 0.1) * 16_000),
    ],
    ids=["long data", "no length", "short file", "no alignment", "8 bits", "24 bits", "32-bit float", "64-bit float"],
)
def test_other_encodings_and_harmless_lies_are_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    assert audio_set.load(tmp_path, max_seconds=40).utterances[0].signal.size == 16_000


def test_hours_of_silence_in_a_small_file_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "odd.flac", np.zeros(3_600 * 16_000, dtype=np.int16), 16_000)
    assert (tmp_path / "odd.flac").stat().st_size < 1_000_000
    tracemalloc.start()
    with pytest.raises(CheckAudioError, match=r"odd\.flac: is 3600\.00 s long, at most 40 s are taken"):
        audio_set.load(tmp_path, max_seconds=40)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_flac_that_is_cut_short_is_refused(tmp_path: Path, keep: float) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    soundfile.write(tmp_path / "odd.flac", noise, 16_000)
    content = (tmp_path / "odd.flac").read_bytes()
    (tmp_path / "odd.flac").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CheckAudioError, match=r"odd\.flac"):
        audio_set.load(tmp_path, max_seconds=40)


@pytest.mark.parametrize("name", ["a\nb.wav", "a\udcff.wav", "\x1b[31m.wav"], ids=ascii)
def test_a_name_that_cannot_be_shown_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(wav())
    with pytest.raises(CheckAudioError, match="must be printable"):
        audio_set.load(tmp_path, max_seconds=40)


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "null", "1e999", '["a.wav"]', '{"a.wav": {}}', '{"a.wav": {"text": null}}'),
        *('{"a.wav": {"text": 5}}', '{"a.wav": {"text": ["x"]}}', '{"a.wav": {"text": "\\ud800"}}', "[" * 100_000),
    ],
    ids=lambda content: content[:30],
)
def test_texts_of_another_form_are_refused_with_the_right_one(tmp_path: Path, content: str) -> None:
    write(tmp_path, "a.wav", 1)
    (tmp_path / "transcripts.json").write_text(content)
    with pytest.raises(CheckAudioError, match="must be"):
        audio_set.load(tmp_path, max_seconds=40)


def test_audio_that_a_build_brought_is_not_taken_away_by_another_build(tmp_path: Path) -> None:
    store, work = tmp_path / "store", tmp_path / "work"
    store.mkdir()
    write(store, "a.wav", 1)
    with (
        check_audio.brought(store.as_uri(), work, NullReporter()) as folder,
        pytest.raises(WorkFolderError, match="another build uses"),
        check_audio.brought(store.as_uri(), work, NullReporter()),
    ):
        pass
    assert [path.name for path in folder.iterdir()] == ["a.wav"]


def test_audio_of_an_earlier_build_is_replaced(tmp_path: Path) -> None:
    store, work = tmp_path / "store", tmp_path / "work"
    store.mkdir()
    for name in ("a.wav", "b.wav"):
        written = write(store, name, 1)
        with check_audio.brought(store.as_uri(), work, NullReporter()) as folder:
            assert [path.name for path in folder.iterdir()] == [name]
        written.unlink()
