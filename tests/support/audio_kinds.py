"""Kinds of audio that people send, made of one recording of speech: telephones, quiet and loud, silence, tones.

    KINDS["-50 dB"](speech)      # [L] int16 of [L] float in [-1, 1], both at 16 kHz

scipy comes with NeMo.
"""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import soundfile

from asr_serving.tensors import SAMPLE_RATE

Signal = npt.NDArray[np.float64]
Pcm = npt.NDArray[np.int16]
LEAST = 2.0**-15
"""One step of 16-bit audio."""


def pcm(signal: Signal) -> Pcm:
    """Rounded to 16 bits."""
    rounded: Pcm = np.clip(np.round(signal * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    return rounded


def level(decibels: float) -> Callable[[Signal], Pcm]:
    """Speech with its peak at a level below full scale."""
    return lambda speech: pcm(speech / np.abs(speech).max() * 10 ** (decibels / 20))


def telephone(subtype: str, decibels: float = -6.0) -> Callable[[Signal], Pcm]:
    """Speech at 8 kHz through a codec of libsndfile, as telephone systems record it."""

    def made(speech: Signal) -> Pcm:
        from scipy.signal import resample_poly  # noqa: PLC0415

        narrow = resample_poly(speech / np.abs(speech).max() * 10 ** (decibels / 20), 1, 2)
        file = io.BytesIO()
        soundfile.write(file, narrow, SAMPLE_RATE // 2, format="WAV", subtype=subtype)
        file.seek(0)
        decoded, _ = soundfile.read(file, dtype="float64")
        return pcm(resample_poly(decoded, 2, 1))

    return made


def band_limited(speech: Signal) -> Pcm:
    """From 300 to 3,400 Hz, by a filter."""
    from scipy.signal import butter, sosfilt  # noqa: PLC0415

    return pcm(sosfilt(butter(8, [300, 3400], "band", fs=SAMPLE_RATE, output="sos"), speech))


def noisy(speech: Signal) -> Pcm:
    """White noise 10 dB below the speech."""
    noise = np.random.default_rng(0).standard_normal(speech.size)
    return pcm(speech + noise * speech.std() / 10**0.5)


def silence(seconds: float) -> Callable[[Signal], Pcm]:
    """Zeros."""
    return lambda _: np.zeros(int(seconds * SAMPLE_RATE), dtype=np.int16)


def silence_around(speech: Signal) -> Pcm:
    """Zeros for two seconds before and three after."""
    return pcm(np.concatenate([np.zeros(2 * SAMPLE_RATE), speech, np.zeros(3 * SAMPLE_RATE)]))


def muted_between(speech: Signal) -> Pcm:
    """Muted for a second in the middle."""
    middle = speech.size // 2
    return pcm(np.concatenate([speech[:middle], np.zeros(SAMPLE_RATE), speech[middle:]]))


def click(height: float) -> Callable[[Signal], Pcm]:
    """Silence with one sample in it."""

    def made(_: Signal) -> Pcm:
        signal = np.zeros(2 * SAMPLE_RATE)
        signal[9_000] = height
        return pcm(signal)

    return made


def near_silent(share: float) -> Callable[[Signal], Pcm]:
    """Zeros, and a share of samples one step off."""

    def made(_: Signal) -> Pcm:
        random = np.random.default_rng(0)
        signs = random.choice([-1, 1], 2 * SAMPLE_RATE)
        return (signs * (random.random(2 * SAMPLE_RATE) < share)).astype(np.int16)

    return made


def tones(*frequencies: float, decay: float = 0.0) -> Callable[[Signal], Pcm]:
    """Tones together, struck three times a second where they decay."""

    def made(_: Signal) -> Pcm:
        seconds = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
        struck = np.exp(-decay * ((3 * seconds) % 1))
        return pcm(sum(np.sin(2 * np.pi * each * seconds) for each in frequencies) * struck * 0.8 / len(frequencies))

    return made


def start(milliseconds: float) -> Callable[[Signal], Pcm]:
    """Only a moment of the speech, where it is loud."""

    def made(speech: Signal) -> Pcm:
        size = int(milliseconds * SAMPLE_RATE / 1000)
        first = int(np.clip(np.abs(speech).argmax() - size // 2, 0, speech.size - size))
        return pcm(speech[first : first + size])

    return made


def repeated(seconds: float) -> Callable[[Signal], Pcm]:
    """The speech again and again."""
    return lambda speech: pcm(np.resize(speech, int(seconds * SAMPLE_RATE)))


LIMIT_SECONDS = 20
"""The longest audio here."""
KINDS: dict[str, Callable[[Signal], Pcm]] = {
    "as recorded": pcm,
    "-30 dB": level(-30),
    "-40 dB": level(-40),
    "-50 dB": level(-50),
    "-60 dB": level(-60),
    "-70 dB": level(-70),
    "8 kHz": telephone("PCM_16"),
    "8 kHz, 8 bits": telephone("PCM_U8"),
    "mu-law": telephone("ULAW"),
    "A-law": telephone("ALAW"),
    "GSM": telephone("GSM610"),
    "mu-law, -40 dB": telephone("ULAW", -40),
    "300 to 3,400 Hz": band_limited,
    "noisy": noisy,
    "clipped": lambda speech: pcm(np.clip(speech * 20, -1, 1)),
    "DC offset": lambda speech: pcm(speech / 2 + 0.3),
    "DC only": lambda speech: pcm(np.full(speech.size, 0.3)),
    "silence, 0.5 s": silence(0.5),
    "silence, 2 s": silence(2),
    "silence, 20 s": silence(LIMIT_SECONDS),
    "silence around": silence_around,
    "muted between": muted_between,
    "silence, a click of one step": click(LEAST),
    "silence, a loud click": click(0.5),
    "near-silent": near_silent(2 / 3),
    "near-silent, rarely a step": near_silent(0.001),
    "tone": tones(440),
    "tone, 1 kHz": tones(1000),
    "mains hum": tones(50, 150),
    "chord": tones(220, 277.2, 329.6, 440, 880, decay=3),
    "25 ms": start(25),
    "30 ms": start(30),
    "100 ms": start(100),
    "0.5 s": start(500),
    "20 s, the limit": repeated(LIMIT_SECONDS),
}
