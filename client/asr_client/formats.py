"""What a file's first bytes say that it is, and what its owner can do where it cannot be read as audio. Pure."""

import codecs
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import BinaryIO

from asr_serving.tensors import SAMPLE_RATE

HEAD_BYTES = 64 * 1024
"""Bytes at the beginning that are looked at."""


class Remedy(Enum):
    """What helps with a file that cannot be read."""

    CONVERT = "convert it"
    UNPACK = "unpack it, and give the files in it"
    REPLACE = "give audio files"


@dataclass(frozen=True, slots=True)
class Found:
    """What a file is that cannot be read as audio.

    Attributes:
        kind: In words.
        remedy: What helps.
        hint: What helps with this kind alone; None for no more than the remedy.
    """

    kind: str
    remedy: Remedy
    hint: str | None = None


MEDIA: Mapping[tuple[int, bytes], str] = {
    (0, b"\x1a\x45\xdf\xa3"): "WebM or Matroska",
    (0, b"#!AMR"): "AMR",
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"): "Windows Media (WMA, WMV or ASF)",
    (0, b".RMF"): "RealMedia",
    (0, b".ra\xfd"): "RealAudio",
    (0, b"FLV\x01"): "Flash video",
    (0, b"\x00\x00\x01\xba"): "MPEG video",
    (0, b"\x00\x00\x01\xb3"): "MPEG video",
    (0, b"ADIF"): "AAC",
    (0, b"MAC "): "Monkey's Audio",
    (0, b"wvpk"): "WavPack",
    (0, b"TTA1"): "True Audio",
    (0, b"MPCK"): "Musepack",
    (0, b"MP+"): "Musepack",
    (0, b"DSD "): "DSD audio",
    (0, b"FRM8"): "DSD audio",
    (0, b"ajkg"): "Shorten",
    (0, b"\x0b\x77"): "AC-3",
    (0, b"\x7f\xfe\x80\x01"): "DTS",
    (8, b"AVI "): "AVI video",
    (4, b"moov"): "QuickTime or MP4",
    (4, b"mdat"): "QuickTime or MP4",
    (4, b"wide"): "QuickTime or MP4",
}
"""Sound that libsndfile does not read, by where a signature stands."""
BRANDS: Mapping[bytes, str] = {
    b"M4A": "M4A (AAC or Apple Lossless)",
    b"M4B": "M4B (AAC)",
    b"qt": "QuickTime",
    b"3gp": "3GP",
    b"3g2": "3GP",
}
"""Relatives of MP4, by the beginning of what they call themselves."""
OGG_CODECS: Mapping[bytes, str] = {b"Speex   ": "Ogg Speex", b"\x80theora": "Ogg Theora video"}
ARCHIVES: Mapping[tuple[int, bytes], str] = {
    (0, b"PK\x03\x04"): "a zip archive",
    (0, b"PK\x05\x06"): "an empty zip archive",
    (0, b"\x1f\x8b"): "a gzip archive",
    (0, b"BZh"): "a bzip2 archive",
    (0, b"\xfd7zXZ\x00"): "an xz archive",
    (0, b"\x28\xb5\x2f\xfd"): "a Zstandard archive",
    (0, b"7z\xbc\xaf\x27\x1c"): "a 7-Zip archive",
    (0, b"Rar!"): "a RAR archive",
    (257, b"ustar"): "a tar archive",
}
OTHERS: Mapping[tuple[int, bytes], str] = {
    (0, b"MThd"): "MIDI: notes, no sound",
    (8, b"RMID"): "MIDI: notes, no sound",
    (0, b"%PDF"): "a PDF document",
    (0, b"\x89PNG"): "a picture (PNG)",
    (0, b"\xff\xd8\xff"): "a picture (JPEG)",
    (0, b"GIF8"): "a picture (GIF)",
    (8, b"WEBP"): "a picture (WebP)",
    (4, b"ftypheic"): "a picture (HEIC)",
    (4, b"ftypavif"): "a picture (AVIF)",
    (0, b"\x93NUMPY"): "a NumPy array",
    (0, b"\x7fELF"): "a program",
    (0, b"SQLite format 3"): "a SQLite database",
}
MPEG_BIT_RATES = {
    # (MPEG 1, layer): kbit/s by index 1 to 14
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MPEG_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""By the two bits of the version: MPEG 1, 2 and 2.5."""
MAX_CHUNKS = 1_000
"""Chunks of a WAV that are looked at."""
FRAMES_IN_A_ROW = 5
"""So many headers where each says that the next one is: raw samples do not have them by chance."""


def unreadable(head: bytes) -> Found | None:
    """Name what is known and cannot be read as audio; None for all else.

    Args:
        head: The file's first `HEAD_BYTES`, or all of it.
    """
    for signatures, remedy in ((OTHERS, Remedy.REPLACE), (ARCHIVES, Remedy.UNPACK), (MEDIA, Remedy.CONVERT)):
        for (offset, signature), kind in signatures.items():
            if head.startswith(signature, offset):
                return Found(kind, remedy)
    return _coded(head) or _text(head)


def _coded(head: bytes) -> Found | None:
    """Name sound that has more than a signature at a fixed place."""
    kind = None
    if head.startswith(b"ftyp", 4):
        kind = next((kind for start, kind in BRANDS.items() if head.startswith(start, 8)), "MP4")
    elif head.startswith(b"OggS"):
        kind = next((kind for codec, kind in OGG_CODECS.items() if codec in head[:512]), None)
    elif head.startswith(b"NIST_1A") and b"shorten" in head[:1024]:
        kind = "NIST SPHERE with Shorten inside"
    elif _repeats(head, b"\x47", 188):
        kind = "an MPEG transport stream"
    elif _has_adts_frames(head):
        kind = "AAC"
    return None if kind is None else Found(kind, Remedy.CONVERT)


def conversion(file: str | None, *, channel: int | None = None) -> str:
    """Command that makes a WAV of a file.

    Args:
        file: Its path, None for standard input.
        channel: The one to take, from 1; None for the average.
    """
    mono = "-ac 1" if channel is None else f"-af 'pan=mono|c0=c{channel - 1}'"
    to_wav = f"-ar {SAMPLE_RATE} {mono}"
    if file is None:
        return f"ffmpeg -i - {to_wav} -f wav - | asr transcribe -"
    # ffmpeg takes a dash in front for an option, and letters before a colon for a protocol.
    named = f"./{file}" if not file.startswith("/") and (file.startswith("-") or ":" in file) else file
    path = PurePath(named)
    target = path.with_name(f"{path.stem}-converted.wav") if path.suffix.lower() == ".wav" else path.with_suffix(".wav")
    shown = str(target) if not named.startswith("./") else f"./{target}"
    return f"ffmpeg -i {shlex.quote(named)} {to_wav} {shlex.quote(shown)}"


def advice(found: Found | None, file: str | None) -> str:
    """What to do with a file that cannot be read.

    Args:
        found: What it is, None when nothing is known of it: it may be samples without a header.
        file: Its path, None for standard input.
    """
    if found is None:
        # No byte tells the rate of samples without a header.
        raw = conversion(file).replace("-i", "-f s16le -ar RATE -ac CHANNELS -i", 1)
        return f"convert it: {conversion(file)}; or, if it holds samples without a header: {raw}"
    if found.hint is not None:
        return found.hint
    return f"convert it: {conversion(file)}" if found.remedy is Remedy.CONVERT else found.remedy.value


def may_be_mpeg(head: bytes) -> bool:
    """Whether libsndfile takes what begins so for MP3."""
    return head.startswith(b"\xff") and head[1:2] >= b"\xe0"


def mpeg_frames_follow(file: BinaryIO) -> bool:
    """Whether MPEG audio frames follow one another near the beginning: raw samples can look like one frame.

    Args:
        file: Seekable; its position changes.
    """
    file.seek(0)
    content = file.read(HEAD_BYTES)
    start = content.find(b"\xff")
    while start >= 0:
        if _frames_from(content, start):
            return True
        start = content.find(b"\xff", start + 1)
    return False


def _frames_from(content: bytes, start: int) -> bool:
    """Whether `FRAMES_IN_A_ROW` of one kind follow from here, or the whole of a short file is such frames."""
    kind, found, short = _mpeg_kind(content, start), 0, start == 0 and len(content) < HEAD_BYTES
    while found < FRAMES_IN_A_ROW and start < len(content):
        size = _mpeg_frame_bytes(content[start : start + 4])
        if size is None or _mpeg_kind(content, start) != kind:
            return False
        start, found = start + size, found + 1
    return found == FRAMES_IN_A_ROW or (short and found > 0)


def _mpeg_kind(content: bytes, start: int) -> tuple[int, ...]:
    """What is the same in all frames of a file: version, layer and sample rate."""
    return tuple(byte & mask for byte, mask in zip(content[start + 1 : start + 3], (0xFE, 0x0C), strict=False))


def _mpeg_frame_bytes(header: bytes) -> int | None:
    """Length of the MPEG audio frame with this header of 4 bytes; None when it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:  # noqa: PLR2004
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bit_rate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or bit_rate in {0, 15} or rate == 3:  # noqa: PLR2004
        return None
    bits = MPEG_BIT_RATES[version == 3, layer][bit_rate - 1] * 1000  # noqa: PLR2004
    hertz = MPEG_RATES[version][rate]
    if layer == 1:
        return (12 * bits // hertz + padding) * 4
    samples = 576 if layer == 3 and version != 3 else 1152  # noqa: PLR2004
    return samples // 8 * bits // hertz + padding


def _has_adts_frames(head: bytes) -> bool:
    """Whether these are AAC frames in a row: each says where the next one is."""
    start, found = 0, 0
    while found < FRAMES_IN_A_ROW and start + 7 <= len(head):
        if head[start] != 0xFF or head[start + 1] & 0xF6 != 0xF0:  # noqa: PLR2004
            return False
        size = (head[start + 3] & 3) << 11 | head[start + 4] << 3 | head[start + 5] >> 5
        if size < 7:  # noqa: PLR2004 (its own header)
            return False
        start, found = start + size, found + 1
    return found > 0


def _repeats(head: bytes, byte: bytes, every: int) -> bool:
    times = 4
    return len(head) > every * times and all(head.startswith(byte, every * index) for index in range(times))


def _text(head: bytes) -> Found | None:
    """Name the kind of text, None when it is none."""
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:256].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        hint = "was it downloaded from a page that wants a login, or that is not there any more?"
        return Found("an HTML page", Remedy.REPLACE, hint)
    if start.startswith(b"version https://git-lfs"):
        return Found("a pointer of Git LFS", Remedy.REPLACE, "the audio itself comes with: git lfs pull")
    try:
        # The last character of a longer file may be cut in two.
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < HEAD_BYTES)
    except UnicodeDecodeError:
        return None
    if not all(letter.isprintable() or letter in "\t\r\n\f\ufeff" for letter in text):
        return None
    names = {b"{": "JSON", b"[": "JSON", b"<": "XML"}
    return Found(names.get(start[:1], "text"), Remedy.REPLACE) if text else None


def unclosed_wav(file: BinaryIO) -> bool:
    """Whether a WAV says that it holds no samples, though bytes follow that are no further chunks.

    Programs that write to a pipe, or that were stopped, leave its length at 0.

    Args:
        file: Seekable; its position changes.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return False
    place, data = 12, None
    for _ in range(MAX_CHUNKS):
        file.seek(place)
        chunk = file.read(8)
        if len(chunk) < 8 or not chunk[:4].isascii() or not chunk[:4].decode().isprintable():  # noqa: PLR2004
            break
        length = int.from_bytes(chunk[4:], "little")
        place += 8 + length + length % 2
        if chunk[:4] == b"data" and data is None:
            if length > 0:
                return False
            data = place
    # Chunks up to the end: it is empty.
    return data is not None and data < size and place != size
