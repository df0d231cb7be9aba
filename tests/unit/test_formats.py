"""What files are that cannot be read as audio, and the advice for each."""

import io
import shlex
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_client import formats
from asr_client.audio import AudioFileError, read

FTYP = b"\0\0\0\x20ftyp"
OGG_PAGE = b"OggS\0\2" + bytes(20) + b"\1\x50"
ADTS = (b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(9)) * 40
FOREIGN = {
    "M4A": FTYP + b"M4A \0\0\0\0" + bytes(500),
    "MP4": FTYP + b"isom\0\0\2\0" + bytes(500),
    "QuickTime": FTYP + b"qt  \0\0\0\0" + bytes(500),
    "3GP": FTYP + b"3gp4\0\0\0\0" + bytes(500),
    "WebM": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1" + bytes(500),
    "AAC": ADTS,
    "AMR": b"#!AMR\n" + bytes(500),
    "AMR-WB": b"#!AMR-WB\n" + bytes(500),
    "Windows Media": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(500),
    "AVI": b"RIFF\0\1\0\0AVI LIST" + bytes(500),
    "Flash": b"FLV\1\5\0\0\0\x09" + bytes(500),
    "transport stream": (b"\x47" + bytes(187)) * 10,
    "Speex": OGG_PAGE + b"Speex   1.2" + bytes(500),
    "Shorten": b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\n" + bytes(2000),
}
OTHER = {
    "an HTML page": (b"<!DOCTYPE html><html><body>404</body></html>", "downloaded"),
    "JSON": (b'{"error": "not found"}', "give audio files"),
    "XML": (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "give audio files"),
    "text": ("Gr\xfc\xdfe, no audio".encode(), "give audio files"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "git lfs pull"),
    "a zip archive": (b"PK\3\4" + bytes(500), "unpack it"),
    "a gzip archive": (b"\x1f\x8b\x08" + bytes(500), "unpack it"),
    "a picture (JPEG)": (b"\xff\xd8\xff\xe0" + bytes(500), "give audio files"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_common_media_are_named_with_the_command_that_converts_them(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"  # the name says nothing
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(AudioFileError) as caught:
        read(path)
    assert kind.split("-", maxsplit=1)[0] in str(caught.value)
    assert f"ffmpeg -i {path} -ar 16000 -ac 1 {tmp_path}/talk-converted.wav" in str(caught.value)


@pytest.mark.parametrize("kind", OTHER)
def test_what_is_no_audio_is_named_with_what_to_do(kind: str, tmp_path: Path) -> None:
    content, hint = OTHER[kind]
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(AudioFileError, match=hint) as caught:
        read(path)
    assert f"it is {kind};" in str(caught.value)


def test_longer_text_is_text_though_a_letter_is_cut_in_two() -> None:
    content = ("x" + "\xe9" * formats.HEAD_BYTES).encode()[: formats.HEAD_BYTES]
    found = formats.unreadable(content)
    assert found is not None
    assert found.kind == "text"


@given(st.text(max_size=30).filter(lambda name: "/" not in name and "\0" not in name and name not in {"", ".", ".."}))
def test_the_command_names_the_file_for_a_shell(name: str) -> None:
    words = shlex.split(formats.conversion(name))
    assert words[2].removeprefix("./") == name
    assert words[-1] != words[2]
    assert not words[2].startswith("-")


def test_a_colon_in_a_name_is_no_protocol() -> None:
    assert "ffmpeg -i ./10:30.m4a " in formats.conversion("10:30.m4a")


@given(st.binary(max_size=2_000))
def test_any_bytes_are_looked_at_without_an_error(content: bytes) -> None:
    formats.unreadable(content)
    formats.mpeg_frames_follow(io.BytesIO(content))
    formats.unclosed_wav(io.BytesIO(b"RIFF\0\0\0\0WAVE" + content))


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_noise_has_no_mpeg_frames_in_a_row(seed: int) -> None:
    samples = np.random.default_rng(seed).normal(0, 100, 40_000).astype("<i2")
    assert not formats.mpeg_frames_follow(io.BytesIO(b"\xff\xfb" + samples.tobytes()))


def test_a_wav_with_chunks_behind_an_empty_one_is_closed() -> None:
    empty = b"RIFF\0\0\0\0WAVEdata" + struct.pack("<I", 0)
    assert not formats.unclosed_wav(io.BytesIO(empty + b"LIST" + struct.pack("<I", 4) + b"INFO"))


@pytest.mark.parametrize("samples", [bytes(range(1, 100)), bytes(1_000), b"\xff\xff" * 500, b"abcd" * 100])
def test_a_wav_with_samples_behind_an_empty_chunk_is_not_closed(samples: bytes) -> None:
    assert formats.unclosed_wav(io.BytesIO(b"RIFF\0\0\0\0WAVEdata" + bytes(4) + samples))


def test_a_wav_of_many_chunks_is_not_read_to_its_end() -> None:
    class Counted(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            return super().read(size)

    many = Counted(b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * 100_000)
    formats.unclosed_wav(many)
    assert many.reads < 2_000
