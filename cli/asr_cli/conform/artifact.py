"""The served artifact, as far as a conformance run needs it: its recipe, measurements, and reference transcripts.

`references.json` holds one entry for each file of the check audio, in the order of the files' names, without the names.
The names are in `manifest.json` (`gate.transcripts`), and so the two are read together.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_client import audio
from asr_serving.tensors import SAMPLE_RATE, model_names

MANIFEST, REFERENCES = "manifest.json", "references.json"
SHIPPED = "the check audio that comes with the package"
LENGTH_TOLERANCE_SECONDS = 0.02
"""The manifest rounds lengths to hundredths."""


class ArtifactError(Exception):
    """The artifact cannot be read; the message says why."""


class AudioMissingError(Exception):
    """The artifact's check audio is not available; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The checkpoint's own transcript of one file: its text, and the best token of each encoder step.

    Attributes:
        text: Its text.
        tokens: [steps] int32, blank included.
        logprobs: [steps] float32, natural log-probability of each token; None in artifacts that hold none.
    """

    text: str
    tokens: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Artifact:
    """What was published.

    Attributes:
        model: Name of the model.
        build: Build key.
        precision: Of the acoustic model.
        max_seconds: Longest audio that it serves.
        files: Names of the check audio's files.
        seconds: Length of each file where the manifest states it, by name.
        references: One for each file.
        tensorrt: Version that built the plan; None without a plan.
        gpu_product: GPU that the plan is for; None without a plan.
        measurements: Of the plan on the GPU that built it; empty without a plan.
        model_bytes: Size of the acoustic models' files.
    """

    model: str
    build: str
    precision: str
    max_seconds: int
    files: tuple[str, ...]
    seconds: Mapping[str, float]
    references: tuple[Reference, ...]
    tensorrt: str | None
    gpu_product: str | None
    measurements: Mapping[str, Any]
    model_bytes: int


def parse(manifest: Any, references: Any) -> Artifact:  # noqa: ANN401 (any JSON)
    """Read the two files of an artifact.

    Raises:
        ArtifactError: They are not what this version reads, or do not belong together.
    """
    try:
        recipe = manifest["recipe"]
        plan = recipe.get("plan") or {}
        files = tuple(str(item["file"]) for item in manifest["gate"]["transcripts"])
        lengths = manifest["check"].get("by_utterance", ())
        found = Artifact(
            model=str(recipe["model_name"]),
            build=str(manifest["build_key"]),
            precision=str(recipe["precision"]),
            max_seconds=int(recipe["max_audio_seconds"]),
            files=files,
            seconds={str(item["file"]): float(item["seconds"]) for item in lengths},
            references=tuple(_reference(item) for item in references),
            tensorrt=plan.get("tensorrt"),
            gpu_product=plan.get("gpu_product"),
            measurements=manifest.get("measurements") or {},
            model_bytes=_model_bytes(recipe["model_name"], manifest["files"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{MANIFEST} or {REFERENCES} is not what this version of asr reads ({error!r}): update the older one"
        ) from error
    if len(found.files) != len(found.references):
        raise ArtifactError(
            f"{REFERENCES} holds {len(found.references)} transcripts, {MANIFEST} names {len(found.files)} files"
        )
    return found


def _reference(item: Mapping[str, Any]) -> Reference:
    logprobs = item.get("token_logprobs")
    return Reference(
        text=str(item["text"]),
        tokens=np.array(item["tokens"], dtype=np.int32),
        logprobs=None if logprobs is None else np.array(logprobs, dtype=np.float32),
    )


def _model_bytes(model: str, files: Mapping[str, Any]) -> int:
    names = model_names(model)
    folders = tuple(f"{names[engine]}/" for engine in ("onnx", "tensorrt"))
    return sum(int(file["size"]) for path, file in files.items() if path.startswith(folders))


def read(folder: Path) -> Artifact:
    """Read an artifact that `model-builder fetch` has downloaded.

    Raises:
        ArtifactError: The folder is none, or cannot be read.
    """
    try:
        manifest, references = (json.loads((folder / name).read_text("utf-8")) for name in (MANIFEST, REFERENCES))
    except (OSError, ValueError) as error:
        raise ArtifactError("the folder of --artifact is not one that model-builder fetch made") from error
    return parse(manifest, references)


@dataclass(frozen=True, slots=True)
class CheckAudio:
    """The artifact's check audio, in the order of its references.

    Attributes:
        public: Whether it comes with the package: its names and texts may be shown.
        signals: [L_i] int16 at 16 kHz.
    """

    public: bool
    signals: tuple[npt.NDArray[np.int16], ...]


def check_audio(artifact: Artifact, folder: Path | None) -> CheckAudio:
    """Read the check audio of an artifact: from `folder`, or what comes with the package when None.

    Raises:
        AudioMissingError: A file is missing, cannot be read, or has another length than the artifact says.
    """
    where = folder or Path(str(resources.files("model_builder"))) / "check_audio"
    advice = "give the audio that the artifact was built with: --audio DIR"
    missing = [name for name in artifact.files if not (where / name).is_file()]
    if missing:
        lacks = f"{len(missing)} of the {len(artifact.files)} files of the artifact's check audio"
        shown = "the folder of --audio" if folder else SHIPPED
        raise AudioMissingError(f"{shown} lacks {lacks}; {advice}")
    signals = []
    for index, name in enumerate(artifact.files):
        try:
            signal = audio.read(where / name)
        except audio.AudioFileError as error:
            # Names of files may be names of people; the record holds none.
            raise AudioMissingError(f"file {index + 1} of the check audio cannot be read; {advice}") from error
        expected = artifact.seconds.get(name)
        if expected is not None and abs(signal.size / SAMPLE_RATE - expected) > LENGTH_TOLERANCE_SECONDS:
            raise AudioMissingError(
                f"file {index + 1} is {signal.size / SAMPLE_RATE:.2f} s long, the artifact's {expected:.2f} s; {advice}"
            )
        signals.append(signal)
    return CheckAudio(folder is None, tuple(signals))


def shipped_audio() -> Sequence[npt.NDArray[np.int16]]:
    """Speech for load, when the artifact's own check audio is not available.

    Raises:
        AudioFileError: It cannot be read.
    """
    folder = Path(str(resources.files("model_builder"))) / "check_audio"
    return [audio.read(path) for path in sorted(folder.glob("*.wav"))]
