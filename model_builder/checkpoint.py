"""A `.nemo` file, opened without trusting it: unpacked safely, its configuration read, nothing of it run.

A `.nemo` is a tar from strangers with `model_config.yaml`, `model_weights.ckpt` and tokenizer files. Standard library
and yaml only, so that `inspect` is light.
"""

import lzma
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from model_builder.errors import CheckpointError, UnsupportedCheckpointError, WorkFolderError

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"
MAX_BYTES = 64 * 1024**3
"""All that an archive may unpack to: ten times the largest CTC checkpoint known."""
MAX_MEMBERS = 1_000
MAX_EXPANSION = 20
"""All that an archive may unpack to, over its own size: weights hardly compress, bombs do."""
CHUNK = 8 * 1024 * 1024
SAMPLE_RATE = 16_000
MAX_CONFIG_BYTES = 1024**2
"""Of the configuration: several times the largest known."""

SUPPORTED = {
    "EncDecCTCModelBPE": "sentencepiece",
    "EncDecCTCModel": "characters",
    "EncDecHybridRNNTCTCBPEModel": "sentencepiece",
    "EncDecHybridRNNTCTCModel": "characters",
}
"""Model classes that have a CTC head, and the kind of their vocabulary."""
SUPPORTED_ENCODER = "ConformerEncoder"
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
SUPPORTED_TEXT = (
    "supported are FastConformer and Conformer models with CTC (BPE or characters), and hybrid RNNT-CTC models through "
    "their CTC head: " + ", ".join(SUPPORTED)
)


@dataclass(frozen=True, slots=True)
class Description:
    """What the configuration of a checkpoint says."""

    folder: Path
    class_name: str
    vocabulary_kind: str
    sample_rate: int
    features: int
    subsampling: int
    preprocessor: dict[str, Any] = field(repr=False)

    @property
    def step_seconds(self) -> float:
        """Seconds of audio for each encoder step."""
        return float(self.preprocessor.get("window_stride", 0.01)) * self.subsampling


def unpack(source: Path, folder: Path) -> None:
    """Unpack the regular files of a `.nemo` into `folder`.

    Raises:
        CheckpointError: Not a tar, cut short, or a member that is a link, a device, leaves the folder, or is too large.
        WorkFolderError: The folder cannot be written.
    """
    total = 0
    limit = min(MAX_BYTES, MAX_EXPANSION * _size(source))
    try:
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
                target = folder / name
                _write(target, content, member.size)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise CheckpointError(f"{source.name} is not a complete .nemo file (a tar archive): {error}") from error
    for needed in (CONFIG, WEIGHTS):
        if not (folder / needed).is_file():
            raise CheckpointError(f"{source.name} holds no {needed}; is it a .nemo file written by NeMo's save_to?")


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


def describe(folder: Path) -> Description:
    """Read the configuration of an unpacked checkpoint, and refuse what this builder does not serve.

    Raises:
        CheckpointError: The configuration is not readable.
        UnsupportedCheckpointError: Another kind of model; the message names what is supported.
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
    class_name = _class_name(config.get("target"))
    if class_name not in SUPPORTED:
        raise UnsupportedCheckpointError(
            f"the checkpoint is a {class_name or 'model of unknown class'}; {SUPPORTED_TEXT}"
        )
    preprocessor, encoder = config.get("preprocessor"), config.get("encoder")
    if not isinstance(preprocessor, dict) or not isinstance(encoder, dict):
        raise CheckpointError(f"{CONFIG} has no preprocessor or no encoder")
    encoder_class = _class_name(encoder.get("_target_"))
    if encoder_class != SUPPORTED_ENCODER:
        raise UnsupportedCheckpointError(f"the encoder is a {encoder_class or 'nameless class'}; {SUPPORTED_TEXT}")
    own, shared = preprocessor.get("sample_rate"), config.get("sample_rate", SAMPLE_RATE)
    description = Description(
        folder=folder,
        class_name=class_name,
        vocabulary_kind=SUPPORTED[class_name],
        sample_rate=_integer("sample_rate", shared if own is None else own, 1, 10**6),
        features=_integer("preprocessor.features", preprocessor.get("features", 64), 1, 1024),
        subsampling=_integer("encoder.subsampling_factor", encoder.get("subsampling_factor", 4), 1, 64),
        preprocessor={key: value for key, value in preprocessor.items() if key != "_target_"},
    )
    stride = preprocessor.get("window_stride", 0.01)
    if not isinstance(stride, float) or not 0.001 <= stride <= 0.1:  # noqa: PLR2004 (said in the message)
        shown = repr(stride)[:50]
        raise CheckpointError(f"{CONFIG}: preprocessor.window_stride is {shown}; 0.001 to 0.1 (seconds) is needed")
    _check_encoder(encoder)
    _check_vocabulary(config, description)
    _check_frontend(description)
    return description


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases: NeMo writes none, and a few lines of them can stand for more values than memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401 (yaml has no types)
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)


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


def _check_encoder(encoder: dict[str, Any]) -> None:
    """The encoder must give the same for an utterance alone and padded, and for every length from one trace."""
    for key, supported in ENCODER_SETTINGS.items():
        found = encoder.get(key, supported[0])
        if found not in supported:
            raise UnsupportedCheckpointError(
                f"encoder.{key} is {found!r}; supported: {', '.join(repr(value) for value in supported)}"
            )


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


def _check_frontend(description: Description) -> None:
    """The feature recipe must be the one that the mel graph computes."""
    wanted = {"normalize": "per_feature", "frame_splicing": 1, "exact_pad": False, "log": True, "mag_power": 2.0}
    for key, value in wanted.items():
        found = description.preprocessor.get(key, value)
        if found != value:
            raise UnsupportedCheckpointError(f"preprocessor.{key} is {found!r}; only {value!r} is supported")
    if description.sample_rate != SAMPLE_RATE:
        raise UnsupportedCheckpointError(f"the model takes {description.sample_rate} Hz; only 16000 Hz is supported")
