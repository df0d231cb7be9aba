"""Speech for the demo model, spoken by free text-to-speech engines.

The engines are ordinary programs on the PATH: ``espeak-ng``, ``flite`` and ``festival``
(Debian packages espeak-ng, flite, festival, festvox-kallpc16k, festvox-us-slt-hts).
``corpus`` writes training and test sets as shards, ``check-audio`` writes WAV files.
Audio is 16 kHz mono int16 everywhere, with the silence at both edges cut off.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import soundfile
import soxr
import typer
from rich.progress import track

from demo.sentences import make_sentences, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

SAMPLE_RATE: Final = 16_000  # Hz
SHARD_SIZE: Final = 200  # utterances per shard
TRIM_LEVEL: Final = 10 ** (-50 / 20)  # relative to the peak; quieter edges count as silence
TRIM_MARGIN: Final = SAMPLE_RATE // 50  # 20 ms are kept around the speech

ACCENTS: Final = ("en-gb", "en-us", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-gb-x-gbclan", "en-us-nyc")
HELD_OUT_ACCENTS: Final = ("en-gb-x-gbcwmd",)
VARIANTS: Final = words(
    "m1 m2 m3 m4 m6 m7 m8 f1 f2 f3 f4 Andy Annie adam anika antonio belinda benjamin caleb david edward gustave "
    "iven john marcelo max michel miguel norbert pablo paul pedro quincy rob robert sandro shelby steph travis "
    "victor zac klatt klatt2"
)
HELD_OUT_VARIANTS: Final = ("m5", "f5", "Alex", "linda", "ed")
FLITE_VOICES: Final = ("slt", "awb", "kal16", "slt", "awb", "kal16", "kal")  # kal is 8 kHz: less often
HELD_OUT_FLITE_VOICES: Final = ("rms",)
FESTIVAL_VOICES: Final = ("kal_diphone", "cmu_us_slt_arctic_hts")
ESPEAK_SHARE: Final = 0.6  # of the utterances in seen voices; flite speaks the others

# What to hand to the engines for words that they would not read as people say them.
SPOKEN: Final = {"gpu": "G P U", "kubernetes": "koober netties"}


@dataclass(frozen=True)
class Voice:
    """One voice setting. ``speed`` is words per minute (espeak-ng) or a stretch (flite)."""

    engine: str
    name: str
    speed: float
    pitch: int

    @property
    def label(self) -> str:
        """Engine and voice, for people."""
        return f"{self.engine} {self.name}"

    @property
    def setting(self) -> str:
        """Speed and pitch, for people."""
        if self.engine == "espeak-ng":
            return f"{self.speed:.0f} words per minute, pitch {self.pitch}"
        return f"duration stretch {self.speed:.2f}"

    def command(self, text: str, wav: Path) -> list[str]:
        """Return the command that speaks ``text`` into ``wav``."""
        if self.engine == "espeak-ng":
            options = ["-v", self.name, "-s", f"{self.speed:.0f}", "-p", str(self.pitch)]
            return ["espeak-ng", *options, "-w", str(wav), text]
        if self.engine == "flite":
            features = ["--setf", f"duration_stretch={self.speed:.2f}"]
            features += ["--setf", f"int_f0_target_mean={self.pitch}"] if self.name.startswith("kal") else []
            return ["flite", "-voice", self.name, *features, "-t", text, "-o", str(wav)]
        script = f'(begin (voice_{self.name}) (utt.save.wave (utt.synth (Utterance Text "{text}")) "{wav}" \'riff))'
        return ["festival", "-b", script]


@dataclass(frozen=True)
class Utterance:
    """Sentences spoken by one voice, with a pause (in seconds) after each but the last."""

    texts: tuple[str, ...]
    pauses: tuple[float, ...]
    voice: Voice

    @property
    def text(self) -> str:
        """The transcript."""
        return " ".join(self.texts)


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """Return one of the choices."""
    return choices[int(rng.integers(len(choices)))]


def espeak_voice(rng: np.random.Generator, accents: Sequence[str], variants: Sequence[str]) -> Voice:
    """Return a random espeak-ng voice setting."""
    name = f"{pick(rng, accents)}+{pick(rng, variants)}"
    return Voice("espeak-ng", name, float(rng.integers(125, 201)), int(rng.integers(25, 76)))


def flite_voice(rng: np.random.Generator, names: Sequence[str]) -> Voice:
    """Return a random flite voice setting (pitch in Hz, used by the diphone voices only)."""
    return Voice("flite", pick(rng, names), float(rng.uniform(0.85, 1.25)), int(rng.integers(80, 141)))


def seen_voice(rng: np.random.Generator) -> Voice:
    """Return a random voice of those used in training."""
    if rng.random() < ESPEAK_SHARE:
        return espeak_voice(rng, ACCENTS, VARIANTS)
    return flite_voice(rng, FLITE_VOICES)


@dataclass(frozen=True)
class Corpus:
    """What a set is made of."""

    count: int
    voice: Callable[[np.random.Generator], Voice]
    held_out: bool = True
    sentences: tuple[int, int] = (1, 1)  # fewest and most sentences per utterance


CORPORA: Final = {
    "train": Corpus(70_000, seen_voice, held_out=False),
    "seen": Corpus(600, seen_voice),
    "long": Corpus(80, seen_voice, sentences=(3, 9)),
    "voice": Corpus(300, lambda rng: flite_voice(rng, HELD_OUT_FLITE_VOICES)),
    "accent": Corpus(300, lambda rng: espeak_voice(rng, HELD_OUT_ACCENTS, HELD_OUT_VARIANTS)),
    "engine": Corpus(300, lambda rng: Voice("festival", pick(rng, FESTIVAL_VOICES), 1.0, 0)),
}


def plan(name: str, count: int, seed: int) -> list[Utterance]:
    """Return what to speak for one set; depends on the arguments only."""
    corpus = CORPORA[name]
    rng = np.random.default_rng([seed, *name.encode()])
    fewest, most = corpus.sentences
    sizes = rng.integers(fewest, most + 1, count)
    # The sentence seed differs per set, so that the test sets do not all share their texts.
    texts = iter(make_sentences(int(sizes.sum()), held_out=corpus.held_out, seed=int(rng.integers(2**31))))
    return [
        Utterance(
            texts=tuple(next(texts) for _ in range(size)),
            pauses=tuple(rng.uniform(0.15, 0.8, size - 1).tolist()),
            voice=corpus.voice(rng),
        )
        for size in sizes
    ]


def trim(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut the silence off both edges of ``audio`` [samples]."""
    loud = np.flatnonzero(np.abs(audio) > TRIM_LEVEL * np.abs(audio).max())
    first, last = int(loud[0]), int(loud[-1])
    return audio[max(0, first - TRIM_MARGIN) : last + TRIM_MARGIN]


def speak_sentence(text: str, voice: Voice, folder: Path) -> NDArray[np.int16]:
    """Speak one sentence; returns int16 samples at 16 kHz."""
    wav = folder / "speech.wav"
    spoken = " ".join(SPOKEN.get(word, word) for word in text.split())
    subprocess.run(voice.command(spoken, wav), check=True, capture_output=True)
    audio, rate = soundfile.read(wav, dtype="float32")
    resampled: NDArray[np.float32] = trim(soxr.resample(audio, rate, SAMPLE_RATE))
    samples: NDArray[np.int16] = np.round(np.clip(resampled, -1.0, 32767 / 32768) * 32768).astype(np.int16)
    return samples


def speak(utterance: Utterance, folder: Path) -> NDArray[np.int16]:
    """Speak all sentences of an utterance; returns int16 samples at 16 kHz."""
    parts = []
    for text, pause in zip(utterance.texts, (*utterance.pauses, 0.0), strict=True):
        parts += [speak_sentence(text, utterance.voice, folder), np.zeros(round(pause * SAMPLE_RATE), np.int16)]
    return np.concatenate(parts)


def write_shard(job: tuple[Path, list[Utterance]]) -> None:
    """Speak some utterances into one ``.npz`` file, unless that file is there already."""
    path, utterances = job
    if path.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        audio = [speak(utterance, Path(folder)) for utterance in utterances]
    partial_path = path.with_suffix(".partial.npz")
    np.savez(
        partial_path,
        audio=np.concatenate(audio),
        lengths=np.array([len(part) for part in audio]),
        texts=np.array([utterance.text for utterance in utterances]),
        voices=np.array([utterance.voice.label for utterance in utterances]),
    )
    partial_path.replace(path)  # a shard is there as a whole or not at all


app = typer.Typer(help="Speech for the demo model.", no_args_is_help=True)


@app.command()
def corpus(
    out: Annotated[Path, typer.Argument(help="Folder for the shards; what is there already is kept.")],
    only: Annotated[
        list[str] | None, typer.Option(help=f"Sets to make (repeatable); all of {', '.join(CORPORA)}.")
    ] = None,
    share: Annotated[float, typer.Option(help="Make this share of each set only (for a quick try).")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of texts and voices.")] = 1,
    jobs: Annotated[int, typer.Option(help="Processes.")] = os.cpu_count() or 1,
) -> None:
    """Write the training set and the test sets."""
    todo = []
    for name in only or CORPORA:
        (out / name).mkdir(parents=True, exist_ok=True)
        utterances = plan(name, max(1, round(CORPORA[name].count * share)), seed)
        for number, first in enumerate(range(0, len(utterances), SHARD_SIZE)):
            todo.append((out / name / f"{number:04}.npz", utterances[first : first + SHARD_SIZE]))
    with ProcessPoolExecutor(jobs) as pool:
        for _ in track(pool.map(write_shard, todo), "speech", total=len(todo)):
            pass


def speak_check(seed: int, folder: Path) -> Iterator[tuple[Utterance, NDArray[np.int16]]]:
    """Speak the check utterances: 17 of one sentence, two of 12 s and more, one of 25 s and more."""
    rng = np.random.default_rng([seed, 20])
    texts = iter(make_sentences(60, held_out=True, seed=seed + 1_000_003))
    for least_seconds in [0] * 17 + [12, 12, 25]:
        utterance = Utterance((next(texts),), (), seen_voice(rng))
        audio = speak(utterance, folder)
        while len(audio) < least_seconds * SAMPLE_RATE:
            pauses = (*utterance.pauses, float(rng.uniform(0.15, 0.8)))
            utterance = replace(utterance, texts=(*utterance.texts, next(texts)), pauses=pauses)
            audio = speak(utterance, folder)
        yield utterance, audio


@app.command()
def check_audio(
    out: Annotated[Path, typer.Argument(help="Folder for the WAV files and transcripts.json.")],
    seed: Annotated[int, typer.Option(help="Seed of texts and voices.")] = 1,
) -> None:
    """Write a small set of held-out sentences in seen voices as WAV files."""
    out.mkdir(parents=True, exist_ok=True)
    transcripts = {}
    with tempfile.TemporaryDirectory() as folder:
        spoken = speak_check(seed, Path(folder))
        for number, (utterance, audio) in enumerate(track(spoken, "check audio", total=20), 1):
            short = utterance.voice.name.replace("-", "_").replace("+", "_").lower()
            prefix = "" if utterance.voice.engine == "espeak-ng" else f"{utterance.voice.engine}_"
            name = f"{prefix}{short}_{number:04}.wav"
            soundfile.write(out / name, audio, SAMPLE_RATE, subtype="PCM_16")
            seconds = round(len(audio) / SAMPLE_RATE, 2)
            voice = f"{utterance.voice.label}, {utterance.voice.setting}"
            transcripts[name] = {"text": utterance.text, "voice": voice, "seconds": seconds}
    text = json.dumps(dict(sorted(transcripts.items())), indent=2)
    (out / "transcripts.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
