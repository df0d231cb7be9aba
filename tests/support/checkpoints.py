"""Random, seeded checkpoints of every kind that the builder takes, written by NeMo's own classes.

    python -m tests.support.checkpoints KIND PATH [KIND PATH ...]

NeMo takes 10 to 20 s to import, so make all that are needed in one call; `made` does so, in another process.
"""

import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

LETTERS = (" ", *"abcdefghijklmnopqrstuvwxyz", "'")
PIECES = 96
FASTCONFORMER = {"subsampling": "dw_striding", "subsampling_factor": 8}
CONFORMER = {"subsampling": "striding", "subsampling_factor": 4}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a checkpoint is like.

    Attributes:
        class_name: NeMo's model class.
        pieces: Size of the SentencePiece vocabulary; 0 for characters.
        features: Mel bands.
        encoder: What differs from `_encoder`'s settings.
        tokenizer: Options of SentencePiece's trainer, beside the usual ones.
        durations: Of a TDT head in a hybrid; empty for RNNT.
        decoding: How its publisher searched, as the checkpoint says it; None leaves greedy.
        ctc_decoding: The same of the CTC head of a hybrid.
    """

    class_name: str
    pieces: int = 0
    features: int = 80
    encoder: dict[str, Any] = field(default_factory=lambda: dict(FASTCONFORMER))
    tokenizer: dict[str, Any] = field(default_factory=dict)
    durations: tuple[int, ...] = ()
    decoding: dict[str, Any] | None = None
    ctc_decoding: dict[str, Any] | None = None


KINDS = {
    "bpe": Kind("EncDecCTCModelBPE", PIECES),
    "characters": Kind("EncDecCTCModel", features=64, encoder=CONFORMER | {"xscaling": True}),
    "hybrid-bpe": Kind(
        "EncDecHybridRNNTCTCBPEModel",
        PIECES,
        encoder=FASTCONFORMER | {"use_bias": False},
        durations=(0, 1, 2, 3, 4),
        ctc_decoding={"strategy": "beam", "beam": {"beam_size": 4, "kenlm_path": "/models/words.bin"}},
    ),
    "hybrid-characters": Kind(
        "EncDecHybridRNNTCTCModel",
        encoder=CONFORMER | {"untie_biases": False},
        decoding={"strategy": "maes", "beam": {"beam_size": 4, "ngram_lm_model": "/models/words.bin"}},
        ctc_decoding={"strategy": "flashlight", "beam": {"flashlight_cfg": {"lexicon_path": "/models/words.txt"}}},
    ),
    "control-pieces": Kind(
        "EncDecCTCModelBPE",
        PIECES,
        tokenizer={
            "bos_id": 1,
            "eos_id": 2,
            "pad_id": 3,
            "control_symbols": ["<|start|>", "<|noise|>"],
            "user_defined_symbols": ["[laugh]", "<unk2>", "?"],
            "unk_surface": " nothing ",
        },
        decoding={"strategy": "pyctcdecode", "beam": {"beam_size": 4, "kenlm_path": "/models/words.bin"}, "odd": 1},
    ),
    "streaming": Kind(
        "EncDecCTCModelBPE",
        PIECES,
        encoder=FASTCONFORMER
        | {
            "causal_downsampling": True,
            "att_context_size": [[70, 13], [70, 6]],
            "att_context_style": "chunked_limited",
            "conv_context_size": "causal",
            "conv_norm_type": "layer_norm",
        },
    ),
    "large": Kind(
        "EncDecCTCModelBPE",
        1024,
        encoder=FASTCONFORMER
        | {
            "n_layers": 18,
            "d_model": 512,
            "n_heads": 8,
            "subsampling_conv_channels": 256,
            "pos_emb_max_len": 5000,
        },
    ),
}
"""`large` has the shape of stt_en_fastconformer_ctc_large, 115 M parameters; the others have 0.2 M."""


def made(folder: Path, *names: str) -> dict[str, Path]:
    """Checkpoints by the names of their kinds, kept in `folder`; those that are missing are made in one process."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.nemo" for name in names}
    missing = [part for name, path in paths.items() if not path.is_file() for part in (name, str(path))]
    if missing:
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, *missing],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    return paths


def make(kind: Kind, path: Path) -> None:
    """Write one checkpoint."""
    import torch  # noqa: PLC0415
    from nemo.collections.asr import models  # noqa: PLC0415
    from omegaconf import OmegaConf, open_dict  # noqa: PLC0415

    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        config = _config(kind, Path(folder))
        model = getattr(models, kind.class_name)(cfg=OmegaConf.create(config)).eval()
        _make_talkative(model)
        with open_dict(model.cfg):
            if kind.decoding is not None:
                model.cfg.decoding = kind.decoding
            if kind.ctc_decoding is not None:
                model.cfg.aux_ctc.decoding = kind.ctc_decoding
        partial = path.with_suffix(".partial.nemo")
        model.save_to(str(partial))
    partial.replace(path)


def _make_talkative(model: Any) -> None:  # noqa: ANN401 (NeMo has no types)
    """Set the CTC head so that tokens change from step to step and some are blank, with clear margins.

    What an untrained encoder gives hardly changes over time; the head takes its mean away and its deviation out.
    """
    import torch  # noqa: PLC0415

    seconds = torch.arange(5 * 16_000) / 16_000
    pitch = torch.tensor([[3.0], [7.0], [11.0], [17.0]])
    tones = torch.sin(800 * torch.cumsum(torch.sin(pitch * seconds), dim=1) * 2 / 16_000 * torch.pi)
    audio = tones * torch.sin(5 * seconds) ** 2 * 0.3 + 0.01 * torch.randn(tones.shape)
    lengths = torch.full((len(audio),), audio.shape[1])
    layer = (getattr(model, "ctc_decoder", None) or model.decoder).decoder_layers[0]
    with torch.inference_mode():
        features, frames = model.preprocessor(input_signal=audio, length=lengths)
        encoded, _ = model.encoder(audio_signal=features, length=frames)
        mean, deviation = encoded.mean(dim=(0, 2)), encoded.std(dim=(0, 2))
    with torch.no_grad():
        weight = torch.randn(layer.out_channels, layer.in_channels) / deviation * 3 / layer.in_channels**0.5
        layer.weight.copy_(weight[:, :, None])
        layer.bias.copy_(-weight @ mean)
        layer.bias[-1] += 3


def _config(kind: Kind, folder: Path) -> dict[str, Any]:
    encoder = _encoder(kind)
    hybrid = "Hybrid" in kind.class_name
    vocabulary = [] if kind.pieces else list(LETTERS)
    ctc = {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "feat_in": encoder["d_model"],
        "num_classes": -1 if kind.pieces else len(vocabulary),
        "vocabulary": vocabulary,
    }
    config: dict[str, Any] = {
        "sample_rate": 16_000,
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16_000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": kind.features,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 0.00001,
            "pad_to": 0,
        },
        "encoder": encoder,
    }
    if kind.pieces:
        _train_tokenizer(folder, kind.pieces, kind.tokenizer)
        config["tokenizer"] = {"dir": str(folder), "type": "bpe"}
    else:
        config["labels"] = vocabulary
    if hybrid:
        config |= _transducer(encoder["d_model"], vocabulary, kind.durations)
        config["aux_ctc"] = {"ctc_loss_weight": 0.3, "decoder": ctc, "decoding": {"strategy": "greedy"}}
    else:
        config |= {"decoder": ctc, "decoding": {"strategy": "greedy"}}
    return config


def _encoder(kind: Kind) -> dict[str, Any]:
    return {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": kind.features,
        "feat_out": -1,
        "n_layers": 2,
        "d_model": 64,
        "subsampling_conv_channels": 16,
        "causal_downsampling": False,
        "ff_expansion_factor": 4,
        "self_attention_model": "rel_pos",
        "n_heads": 4,
        "att_context_size": [-1, -1],
        "xscaling": False,
        "untie_biases": True,
        "pos_emb_max_len": 600,
        "conv_kernel_size": 9,
        "conv_norm_type": "batch_norm",
        "dropout": 0.1,
        "dropout_pre_encoder": 0.1,
        "dropout_emb": 0.0,
        "dropout_att": 0.1,
    } | kind.encoder


def _transducer(width: int, vocabulary: Sequence[str], durations: Sequence[int]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_defaults": {"enc_hidden": width, "pred_hidden": 32, "joint_hidden": 32},
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "vocab_size": len(vocabulary),
            "prednet": {"pred_hidden": 32, "pred_rnn_layers": 1},
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None,
            "fuse_loss_wer": False,
            "num_classes": len(vocabulary),
            "vocabulary": list(vocabulary),
            "jointnet": {
                "encoder_hidden": width,
                "pred_hidden": 32,
                "joint_hidden": 32,
                "activation": "relu",
                "dropout": 0.0,
            },
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 5}},
        "loss": {"loss_name": "default"},
    }
    if durations:
        config["model_defaults"]["tdt_durations"] = list(durations)
        config["joint"]["num_extra_outputs"] = len(durations)
        config["decoding"] |= {"model_type": "tdt", "durations": list(durations)}
        config["loss"] = {"loss_name": "tdt", "tdt_kwargs": {"durations": list(durations), "sigma": 0.02, "omega": 0.1}}
    return config


def _train_tokenizer(folder: Path, pieces: int, options: dict[str, Any]) -> None:
    """Write a SentencePiece BPE model of exactly `pieces` pieces, of words that mean nothing, as NeMo wants it."""
    import sentencepiece  # noqa: PLC0415

    choice = random.Random(0)  # noqa: S311 (an example, not a secret)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(choice.choices(letters, k=choice.randint(2, 9))) for _ in range(4 * pieces)]
    text = folder / "text.txt"
    text.write_text("\n".join(" ".join(choice.choices(words, k=8)) for _ in range(3 * pieces)) + "\n", encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=pieces,
        model_type="bpe",
        normalization_rule_name="identity",
        character_coverage=1.0,
        minloglevel=2,
        **({"bos_id": -1, "eos_id": -1} | options),
    )
    lines = (folder / "tokenizer.vocab").read_text(encoding="utf-8").splitlines()
    (folder / "vocab.txt").write_text("\n".join(line.split("\t")[0] for line in lines) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Make the named kinds at the paths that follow them."""
    if not arguments or len(arguments) % 2 or not set(arguments[::2]) <= set(KINDS):
        raise SystemExit(f"usage: python -m tests.support.checkpoints KIND PATH ...; kinds: {', '.join(KINDS)}")
    for name, path in zip(arguments[::2], arguments[1::2], strict=True):
        make(KINDS[name], Path(path))


if __name__ == "__main__":
    main(sys.argv[1:])
