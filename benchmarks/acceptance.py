"""Does the acceptance test accept what is right and reject what is damaged? Correct exports and damaged ones, on all
kinds of audio.

    python benchmarks/acceptance.py benchmarks/results [--speech FOLDER] [--triton]

Exports the demo checkpoint and random ones of many configurations in this process, serves them with ONNX Runtime alone
and in mixed batches, and judges them with the code of the stages `check` and `gate` on each kind of
`tests.support.audio_kinds`. `--speech` adds recordings (WAV or FLAC), such as telephone prompts spoken by people;
`--triton` runs the whole gate for the demo checkpoint as well. Then every damage of `tests.support.damages`, on the
check audio that ships, and on each kind of audio alone. Writes `acceptance.json` and `acceptance.png`.
"""

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from asr_client.audio import EXTENSIONS, read
from asr_contract.artifact import ModelFacts
from asr_contract.errors import RejectedError
from asr_contract.recipe import Precision, Recipe
from asr_serving.audio import MIN_SAMPLES, Batches, Samples, floats
from asr_serving.frontend import plain
from asr_serving.tensors import SAMPLE_RATE
from asr_serving.text import Vocabulary, transcribe
from model_builder import audio_set
from model_builder.audio_set import AudioSet, Utterance
from model_builder.onnx_graph import Session
from model_builder.pipeline import versions
from model_builder.progress import NullReporter
from model_builder.references import Heard
from model_builder.repository.layout import served_by_onnx
from model_builder.stages import check, export, frontend, gate, inspect, repository
from tests.support import checkpoints, damages
from tests.support.audio_kinds import KINDS, LIMIT_SECONDS
from tests.support.checkpoints import CONFORMER, FASTCONFORMER, PIECES, Kind

NAME = "english_stt"
DEMO = Path(__file__).parents[1] / "demo" / "english_stt.nemo"
SPEECH = "flite_slt_0010.wav"
BATCH = 6
RECORDINGS = 8
RANDOM: dict[str, Kind] = {name: kind for name, kind in checkpoints.KINDS.items() if name != "large"} | {
    "128 bands, layer norm": Kind(
        "EncDecCTCModelBPE", PIECES, features=128, encoder=FASTCONFORMER | {"conv_norm_type": "layer_norm"}
    ),
    "absolute positions": Kind(
        "EncDecCTCModel", features=64, encoder=CONFORMER | {"self_attention_model": "abs_pos", "xscaling": True}
    ),
}
HALF = ("demo", "bpe", "characters")


@dataclass(frozen=True, slots=True)
class Export:
    """A correct export, and all that judges it."""

    name: str
    folder: Path
    recipe: Recipe
    vocabulary: Vocabulary
    heard: list[Heard]
    checked: dict[str, Any]
    rejected: str | None
    facts: ModelFacts


class Server:
    """What serving does, without Triton: alone, and in batches of mixed lengths in random order."""

    def __init__(self, model: Path, vocabulary: Vocabulary) -> None:
        self._session = Session(model)
        self._vocabulary = vocabulary

    def transcribe(self, signals: Sequence[Samples]) -> tuple[dict[str, list[str]], list[gate.Steps]]:
        """Texts in batches and alone, and the steps of each alone."""
        alone = [self._batch([signal])[0] for signal in signals]
        order = np.random.default_rng(0).permutation(len(signals)).tolist()
        batched: dict[int, str] = {}
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            found = self._batch([signals[index] for index in chosen])
            batched |= {index: text for index, (text, _) in zip(chosen, found, strict=True)}
        texts = {
            "scheduler": [batched[index] for index in range(len(signals))],
            "ensemble": [text for text, _ in alone],
        }
        return texts, [steps for _, steps in alone]

    def _batch(self, signals: Sequence[Samples]) -> list[tuple[str, gate.Steps]]:
        audio, lengths = Batches().pad(signals, max(signal.size for signal in signals))
        names = ("tokens", "token_logprobs", "encoded_length")
        outputs = self._session.run(plain(audio, lengths), names)
        tokens, logprobs, counts = (outputs[name] for name in names)
        texts = transcribe(tokens, logprobs, counts[:, 0], self._vocabulary)
        return [
            (each.text, gate.Steps(tokens[row, : counts[row, 0]], logprobs[row, : counts[row, 0]]))
            for row, each in enumerate(texts)
        ]


def all_kinds(speech: Path | None) -> AudioSet:
    """One utterance of each kind, and recordings."""
    signal = floats(read(audio_set.SHIPPED / SPEECH)).astype(np.float64)
    found = {name: made(signal) for name, made in KINDS.items()}
    if speech is not None:
        files = sorted(path for path in speech.rglob("*") if path.suffix.lower() in EXTENSIONS)
        for path in files[:: max(1, len(files) // RECORDINGS)]:
            pcm = read(path)
            if MIN_SAMPLES <= pcm.size <= LIMIT_SECONDS * SAMPLE_RATE:
                found[f"recording {path.name}"] = pcm
    return AudioSet(tuple(Utterance(name, pcm, None) for name, pcm in found.items()), "0" * 64)


def exported(name: str, source: Path, audio: AudioSet, folder: Path) -> Iterator[Export]:
    """Export a checkpoint in FP32, and in FP16 where HALF says so, and check it."""
    from model_builder.nemo import Checkpoint  # noqa: PLC0415

    reporter = NullReporter()
    folder.mkdir(parents=True)
    description = inspect.run(source, folder / "checkpoint", reporter)
    checkpoint = Checkpoint(description)
    acoustic, words, mel = folder / "acoustic.onnx", folder / "vocabulary.json", folder / "frontend.onnx"
    found = export.run(checkpoint, acoustic, words, max_seconds=LIMIT_SECONDS, reporter=reporter)
    for precision in (Precision.FP32, *([Precision.FP16] if name in HALF else [])):
        recipe = Recipe(
            model_name=NAME,
            checkpoint_sha256="0" * 64,
            check_audio_sha256="0" * 64,
            precision=precision,
            max_audio_seconds=LIMIT_SECONDS,
        )
        here = folder / precision
        here.mkdir()
        model, heard = here / "model.onnx", here / "references.json"
        frontend.run(checkpoint, acoustic, mel, model, recipe=recipe, reporter=reporter)
        rejected = None
        try:
            checked = check.run(checkpoint, mel, model, audio, heard, recipe=recipe, reporter=reporter)
        except RejectedError as error:
            rejected, checked = str(error), error.figures
        yield Export(
            f"{name}, {precision}",
            here,
            recipe,
            checkpoint.vocabulary,
            check.load(heard) if heard.is_file() else [],
            checked,
            rejected,
            ModelFacts(
                features=description.features,
                hop=found["hop"],
                channels=found["channels"],
                preprocessor=description.preprocessor,
            ),
        )


def accepted_by_file(item: Export, audio: AudioSet) -> tuple[list[dict[str, Any]], str | None]:
    """How close each file came to each limit, and why the whole was rejected, if it was."""
    texts, steps = Server(item.folder / "model.onnx", item.vocabulary).transcribe(
        [utterance.signal for utterance in audio.utterances]
    )
    figures = gate.figures_of(
        texts,
        {"onnx": steps},
        audio,
        item.heard,
        vocabulary=item.vocabulary,
        precision=item.recipe.precision,
    )
    rejected = item.rejected
    try:
        gate.judge(figures, item.recipe)
    except RejectedError as error:
        rejected = rejected or str(error)
    rows = []
    for checked, served in zip(item.checked["by_utterance"], figures["transcripts"], strict=True):
        shares = {
            "features": checked["max_feature_difference"] / checked["feature_limit"],
            "served log-probabilities": served["max_token_logprob_difference"] / served["token_logprob_limit"],
            "served, mean": served["mean_token_logprob_difference"] / served["mean_token_logprob_limit"],
        }
        if item.recipe.precision is Precision.FP32:
            shares["log-probabilities"] = checked["max_logprob_difference"] / checked["logprob_limit"]
        rows.append(
            {
                "audio": served["file"],
                "accepted": max(shares.values()) <= 1
                and served["explained"]
                and min(checked["token_agreement"], served["token_agreement"])
                >= item.recipe.min_token_agreement_permille / 1000,
                "text": served["checkpoint"],
                "same_text": served["same"],
                "limit": served["token_logprob_limit"],
                "of_limit": {name: float(f"{share:.3g}") for name, share in shares.items()},
            }
        )
    return rows, rejected


def damaged(item: Export, audio: AudioSet, names: Mapping[str, Callable[[Path], None]]) -> list[dict[str, Any]]:
    """Every damage: is it rejected on the audio as a whole, and on which files alone?"""
    signals = [utterance.signal for utterance in audio.utterances]
    found = []
    for name, damage in names.items():
        with laid_out(item) as folder:
            damage(folder)
            vocabulary = Vocabulary.load(next(folder.rglob("vocabulary.json")))
            texts, steps = Server(folder / damages.MODEL, vocabulary).transcribe(signals)
        whole = verdict(item, audio, texts, steps, vocabulary)
        alone = [
            utterance.name
            for index, utterance in enumerate(audio.utterances)
            if verdict(item, audio, texts, steps, vocabulary, only=index)
        ]
        found.append({"damage": name, "export": item.name, "rejected": whole is not None, "why": whole, "alone": alone})
    return found


def verdict(
    item: Export,
    audio: AudioSet,
    texts: dict[str, list[str]],
    steps: list[gate.Steps],
    vocabulary: Vocabulary,
    *,
    only: int | None = None,
) -> str | None:
    """Why the gate rejects it on the audio, or on one file alone; None if it does not."""
    part = slice(None) if only is None else slice(only, only + 1)
    figures = gate.figures_of(
        {role: each[part] for role, each in texts.items()},
        {"onnx": steps[part]},
        AudioSet(audio.utterances[part], audio.sha256),
        item.heard[part],
        vocabulary=vocabulary,
        precision=item.recipe.precision,
    )
    try:
        gate.judge(figures, item.recipe)
    except RejectedError as error:
        return str(error)
    return None


@contextmanager
def laid_out(item: Export) -> Iterator[Path]:
    """A copy of what damages change, where they look for it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = folder / damages.MODEL
        model.parent.mkdir(parents=True)
        shutil.copyfile(item.folder / "model.onnx", model)
        item.vocabulary.save(folder / "vocabulary.json")
        yield folder


def through_triton(item: Export, audio: AudioSet) -> dict[str, Any]:
    """The whole gate, with a real Triton."""
    folder = item.folder / "repository"
    repository.run(
        folder,
        recipe=item.recipe,
        models={"onnx": item.folder / "model.onnx"},
        served=served_by_onnx(item.recipe),
        vocabulary=item.vocabulary,
        facts=item.facts,
        references=item.folder / "references.json",
        reporter=NullReporter(),
    )
    try:
        figures = gate.run(
            folder,
            audio,
            item.heard,
            recipe=item.recipe,
            log=item.folder / "triton.log",
            reporter=NullReporter(),
        )
    except RejectedError as error:
        return {"export": item.name, "accepted": False, "why": str(error)}
    return {"export": item.name, "accepted": True, "decided_by": figures["decided_by"], "server": figures["server"]}


def plot(content: dict[str, Any], path: Path) -> None:
    """How close each combination came to its limit, and on which audio alone each damage is found."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    exports = list(content["exports"])
    kinds = [row["audio"] for row in content["exports"][exports[0]]["audio"]]
    share = np.array([[max(row["of_limit"].values()) for row in content["exports"][name]["audio"]] for name in exports])
    found = np.array([[kind in row["alone"] for kind in kinds] for row in content["damages_by_audio"]], dtype=float)
    figure = Figure(figsize=(3 + 0.24 * len(kinds), 3.4 + 0.25 * (len(exports) + len(found))), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(len(exports), len(found)))
    image = above.imshow(np.log10(np.maximum(share, 1e-5)), vmin=-4, vmax=0, cmap="viridis", aspect="auto")
    above.set_yticks(range(len(exports)), exports, fontsize=8)
    above.set_title(
        "Correct exports: greatest difference from NeMo over its limit (1 and more is rejected)", fontsize=9
    )
    bar = figure.colorbar(image, ax=above, ticks=[-4, -3, -2, -1, 0])
    bar.ax.set_yticklabels(["0.0001", "0.001", "0.01", "0.1", "1"])
    below.imshow(found, vmin=0, vmax=1, cmap="Greens", aspect="auto")
    below.set_yticks(
        range(len(found)),
        [f"{row['damage']}, {row['export'].split(', ')[-1]}" for row in content["damages_by_audio"]],
        fontsize=8,
    )
    below.set_title("Damaged demo model: rejected on this audio alone (green)", fontsize=9)
    below.set_xticks(range(len(kinds)), kinds, rotation=90, fontsize=7)
    figure.savefig(path, dpi=110)


def main(
    results: Annotated[Path, typer.Argument(help="Folder for acceptance.json and acceptance.png.")],
    *,
    speech: Annotated[Path | None, typer.Option(help="Folder with recordings to add.")] = None,
    triton: Annotated[bool, typer.Option(help="Also run the whole gate for the demo checkpoint.")] = False,
) -> None:
    """Measure and write."""
    started = time.monotonic()
    kinds = all_kinds(speech)
    shipped = audio_set.load(audio_set.SHIPPED, max_seconds=LIMIT_SECONDS)
    content: dict[str, Any] = {"versions": versions(), "machine": platform.platform(), "cores": os.cpu_count()}
    content |= {"exports": {}, "damages": [], "damages_by_audio": [], "triton": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for item in exported("demo", DEMO, shipped, folder / "shipped"):
            listed = damages.FP32 if item.recipe.precision is Precision.FP32 else damages.FP16
            content["damages"] += damaged(item, shipped, listed)
        for name in ("demo", *RANDOM):
            source = DEMO
            if name in RANDOM:
                source = folder / f"{len(content['exports'])}.nemo"
                checkpoints.make(RANDOM[name], source)
            for item in exported(name, source, kinds, folder / source.stem):
                rows, rejected = accepted_by_file(item, kinds)
                content["exports"][item.name] = {
                    "rejected": rejected,
                    "single_precision": item.checked["single_precision"],
                    "audio": rows,
                }
                typer.echo(f"{item.name}: {sum(row['accepted'] for row in rows)} of {len(rows)} accepted; {rejected}")
                if name == "demo":
                    listed = damages.FP32 if item.recipe.precision is Precision.FP32 else damages.FP16
                    content["damages_by_audio"] += damaged(item, kinds, listed)
                    if triton:
                        content["triton"].append(through_triton(item, kinds))
            write(content, results, started)
    typer.echo(
        f"{content['accepted']} of {content['combinations']} combinations accepted, {content['same_texts']} with the "
        f"same text; {content['damages_rejected']} damages rejected on the check audio"
    )


def write(content: dict[str, Any], results: Path, started: float) -> None:
    """Write what was found so far."""
    rows = [row for item in content["exports"].values() for row in item["audio"]]
    content |= {
        "combinations": len(rows),
        "accepted": sum(row["accepted"] for row in rows),
        "same_texts": sum(row["same_text"] for row in rows),
        "sets_rejected": sum(item["rejected"] is not None for item in content["exports"].values()),
        "damages_rejected": f"{sum(row['rejected'] for row in content['damages'])} of {len(content['damages'])}",
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "acceptance.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    plot(content, results / "acceptance.png")


if __name__ == "__main__":
    typer.run(main)
