"""A `.nemo` file, opened without trusting it: unpacked safely, its configuration read, nothing of it run.

A `.nemo` is a tar from strangers with `model_config.yaml`, `model_weights.ckpt` and tokenizer files. Standard library
and yaml only, so that `inspect` is light.
"""

import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import yaml

from asr_contract.errors import CheckpointError, UnsupportedCheckpointError, WorkFolderError
from model_builder import file_kind, weights_header
from model_builder.weights_header import Header

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"
MAX_BYTES = 64 * 1024**3
"""All that an archive may unpack to: ten times the largest CTC checkpoint known."""
MAX_MEMBERS = 1_000
MAX_EXPANSION = 20
"""All that an archive may unpack to, over its own size: weights hardly compress, bombs do."""
CHUNK = 8 * 1024 * 1024
SAMPLE_RATE = 16_000
MAX_SHOWN = 100
"""Characters of a value in a message."""
MAX_CONFIG_BYTES = 1024**2
"""Of the configuration: several times the largest known."""
MAX_WEIGHT_BYTES = 2**31 - 2**24
"""Of all weights: one ONNX file holds at most 2 GiB, and nodes, mel bank and window take some megabytes of it."""
MAX_SOURCE_BYTES = MAX_WEIGHT_BYTES * 11 // 10
"""Of a file to be downloaded: more than the transducer head of a hybrid adds to the weights that are exported."""

SUPPORTED = {
    "EncDecCTCModelBPE": "sentencepiece",
    "EncDecCTCModel": "characters",
    "EncDecHybridRNNTCTCBPEModel": "sentencepiece",
    "EncDecHybridRNNTCTCModel": "characters",
}
"""Model classes that have a CTC head, and the kind of their vocabulary."""
SUPPORTED_ENCODER = "ConformerEncoder"
SUPPORTED_PREPROCESSOR = "AudioToMelSpectrogramPreprocessor"
SUPPORTED_HEAD = "ConvASRDecoder"
OWN_CLASSES = ("nemo.collections.", "nemo.core.")
NOT_MADE = {"train_ds", "validation_ds", "test_ds", "optim", "trainer", "exp_manager"}
"""Parts of a configuration that concern training only."""
ENCODER_SETTINGS: dict[str, tuple[Any, ...]] = {
    "self_attention_model": ("rel_pos", "abs_pos"),
    "subsampling": ("striding", "dw_striding"),
    "att_context_style": ("regular", "chunked_limited"),
    "conv_norm_type": ("batch_norm", "layer_norm"),
    "reduction": (None,),
}
"""Settings of the encoder that decide whether it can be exported, with NeMo's default first."""
FRONTEND_SETTINGS: dict[str, tuple[Any, ...]] = {
    "normalize": ("per_feature",),
    "frame_splicing": (1,),
    "exact_pad": (False,),
    "log": (True,),
    "mag_power": (2.0,),
    "window": ("hann", "hamming", "blackman", "bartlett"),
    "log_zero_guard_type": ("add",),
}
"""The same of the preprocessor: the feature recipe must be the one that the mel graph computes."""
BYTE_FALLBACK = "the tokenizer falls back to bytes (SentencePiece's byte_fallback), which is not supported"
SUPPORTED_TEXT = (
    "supported are FastConformer and Conformer models with CTC (BPE or characters), and hybrid RNNT-CTC models through "
    "their CTC head: " + ", ".join(SUPPORTED)
)
OTHER_MODELS = (
    ("MultiTask", "It is an attention model with a text decoder, as Canary"),
    ("Transf", "It is an attention model with a text decoder"),
    ("WithPrompt", "It takes a prompt beside the audio"),
    ("RNNT", "It is a transducer ({transducer}), and has no CTC head; of some there is a hybrid with one, as tdt_ctc"),
    ("SelfSupervised", "It is a pretrained encoder without a head for text"),
    ("DenoiseMasked", "It is a pretrained encoder without a head for text"),
    ("Classification", "It classifies audio, and gives no text"),
    ("Speaker", "It recognises speakers, and gives no text"),
    ("Diar", "It parts speakers, and gives no text"),
    ("Sortformer", "It parts speakers, and gives no text"),
    ("SALM", "It is a language model that takes speech"),
)
"""What models of other classes are, by a part of the class's name."""
OTHER_ENCODERS = {
    "ConvASREncoder": "convolutions, as of QuartzNet, Citrinet and Jasper",
    "SqueezeformerEncoder": "a Squeezeformer",
    "RNNEncoder": "a recurrent network",
    "ConformerEncoderAdapter": "a Conformer with adapters",
}


@dataclass(frozen=True, slots=True)
class Description:
    """What the configuration of a checkpoint says.

    Attributes:
        folder: Where it is unpacked.
        class_name: NeMo's model class.
        vocabulary_kind: As `asr_serving.text.Vocabulary` has it.
        sample_rate: Of the audio.
        features: Mel bands.
        subsampling: Feature frames for each encoder step.
        preprocessor: Settings of NeMo's preprocessor.
        stride: Seconds between feature frames.
        head: The head that is built.
        unused_heads: Heads that the checkpoint has beside it, which are left out.
        lookahead: What a streaming encoder sees at each step, as NeMo writes it; None for one that sees everything.
    """

    folder: Path
    class_name: str
    vocabulary_kind: str
    sample_rate: int
    features: int
    subsampling: int
    preprocessor: dict[str, Any] = field(repr=False)
    stride: float = 0.01
    head: str = "CTC"
    unused_heads: tuple[str, ...] = ()
    lookahead: str | None = None

    @property
    def step_seconds(self) -> float:
        """Seconds of audio for each encoder step."""
        return self.stride * self.subsampling

    @property
    def heads(self) -> str:
        """In words, which head is built, and which is not."""
        unused = ", ".join(f"its {name} head is left out" for name in self.unused_heads)
        return f"{self.head} head" + (f" ({unused})" if unused else "")


def unpack(source: Path, folder: Path) -> None:
    """Unpack the regular files of a `.nemo` into `folder`.

    Raises:
        CheckpointError: Not a tar, cut short, or a member that is a link, a device, leaves the folder, or is too large.
        WorkFolderError: The folder cannot be written.
    """
    unpack_all_but_weights(source, folder)
    unpack_weights(source, folder)


def unpack_all_but_weights(source: Path, folder: Path) -> Header | None:
    """Unpack the small files, which say what the checkpoint is before gigabytes are written.

    Returns:
        The header of the weights, if it can be read without unpacking them.

    Raises:
        CheckpointError, WorkFolderError: As `unpack`.
    """
    header, names = None, []
    with _archive_errors(source):
        for name, content, size in _members(source):
            names.append(str(name))
            if name != PurePosixPath(WEIGHTS):
                _write(folder / name, content, size)
            elif not _head(source).startswith(file_kind.COMPRESSED):
                header = weights_header.read(content)
    for needed in (CONFIG, WEIGHTS):
        if needed not in names:
            raise CheckpointError(f"{source.name} holds no {needed}; {_instead(needed, names)}")
    return header


def unpack_weights(source: Path, folder: Path) -> None:
    """Unpack what `unpack_all_but_weights` has left.

    Raises:
        CheckpointError, WorkFolderError: As `unpack`.
    """
    with _archive_errors(source):
        for name, content, size in _members(source):
            if name == PurePosixPath(WEIGHTS):
                _write(folder / name, content, size)


def _instead(needed: str, names: list[str]) -> str:
    """What an archive holds in place of what it needs."""
    nested = sorted(name for name in names if name.endswith(f"/{needed}"))
    if nested:
        folder = nested[0].removesuffix(f"/{needed}")
        return f"its files lie in the folder {folder!r}, and not at the top: pack them with tar -C {folder} ."
    if needed == WEIGHTS and any(name.startswith("model_weights") for name in names):
        found = next(name for name in names if name.startswith("model_weights"))
        return f"its weights are in another format, {found!r}: load it in NeMo and write it with save_to"
    shown = ", ".join(repr(name) for name in sorted(names)[:5]) or "nothing"
    return f"is it a .nemo file written by NeMo's save_to? It holds {shown}"


def refuse_other_files(name: str, head: bytes, size: int) -> None:
    """Refuse what by its first bytes cannot be a `.nemo`, before it is read or downloaded.

    Raises:
        CheckpointError: It is something else; the message says what.
    """
    kind = file_kind.of_file(head, size)
    if kind is not None:
        raise CheckpointError(f"{name} is not a complete .nemo file (a tar archive): it is {kind}")


def refuse_large_source(name: str, size: int) -> None:
    """Refuse a file whose size alone says that its weights are too many, before it is downloaded.

    Raises:
        UnsupportedCheckpointError: It is too large.
    """
    if size > MAX_SOURCE_BYTES:
        raise UnsupportedCheckpointError(
            f"{name} has {size / 1e9:.2f} GB; encoder and CTC head may have at most {MAX_WEIGHT_BYTES / 1e9:.2f} GB of "
            "weights in FP32 (530 million parameters), as one ONNX file holds no more"
        )


def _head(source: Path) -> bytes:
    with source.open("rb") as file:
        return file.read(file_kind.HEAD)


@contextmanager
def _archive_errors(source: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        # The library tries each compression, and says of each that it is not that one.
        reason = " ".join(str(error).split()).partition(" - method gz:")[0]
        raise CheckpointError(f"{source.name} is not a complete .nemo file (a tar archive): {reason[:200]}") from error


def _members(source: Path) -> Iterator[tuple[PurePosixPath, IO[bytes], int]]:
    """The regular files of an archive with their sizes, none of which leaves the folder that it is unpacked to."""
    total = 0
    size = _size(source)
    limit = min(MAX_BYTES, MAX_EXPANSION * size)
    refuse_other_files(source.name, _head(source), size)
    with tarfile.open(source, "r:*") as archive:
        for count, member in enumerate(archive, start=1):
            name = PurePosixPath(member.name)
            if member.isdir():
                continue
            if not member.isfile() or member.issparse():
                raise CheckpointError(f"{source.name}: member {member.name!r} is not a plain file")
            if name.is_absolute() or ".." in name.parts or not name.parts:
                raise CheckpointError(f"{source.name}: member {member.name!r} leaves the archive's folder")
            total += member.size
            if count > MAX_MEMBERS or total > limit:
                raise CheckpointError(
                    f"{source.name} unpacks to more than a checkpoint can be: member {member.name!r} alone to "
                    f"{member.size} bytes"
                )
            content = archive.extractfile(member)
            if content is None:
                raise CheckpointError(f"{source.name}: member {member.name!r} has no content")
            yield name, content, member.size


def _size(source: Path) -> int:
    if not source.is_file():
        raise CheckpointError(f"{source} is not a file")
    return source.stat().st_size


def _write(target: Path, content: Any, size: int) -> None:  # noqa: ANN401 (tarfile's reader)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            while chunk := content.read(CHUNK):
                file.write(chunk)
    except FileExistsError as error:
        raise CheckpointError(f"the archive holds {target.name!r} twice") from error
    except ValueError as error:  # it holds a NUL
        raise CheckpointError(f"the archive holds {target.name!r}, a name that no file can have") from error
    except OSError as error:
        raise WorkFolderError(f"cannot unpack {target.name} ({size} bytes): {error}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of an unpacked checkpoint, which names no class but NeMo's.

    Raises:
        CheckpointError: It is not readable, or not safe.
    """
    size = (folder / CONFIG).stat().st_size
    if size > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{CONFIG} has {size} bytes; at most {MAX_CONFIG_BYTES} are read")
    try:
        config = yaml.load((folder / CONFIG).read_text(encoding="utf-8"), _PlainLoader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{CONFIG} is not plain YAML: {' '.join(str(error).split())[:400]}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{CONFIG} is not a mapping")
    _check_targets(config, CONFIG)
    return config


def describe(folder: Path, header: Header | None = None) -> Description:
    """Read the configuration of an unpacked checkpoint, and refuse what this builder does not serve.

    Args:
        folder: Where it is unpacked.
        header: Of its weights, if it is known.

    Raises:
        CheckpointError: The configuration is not readable.
        UnsupportedCheckpointError: Another kind of model; the message names what is supported.
    """
    config = read_config(folder)
    class_name = _class_name(config.get("target"))
    if class_name not in SUPPORTED:
        raise UnsupportedCheckpointError(
            f"the checkpoint is a {class_name or 'model of unknown class'}; {SUPPORTED_TEXT}"
            + _in_words(class_name, config)
        )
    preprocessor, encoder = config.get("preprocessor"), config.get("encoder")
    if not isinstance(preprocessor, dict) or not isinstance(encoder, dict):
        raise CheckpointError(f"{CONFIG} has no preprocessor or no encoder")
    _check_classes(class_name, config)
    own, shared = preprocessor.get("sample_rate"), config.get("sample_rate", SAMPLE_RATE)
    sample_rate = _integer("sample_rate", shared if own is None else own, 1, 10**6)
    description = Description(
        folder=folder,
        class_name=class_name,
        vocabulary_kind=SUPPORTED[class_name],
        sample_rate=sample_rate,
        features=_integer("preprocessor.features", preprocessor.get("features", 64), 1, 1024),
        subsampling=_integer("encoder.subsampling_factor", encoder.get("subsampling_factor", 4), 1, 64),
        preprocessor={key: value for key, value in preprocessor.items() if key != "_target_"},
        stride=_stride(preprocessor, sample_rate),
        unused_heads=(_transducer(config),) if "Hybrid" in class_name else (),
        lookahead=_lookahead(encoder),
    )
    _check_encoder(encoder)
    _check_vocabulary(config, description)
    _check_frontend(description)
    _check_size(class_name, header)
    return description


def facts(folder: Path, header: Header | None) -> dict[str, Any]:
    """What an unpacked checkpoint says of itself, whether it is supported or not, for people to read.

    Raises:
        CheckpointError: Its configuration is not readable.
    """
    config = read_config(folder)

    def part(name: str) -> dict[str, Any]:
        found = config.get(name)
        return found if isinstance(found, dict) else {}

    class_name, encoder, preprocessor = _class_name(config.get("target")), part("encoder"), part("preprocessor")
    heads = ["CTC"] if "CTC" in class_name else []
    heads += [_transducer(config)] if "RNNT" in class_name else []
    layers, width = encoder.get("n_layers"), encoder.get("d_model")
    found = {
        "class": class_name,
        "heads": "  ".join(heads),
        "encoder": f"{_class_name(encoder.get('_target_'))}"
        + (f"  {layers} layers of {width}" if isinstance(layers, int) and isinstance(width, int) else ""),
        "streaming": _lookahead(encoder),
        "sample rate": preprocessor.get("sample_rate") or config.get("sample_rate"),
        "mel bands": preprocessor.get("features"),
        "subsampling": encoder.get("subsampling_factor"),
        "vocabulary": SUPPORTED.get(class_name) or part("tokenizer").get("type"),
    }
    if header:
        found["parameters"] = f"{sum(weight.size for weight in header.values()) / 1e6:.2f} M"
        found["weights"] = "  ".join(sorted({weight.dtype for weight in header.values()}))
    return {key: str(value)[:200] for key, value in found.items() if value not in (None, "")}


def _in_words(class_name: str, config: dict[str, Any]) -> str:
    """What a model of another class is; empty if that is not known."""
    words = next((text for part, text in OTHER_MODELS if part in class_name), "")
    encoder = config.get("encoder")
    streaming = ". It is a cache-aware streaming model" if isinstance(encoder, dict) and _lookahead(encoder) else ""
    return (f". {words.format(transducer=_transducer(config))}" if words else "") + streaming


def _transducer(config: dict[str, Any]) -> str:
    """RNNT or TDT, by the loss that trained the transducer head, or the durations that it knows."""

    def value(part: str, key: str) -> Any:  # noqa: ANN401
        found = config.get(part)
        return found.get(key) if isinstance(found, dict) else None

    loss = str(value("loss", "loss_name") or "").lower()
    durations = value("decoding", "durations") or (not loss and value("model_defaults", "tdt_durations"))
    return "TDT" if "tdt" in loss or value("decoding", "model_type") == "tdt" or durations else "RNNT"


def _lookahead(encoder: dict[str, Any]) -> str | None:
    """The attention context of a cache-aware streaming encoder, None for any other."""
    causal = encoder.get("causal_downsampling") is True or encoder.get("conv_context_size") == "causal"
    if not str(encoder.get("att_context_style")).startswith("chunked_limited") and not causal:
        return None
    return f"cache-aware, attention context {encoder.get('att_context_size')}"[:200]


def _stride(preprocessor: dict[str, Any], sample_rate: int) -> float:
    stride, samples = preprocessor.get("window_stride", 0.01), preprocessor.get("n_window_stride")
    if stride is None and isinstance(samples, int) and not isinstance(samples, bool):
        stride = samples / sample_rate
    if not isinstance(stride, float) or not 0.001 <= stride <= 0.1:  # noqa: PLR2004 (said in the message)
        shown = repr(stride)[:50]
        raise CheckpointError(f"{CONFIG}: preprocessor.window_stride is {shown}; 0.001 to 0.1 (seconds) is needed")
    return stride


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases: NeMo writes none, and a few lines of them can stand for more values than memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401 (yaml has no types)
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)


# NeMo reads 1e-5 as a number (through OmegaConf), the library as text.
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789")
)


def _class_name(target: object) -> str:
    """The class's name without its module; empty where it is no name, so that it can be shown."""
    name = str(target or "").rpartition(".")[2]
    return name if name.isidentifier() else ""


def _integer(name: str, value: object, lowest: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        shown = repr(value)[:50]
        raise CheckpointError(f"{CONFIG}: {name} is {shown}; an integer from {lowest} to {highest} is needed")
    return value


def _check_targets(node: object, where: str) -> None:
    """Refuse classes that are not NeMo's, and values that are to be computed, in all that is made with the model."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in {"target", "_target_", "cls"} and not str(value).startswith(OWN_CLASSES):
                raise CheckpointError(f"{where}.{key} names {str(value)[:200]!r}, which is not a class of NeMo")
            if key not in NOT_MADE:
                _check_targets(value, f"{where}.{key}")
    elif isinstance(node, str) and "${" in node and ":" in node:
        # NeMo would resolve it, `${oc.env:SECRET}` for one, and a vocabulary may hold what comes of it.
        raise CheckpointError(f"{where} is {node[:200]!r}, which would be computed while the model is loaded")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check_targets(value, f"{where}[{index}]")


def _check_classes(class_name: str, config: dict[str, Any]) -> None:
    """Every part that is built here must be of the class that this builder knows; a name that is absent is NeMo's."""
    encoder = config["encoder"]
    adapters = config.get("adapters") or encoder.get("adapters")
    names = [str(name)[:50] for name in adapters if not str(name).startswith("_")] if adapters else []
    encoder_class = _class_name(encoder.get("_target_"))
    if names or "Adapter" in encoder_class:
        shown = ", ".join(map(repr, names)) or "none named"
        raise UnsupportedCheckpointError(
            f"the checkpoint has adapters ({shown}; the encoder is a {encoder_class}), which are not supported, "
            f"switched on or not; {SUPPORTED_TEXT}"
        )
    if encoder_class != SUPPORTED_ENCODER:
        words = f" ({OTHER_ENCODERS[encoder_class]})" if encoder_class in OTHER_ENCODERS else ""
        raise UnsupportedCheckpointError(
            f"the encoder is a {encoder_class or 'nameless class'}{words}; {SUPPORTED_TEXT}"
        )
    preprocessor_class = _class_name(config["preprocessor"].get("_target_", SUPPORTED_PREPROCESSOR))
    if preprocessor_class != SUPPORTED_PREPROCESSOR:
        raise UnsupportedCheckpointError(
            f"the preprocessor is a {preprocessor_class or 'nameless class'}; only log-mel features are supported: "
            f"{SUPPORTED_PREPROCESSOR}"
        )
    where, head = "decoder", config.get("decoder", {})
    if "Hybrid" in class_name:
        auxiliary = config.get("aux_ctc", {})
        where, head = "aux_ctc.decoder", auxiliary.get("decoder", {}) if isinstance(auxiliary, dict) else None
    if not isinstance(head, dict):
        raise CheckpointError(f"{CONFIG}: {where} is {str(head)[:50]!r}; the settings of a CTC head are needed")
    head_class = _class_name(head.get("_target_", SUPPORTED_HEAD))
    if head_class != SUPPORTED_HEAD:
        raise UnsupportedCheckpointError(
            f"the CTC head ({where}) is a {head_class or 'nameless class'}; only one linear layer is supported: "
            f"{SUPPORTED_HEAD}"
        )
    if head.get("add_blank", True) is not True:
        raise UnsupportedCheckpointError(f"{where}.add_blank is {head['add_blank']!r}; a CTC head needs the blank")


def _check_encoder(encoder: dict[str, Any]) -> None:
    """The encoder must give the same for an utterance alone and padded, and for every length from one trace."""
    for key, supported in ENCODER_SETTINGS.items():
        found = encoder.get(key, supported[0])
        if found not in supported:
            raise UnsupportedCheckpointError(
                f"encoder.{key} is {_shown(found)}; supported: {', '.join(repr(value) for value in supported)}"
            )
    if encoder.get("subsampling_factor") == 1:
        raise UnsupportedCheckpointError("encoder.subsampling_factor is 1; an encoder that subsamples is supported")


def _shown(value: object) -> str:
    """A value in a message: a configuration may hold lists of any length."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _check_vocabulary(config: dict[str, Any], description: Description) -> None:
    """BPE models must have one SentencePiece tokenizer; NeMo calls every SentencePiece tokenizer `bpe`."""
    if description.vocabulary_kind != "sentencepiece":
        return
    tokenizer = config.get("tokenizer")
    if not isinstance(tokenizer, dict):
        raise CheckpointError(f"{CONFIG} has no tokenizer")
    kind = str(tokenizer.get("type", "")).lower()
    if kind != "bpe" or "custom_tokenizer" in tokenizer:
        name = {"agg": "an aggregate of several tokenizers", "wpe": "WordPiece"}.get(kind, f"of type {kind!r}")
        if kind == "bpe":
            name = "a custom class"
        raise UnsupportedCheckpointError(f"the tokenizer is {name}; only SentencePiece (type 'bpe') is supported")
    if _falls_back_to_bytes(description.folder, tokenizer):
        raise UnsupportedCheckpointError(BYTE_FALLBACK)


def _falls_back_to_bytes(folder: Path, tokenizer: dict[str, Any]) -> bool:
    """Whether the SentencePiece model has pieces for bytes; False where it cannot be read: NeMo says why then."""
    name = PurePosixPath(str(tokenizer.get("model_path") or "tokenizer.model").removeprefix("nemo:")).name
    path = folder / name
    if not path.is_file():
        return False
    try:
        import sentencepiece  # noqa: PLC0415 (comes with NeMo; the configuration is read without it)

        pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (ImportError, OSError, RuntimeError, ValueError):
        return False
    return any(pieces.is_byte(index) for index in range(pieces.get_piece_size()))


def _check_frontend(description: Description) -> None:
    """The feature recipe must be the one that the mel graph computes."""
    preprocessor = description.preprocessor
    for key, supported in FRONTEND_SETTINGS.items():
        found = preprocessor.get(key, supported[0])
        if found not in supported:
            choices = f"only {supported[0]!r} is" if len(supported) == 1 else f"{', '.join(map(repr, supported))} are"
            streaming = key == "normalize" and description.lookahead is not None
            raise UnsupportedCheckpointError(
                f"preprocessor.{key} is {_shown(found)}; {choices} supported"
                + (". It is a cache-aware streaming model, which normalises no features" if streaming else "")
            )
    guard = preprocessor.get("log_zero_guard_value", 1.0)
    if isinstance(guard, bool) or not isinstance(guard, int | float) or guard <= 0:
        raise UnsupportedCheckpointError(
            f"preprocessor.log_zero_guard_value is {str(guard)[:50]!r}; a number above 0 is supported"
        )
    points, window = preprocessor.get("n_fft"), preprocessor.get("n_window_size")
    if window is None:
        seconds = preprocessor.get("window_size", 0.02)
        window = int(seconds * description.sample_rate) if isinstance(seconds, float) and 0 < seconds < 1 else None
    if isinstance(points, int) and isinstance(window, int) and 0 < points < window:
        raise CheckpointError(f"{CONFIG}: preprocessor.n_fft is {points}, less than the {window} samples of the window")
    if description.sample_rate != SAMPLE_RATE:
        raise UnsupportedCheckpointError(f"the model takes {description.sample_rate} Hz; only 16000 Hz is supported")


def _check_size(class_name: str, header: Header | None) -> None:
    """Encoder and CTC head must fit into one ONNX file."""
    prefixes = ("encoder.", "ctc_decoder." if "Hybrid" in class_name else "decoder.")
    size = sum(4 * weight.size for name, weight in (header or {}).items() if name.startswith(prefixes))
    if size > MAX_WEIGHT_BYTES:
        raise too_large(size)


def too_large(size: int) -> UnsupportedCheckpointError:
    """The error of weights with so many bytes."""
    return UnsupportedCheckpointError(
        f"encoder and CTC head have {size / 1e9:.2f} GB of weights in FP32; at most "
        f"{MAX_WEIGHT_BYTES / 1e9:.2f} GB (530 million parameters) are supported, as one ONNX file holds no more"
    )
