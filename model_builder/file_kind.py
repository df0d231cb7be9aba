"""What a file or a folder is that was given in place of a `.nemo`: by its first bytes, and in words for its owner."""

import re
from pathlib import Path

HEAD = 4096
"""Bytes at the start of a file that tell its kind."""

TAR_MAGIC, TAR_OFFSET = b"ustar", 257
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
"""gzip, bzip2 and xz: older NeMo compressed its archives."""
SAVE = "load it with NeMo and write it with model.save_to('model.nemo')"
DOWNLOAD = "download the file itself"

SIGNATURES: tuple[tuple[str, str], ...] = (
    (r"version https://git-lfs\.github\.com/", "a pointer of Git LFS, not the file: run git lfs pull"),
    (r"(?i)\s*(<!--.*?-->\s*)?<(!doctype\s+html|html|head)\b", f"an HTML page, such as of a login: {DOWNLOAD}"),
    (r"\s*<\?xml|<Error>", f"XML, such as an error of a server: {DOWNLOAD}"),
    (r".{8}\{\s*\"", f"a file of weights in safetensors, without a configuration: {SAVE}"),
    (r"GGUF|lmgg|ggml|fmgg|tjgg", "a model in GGUF or GGML, of llama.cpp or whisper.cpp; NeMo does not read it"),
    (r"\x08[\x01-\x1f](\x12|\x1a|\x22|\x3a|\x42)", "an ONNX model: give the .nemo file that it was exported from"),
    (r"PK\x03\x04.{26,4000}?/data\.pkl.*?(pytorch-lightning_version|global_step)", f"a Lightning checkpoint: {SAVE}"),
    (r"PK\x03\x04.{26,4000}?\.data/|PK\x03\x04.{26,4000}?/data\.pkl", f"a file of torch.save, without more: {SAVE}"),
    (r"PK\x03\x04.{26}.{0,80}?model_config\.yaml", "a zip archive; a .nemo is a tar of the same files"),
    (r"PK\x03\x04", "a zip archive; a .nemo is a tar"),
    (r"\x80[\x02-\x05]\x8a\n\x6c\xfc\x9c\x46\xf9", f"a file of torch.save, of PyTorch before 1.6: {SAVE}"),
    (r"\x80[\x02-\x05][}\](cX\x95]", "a pickle, which this program does not open"),
    (r"\x89HDF", "a file in HDF5, such as of Keras; NeMo does not read it"),
    (r"(RIFF|RF64).{4}WAVE|fLaC|OggS|ID3", "audio, not a model"),
    (r"7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "an archive in another format; a .nemo is a tar"),
    (r"\x7fELF|MZ", "a program, not a model"),
    (
        r"(?i)(model_)?(target|name|sample_rate|preprocessor|encoder|labels): ",
        "a configuration in YAML, without weights",
    ),
    (r"\s*[{\[]\s*[\"{\[\]}]", "JSON, not a model"),
)
"""Regular expressions at the start of a file, and what it is then. The first that fits counts."""


def of_file(head: bytes, size: int) -> str | None:
    """What a file is that cannot be a `.nemo`; None if it may be one.

    Args:
        head: Its first bytes, up to `HEAD`.
        size: All its bytes.
    """
    if not size:
        return "empty"
    if head[TAR_OFFSET : TAR_OFFSET + len(TAR_MAGIC)] == TAR_MAGIC or head.startswith(COMPRESSED):
        return None
    text = head.decode("latin-1")
    return next((kind for pattern, kind in SIGNATURES if re.match(pattern, text, re.DOTALL)), None)


def of_folder(folder: Path) -> str:
    """What a folder is that was given in place of a `.nemo`, and what to do."""
    names = {path.name for path in folder.iterdir()}
    archives = sorted(name for name in names if name.endswith(".nemo"))
    if archives:
        return f"a folder; give the file in it, such as {folder / archives[0]}"
    if "model_config.yaml" in names:
        return f"an unpacked .nemo; pack it with: tar -cf model.nemo -C {folder} ."
    if "config.json" in names:
        return "a folder of Hugging Face Transformers; the .nemo file of the model is needed"
    if {"context", "weights"} <= names:
        return "a folder of NeMo 2, as it writes for language models; a .nemo file is needed"
    if "manifest.json" in names:
        return "a published artifact, not a checkpoint"
    return "a folder without a .nemo file"
