"""Train, evaluate and save the demo model: a small FastConformer-CTC with BPE tokens.

The loop is plain PyTorch over the modules of a NeMo model. All training audio lies in GPU
memory as int16 samples; batches are cut from it, augmented and turned into features there.
"""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import jiwer
import numpy as np
import sentencepiece
import torch
import typer

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # NeMo loads ONNX Runtime, which reads it then

from nemo.collections.asr.models import EncDecCTCModelBPE
from nemo.core.classes.common import typecheck
from omegaconf import OmegaConf, open_dict
from rich.progress import track
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_RATE: Final = 16_000  # Hz
TOKEN_SAMPLES: Final = 8 * 160  # samples per encoder frame: 8x subsampling of 10 ms frames
VOCABULARY: Final = 320
TEST_SETS: Final = ("seen", "long", "voice", "accent", "engine")
EDGE_SILENCES_MS: Final = (0, 100, 400)  # silence put at both edges in the evaluation
SPEEDS: Final = (0.88, 1.14)
BINS: Final = 10  # length bins of single utterances
JOINED_SHARE: Final = 0.25  # of the batches: several utterances in a row, with pauses
JOINED_SECONDS: Final = (7.0, 31.0)
FFT_BLOCK: Final = 16_384  # FFT sizes are multiples of this, hence have small factors only


@dataclass(frozen=True)
class Corpus:
    """Utterances end to end: ``audio`` [all samples], the others one entry per utterance."""

    audio: NDArray[np.int16]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    texts: list[str]
    voices: NDArray[np.str_]

    @property
    def hours(self) -> float:
        """Length of all the audio."""
        return len(self.audio) / SAMPLE_RATE / 3600


def load_corpus(folder: Path) -> Corpus:
    """Read all shards of one set."""
    shards = [np.load(path) for path in sorted(folder.glob("[0-9]*[0-9].npz"))]
    lengths = np.concatenate([shard["lengths"] for shard in shards])
    return Corpus(
        audio=np.concatenate([shard["audio"] for shard in shards]),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        texts=[str(text) for shard in shards for text in shard["texts"]],
        voices=np.concatenate([shard["voices"] for shard in shards]),
    )


def train_tokenizer(texts: list[str], folder: Path) -> None:
    """Write the three files of a SentencePiece BPE tokenizer that NeMo expects into ``folder``."""
    written = io.BytesIO()  # given a file name, SentencePiece would keep that name inside the model
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        model_type="bpe",
        vocab_size=VOCABULARY,
        character_coverage=1.0,
        normalization_rule_name="identity",  # no normalisation tables: 4 KB instead of 240 KB
        bos_id=-1,
        eos_id=-1,
        minloglevel=1,
    )
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    pieces = [processor.id_to_piece(index) for index in range(VOCABULARY)]
    scores = [f"{piece}\t{processor.get_score(index):g}\n" for index, piece in enumerate(pieces)]
    (folder / "tokenizer.vocab").write_text("".join(scores), encoding="utf-8")
    names = pieces[1:]  # without <unk>
    names = [name.removeprefix("▁") if name.startswith("▁") else f"##{name}" for name in names]  # as NeMo lists them
    (folder / "vocab.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def make_model(tokenizer: Path) -> EncDecCTCModelBPE:
    """Return the untrained model."""
    config = {
        "name": "stt_en_fastconformer_ctc_demo",
        "sample_rate": SAMPLE_RATE,
        "log_prediction": False,
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": SAMPLE_RATE,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 80,
            "n_fft": 512,
            "dither": 1e-5,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 80,
            "feat_out": -1,
            "n_layers": 6,
            "d_model": 128,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 64,
            "ff_expansion_factor": 2,
            "self_attention_model": "rel_pos",
            "n_heads": 4,
            "att_context_size": [-1, -1],
            "xscaling": False,
            "pos_emb_max_len": 600,  # frames of 80 ms: 48 s
            "conv_kernel_size": 9,
            "conv_norm_type": "batch_norm",
            "dropout": 0.05,
            "dropout_pre_encoder": 0.05,
            "dropout_emb": 0.0,
            "dropout_att": 0.05,
            "sync_max_audio_length": False,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": 128,
            "num_classes": -1,
            "vocabulary": [],
        },
        "tokenizer": {"dir": str(tokenizer), "type": "bpe"},
        "decoding": {"strategy": "greedy_batch"},
        "ctc_reduction": "mean_batch",
    }
    return EncDecCTCModelBPE(OmegaConf.create(config))


def save_model(model: EncDecCTCModelBPE, path: Path) -> None:
    """Write the ``.nemo`` file, without the tokenizer's folder of this machine."""
    with open_dict(model.cfg):
        model.cfg.tokenizer.dir = None
        model.cfg.validation_ds = {}  # transcribe() looks into it
    model.save_to(str(path))


class Batches(Dataset[dict[str, Tensor]]):
    """Batch number -> tables that say how to cut the batch out of the corpus.

    A row of a batch is made of K segments: ``source`` [B, K] is where a segment begins in
    the corpus, ``target`` [B, K] where it goes in the row and ``length`` [B, K] how long it
    is, all in samples and before the change of ``speed`` [B]. ``total`` [B] is the length of
    the row. ``tokens`` [sum] are the tokens of all rows, ``token_lengths`` [B] their numbers.
    Each batch depends on the seed and its number only.
    """

    def __init__(self, corpus: Corpus, tokens: list[NDArray[np.int64]], steps: int, seconds: float, seed: int) -> None:
        """``seconds`` is the audio in one batch, silence included."""
        # Without the (large) samples: worker processes get a copy of this object.
        self.starts, self.lengths, self.tokens = corpus.starts, corpus.lengths, tokens
        self.steps, self.samples, self.seed = steps, seconds * SAMPLE_RATE, seed
        shortest = corpus.lengths / SPEEDS[1] // TOKEN_SAMPLES
        needed = np.array([len(row) + int((row[1:] == row[:-1]).sum()) for row in tokens])
        self.usable = np.flatnonzero(shortest >= needed)  # CTC needs that many frames
        by_length = self.usable[np.argsort(corpus.lengths[self.usable], kind="stable")]
        self.bins = np.array_split(by_length, BINS)
        self.voices = [
            group
            for voice in np.unique(corpus.voices)
            if len(group := self.usable[corpus.voices[self.usable] == voice])
        ]

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.steps

    def rows(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Draw the utterances of each row of a batch."""
        if rng.random() >= JOINED_SHARE:
            group = self.bins[int(rng.integers(BINS))]
            return [np.array([one]) for one in rng.choice(group, int(self.samples // (self.lengths[group[-1]] + 8000)))]
        wanted = rng.uniform(*JOINED_SECONDS) * SAMPLE_RATE
        rows = []
        for _ in range(max(1, int(self.samples // wanted))):
            # Mostly one speaker; sometimes any, as in a conversation.
            group = self.usable if rng.random() < 0.15 else self.voices[int(rng.integers(len(self.voices)))]
            drawn = rng.choice(group, 24)
            enough = np.cumsum(self.lengths[drawn] + 8000) <= wanted - 8000
            rows.append(drawn[: max(1, int(enough.sum()))])
        return rows

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """Return the tables of one batch."""
        rng = np.random.default_rng([self.seed, step])
        rows = self.rows(rng)
        shape = len(rows), max(map(len, rows))
        source, target, length = (np.zeros(shape, np.int64) for _ in range(3))
        speed = np.where(rng.random(len(rows)) < 0.5, 1.0, rng.uniform(*SPEEDS, len(rows))).astype(np.float32)
        total = np.zeros(len(rows), np.int64)
        for index, row in enumerate(rows):
            edges = rng.uniform(0, 0.5, 2) * (rng.random(2) > 0.25)  # a quarter has no silence
            gaps = np.array([edges[0], *rng.uniform(0.1, 0.9, len(row) - 1)]) * SAMPLE_RATE
            sizes = self.lengths[row]
            begins = np.cumsum(gaps.astype(np.int64)) + np.cumsum(sizes) - sizes
            source[index, : len(row)] = self.starts[row]
            target[index, : len(row)] = begins
            length[index, : len(row)] = sizes
            total[index] = (begins[-1] + sizes[-1] + edges[1] * SAMPLE_RATE) / speed[index]
        tokens = [np.concatenate([self.tokens[one] for one in row]) for row in rows]
        tables = {
            "source": source,
            "target": target,
            "length": length,
            "speed": speed,
            "total": total,
            "tokens": np.concatenate(tokens),
            "token_lengths": np.array([len(row) for row in tokens]),
        }
        return {name: torch.from_numpy(table) for name, table in tables.items()}


def cut(corpus: Tensor, tables: dict[str, Tensor]) -> Tensor:
    """Return the batch's audio [B, N] in -1..1, at each row's speed (linear interpolation)."""
    samples = -(-int(tables["total"].max()) // FFT_BLOCK) * FFT_BLOCK
    speed = tables["speed"].to(corpus.device)[:, None]
    position = torch.arange(samples, device=corpus.device, dtype=torch.float32) * speed
    audio = torch.zeros_like(position)
    source, target, length = (tables[name].to(corpus.device) for name in ("source", "target", "length"))
    for k in range(source.shape[1]):
        inside = position - target[:, k : k + 1]
        index = inside.floor()
        share = inside - index
        valid = (index >= 0) & (index < length[:, k : k + 1] - 1)
        first = index.long().clamp_(0) + source[:, k : k + 1]
        first = first.clamp_(max=len(corpus) - 2)
        value = torch.lerp(corpus[first].float(), corpus[first + 1].float(), share)
        audio += torch.where(valid, value, 0.0)
    return audio / 32768


def uniform(low: float, high: float, *shape: int, device: torch.device) -> Tensor:
    """Return random numbers between ``low`` and ``high``."""
    return torch.empty(shape, device=device).uniform_(low, high)


def filter_rows(audio: Tensor) -> Tensor:
    """Colour each row [B, N] by a random smooth equaliser, and a third by a synthetic room."""
    rows, samples = audio.shape
    device = audio.device
    size = samples + FFT_BLOCK
    bins = size // 2 + 1
    knots = uniform(-8, 8, rows, 1, 8, device=device)  # dB, at equal steps of log frequency
    place = torch.linspace(0, 1, 512, device=device)
    curve = functional.interpolate(knots, 512, mode="linear", align_corners=True)[:, 0]
    frequency = torch.log1p(torch.arange(bins, device=device) / bins * 100) / math.log(101)
    gain = 10 ** (curve[:, torch.bucketize(frequency, place).clamp_(max=511)] / 20)
    time_axis = torch.arange(FFT_BLOCK // 2, device=device) / SAMPLE_RATE
    decay = torch.exp(-6.9 * time_axis / uniform(0.1, 0.5, rows, 1, device=device))  # reverberation time 0.1 to 0.5 s
    room = torch.randn(rows, len(time_axis), device=device) * decay
    loudness = 10 ** (uniform(-20, -3, rows, 1, device=device) / 20) * (torch.rand(rows, 1, device=device) < 1 / 3)
    room = room * loudness / room.norm(dim=1, keepdim=True)
    room[:, 0] += 1.0
    response = torch.fft.rfft(room, size) * gain
    return torch.fft.irfft(torch.fft.rfft(audio, size) * response, size)[:, :samples]


def add_noise(audio: Tensor) -> Tensor:
    """Add noise of a random colour to each row [B, N], 8 to 60 dB below the speech."""
    rows, samples = audio.shape
    spectrum = torch.fft.rfft(torch.randn_like(audio))
    frequency = torch.arange(1, spectrum.shape[1] + 1, device=audio.device) / samples * SAMPLE_RATE
    slope = uniform(-1.2, 0.2, rows, 1, device=audio.device)
    noise = torch.fft.irfft(spectrum * (frequency.clamp(min=50) / 1000) ** slope, samples)
    level = audio.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    return audio + noise * level * 10 ** (-uniform(8, 60, rows, 1, device=audio.device) / 20)


def augment(audio: Tensor, lengths: Tensor) -> Tensor:
    """Change random rows [B, N]: equaliser and room (40 %), noise (60 %), gain (all)."""
    for change, chance in ((filter_rows, 0.4), (add_noise, 0.6)):
        chosen = torch.nonzero(torch.rand(len(audio), device=audio.device) < chance)[:, 0]
        if len(chosen):
            audio[chosen] = change(audio[chosen])
    audio = audio * 10 ** (uniform(-20, 6, len(audio), 1, device=audio.device) / 20)
    inside = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
    return torch.where(inside, audio.clamp(-1, 1), 0.0)


def mask_features(features: Tensor, lengths: Tensor) -> Tensor:
    """Light SpecAugment on [B, 80, T]: in half of the rows, two bands and two short times become 0."""
    rows, bands, frames = features.shape
    device = features.device
    hidden = torch.zeros(rows, bands, frames, dtype=torch.bool, device=device)
    active = torch.rand(rows, 1, device=device) < 0.5
    for _ in range(2):
        width = uniform(0, 15, rows, 1, device=device) * active
        start = torch.rand(rows, 1, device=device) * (bands - width)
        band = torch.arange(bands, device=device)
        hidden |= ((band >= start) & (band < start + width))[:, :, None]
        width = torch.minimum(uniform(0, 12, rows, 1, device=device), lengths[:, None] * 0.05) * active
        start = torch.rand(rows, 1, device=device) * (lengths[:, None] - width)
        frame = torch.arange(frames, device=device)
        hidden |= ((frame >= start) & (frame < start + width))[:, None, :]
    return features.masked_fill(hidden, 0.0)


def fit(model: EncDecCTCModelBPE, corpus: Corpus, *, steps: int, batch_seconds: float, peak: float, seed: int) -> None:
    """Train the model in place, on the device where it is."""
    device = next(model.parameters()).device
    tokens = [np.array(model.tokenizer.text_to_ids(text)) for text in corpus.texts]
    batches = Batches(corpus, tokens, steps, batch_seconds, seed)
    rejected = len(corpus.texts) - len(batches.usable)
    typer.echo(f"{rejected} of {len(corpus.texts)} utterances rejected: too short for CTC")
    loader = DataLoader(batches, batch_size=None, num_workers=12, prefetch_factor=8, pin_memory=device.type == "cuda")
    samples = torch.from_numpy(corpus.audio).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=1e-2, fused=True)
    warm_up = min(1000, 1 + steps // 10)

    def rate(step: int) -> float:
        """Linear warm-up, then one cosine down to zero; as a share of the peak."""
        if step < warm_up:
            return step / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    model.preprocessor.eval()  # no dither: our own noise is stronger, and some rows must stay without
    began, heard, losses = time.monotonic(), 0.0, []
    for step, tables in enumerate(track(loader, "training", total=steps), 1):
        lengths = tables["total"].to(device, non_blocking=True)
        with torch.no_grad():
            audio = augment(cut(samples, tables), lengths)
            audio = audio[:, : int(tables["total"].max())]
            features, frames = model.preprocessor(input_signal=audio, length=lengths)
            features = mask_features(features, frames)
        # TF32 without autocast: so small a model waits for kernel launches, and casts are launches too.
        encoded, encoded_lengths = model.encoder(audio_signal=features, length=frames)
        log_probs = model.decoder(encoder_output=encoded)
        loss = functional.ctc_loss(
            log_probs.transpose(0, 1),
            tables["tokens"].to(device, non_blocking=True),
            encoded_lengths,
            tables["token_lengths"].to(device, non_blocking=True),
            blank=VOCABULARY,
            zero_infinity=True,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        heard += float(tables["total"].sum()) / SAMPLE_RATE / 3600
        if step % 200 == 0 or step == steps:
            mean = torch.stack(losses).mean().item()
            losses.clear()
            typer.echo(f"step {step}: loss {mean:.4f}, {heard:.0f} h heard, {time.monotonic() - began:.0f} s")
            if not math.isfinite(mean):
                message = "the loss is not finite"
                raise RuntimeError(message)
    model.eval()


@torch.no_grad()
def transcribe(model: EncDecCTCModelBPE, audio: list[NDArray[np.int16]], edge_ms: int) -> list[str]:
    """Return the greedy transcripts of utterances [samples], with silence put at both edges."""
    device = next(model.parameters()).device
    edge = edge_ms * SAMPLE_RATE // 1000
    texts = [""] * len(audio)
    order = sorted(range(len(audio)), key=lambda index: len(audio[index]))
    for first in range(0, len(order), 32):
        chosen = order[first : first + 32]
        rows = [functional.pad(torch.from_numpy(audio[index]).float() / 32768, (edge, edge)) for index in chosen]
        lengths = torch.tensor([len(row) for row in rows], device=device)
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
        features, frames = model.preprocessor(input_signal=padded, length=lengths)
        encoded, encoded_lengths = model.encoder(audio_signal=features, length=frames)
        best = model.decoder(encoder_output=encoded).argmax(dim=-1).cpu()
        for index, row, count in zip(chosen, best, encoded_lengths.tolist(), strict=True):
            ids = torch.unique_consecutive(row[:count])
            texts[index] = model.tokenizer.ids_to_text(ids[ids != VOCABULARY].tolist())
    return texts


def evaluate_sets(model: EncDecCTCModelBPE, data: Path) -> list[dict[str, Any]]:
    """Return one row per test set (festival: per voice) with its word error rates."""
    model.eval()
    table: list[dict[str, Any]] = []
    for name in TEST_SETS:
        corpus = load_corpus(data / name)
        pieces = [corpus.audio[a : a + n] for a, n in zip(corpus.starts, corpus.lengths, strict=True)]
        hypotheses = {edge: transcribe(model, pieces, edge) for edge in EDGE_SILENCES_MS}
        groups = np.array([voice if name == "engine" else voice.split()[0] for voice in corpus.voices])
        for group in ["all", *np.unique(groups)]:
            chosen = [index for index, own in enumerate(groups) if group in ("all", own)]
            references = [corpus.texts[index] for index in chosen]
            rates = {
                f"wer_{edge}ms": round(100 * jiwer.wer(references, [texts[index] for index in chosen]), 2)
                for edge, texts in hypotheses.items()
            }
            seconds = [corpus.lengths[index] / SAMPLE_RATE for index in chosen]
            row = {
                "set": name,
                "voices": str(group),
                "utterances": len(chosen),
                "words": sum(len(text.split()) for text in references),
                "seconds": [round(float(statistic(seconds)), 1) for statistic in (np.min, np.mean, np.max)],
            }
            table.append(row | rates)
        wrong = [(r, h) for r, h in zip(corpus.texts, hypotheses[0], strict=True) if r != h]
        for reference, hypothesis in wrong[:4]:
            typer.echo(f"  {name}: {reference}\n  {' ' * len(name)}> {hypothesis}")
    return table


app = typer.Typer(help="The demo model.", no_args_is_help=True, pretty_exceptions_enable=False)
DataFolder = Annotated[Path, typer.Argument(help="Folder made by synthesise.py corpus.")]
Device = Annotated[str, typer.Option(help="PyTorch device.")]


@app.command()
def train(  # noqa: PLR0917 (typer reads the options from the signature)
    data: DataFolder,
    out: Annotated[Path, typer.Argument(help="Folder for english_stt.nemo and results.json.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 10_000,
    batch_seconds: Annotated[float, typer.Option(help="Audio per step, in seconds.")] = 1600.0,
    peak: Annotated[float, typer.Option(help="Peak learning rate.")] = 2.5e-3,
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and augmentation.")] = 1,
    device: Device = "cuda",
) -> None:
    """Train on the training set, save the model, print its word error rates."""
    torch.manual_seed(seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    typecheck.set_typecheck_enabled(enabled=False)  # NeMo's shape checks cost time in each call
    out.mkdir(parents=True, exist_ok=True)
    corpus = load_corpus(data / "train")
    typer.echo(f"{len(corpus.texts)} utterances, {corpus.hours:.1f} h")
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(corpus.texts, Path(folder))
        model = make_model(Path(folder)).to(device)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        typer.echo(f"{parameters} parameters")
        began = time.monotonic()
        fit(model, corpus, steps=steps, batch_seconds=batch_seconds, peak=peak, seed=seed)
        minutes = (time.monotonic() - began) / 60
        save_model(model.cpu(), out / "english_stt.nemo")
        facts = {"parameters": parameters, "hours": round(corpus.hours, 1), "utterances": len(corpus.texts)}
        facts |= {"steps": steps, "training_minutes": round(minutes, 1)}
        results = facts | {"word_error_rates": evaluate_sets(model.to(device), data)}
    text = json.dumps(results, indent=1)
    (out / "results.json").write_text(text + "\n", encoding="utf-8")
    typer.echo(text)


@app.command()
def evaluate(
    nemo: Annotated[Path, typer.Argument(help="A .nemo file.")], data: DataFolder, device: Device = "cpu"
) -> None:
    """Print the word error rates of a saved model."""
    model = EncDecCTCModelBPE.restore_from(str(nemo), map_location=device)
    typer.echo(json.dumps(evaluate_sets(model, data), indent=1))


if __name__ == "__main__":
    app()
