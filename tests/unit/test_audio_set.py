from pathlib import Path

import numpy as np
import pytest
import soundfile

from model_builder import audio_set
from model_builder.errors import CheckAudioError


def write(folder: Path, name: str, seconds: float, *, rate: int = 16_000, value: float = 0.1) -> Path:
    path = folder / name
    soundfile.write(path, np.full(round(seconds * rate), value, dtype=np.float32), rate, subtype="FLOAT")
    return path


def test_the_set_that_ships_is_sound_and_has_its_texts() -> None:
    shipped = audio_set.load(audio_set.SHIPPED, max_seconds=40)
    assert len(shipped.utterances) == 20
    assert shipped.texts is not None


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


@pytest.mark.parametrize(("seconds", "value"), [(0.01, 0.1), (41, 0.1), (1, np.nan), (0, 0.1)])
def test_audio_that_cannot_be_served_is_refused_with_its_name(tmp_path: Path, seconds: float, value: float) -> None:
    write(tmp_path, "odd.wav", seconds, value=value)
    with pytest.raises(CheckAudioError, match=r"odd\.wav"):
        audio_set.load(tmp_path, max_seconds=40)


def test_a_file_that_is_no_audio_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "odd.wav").write_bytes(b"RIFF but not really")
    with pytest.raises(CheckAudioError, match=r"odd\.wav"):
        audio_set.load(tmp_path, max_seconds=40)


@pytest.mark.parametrize("content", ["", "[]", '{"a.wav": "text"}', '{"a.wav": {}}'])
def test_texts_of_another_form_are_refused_with_the_right_one(tmp_path: Path, content: str) -> None:
    write(tmp_path, "a.wav", 1)
    (tmp_path / "transcripts.json").write_text(content)
    with pytest.raises(CheckAudioError, match="must be"):
        audio_set.load(tmp_path, max_seconds=40)
