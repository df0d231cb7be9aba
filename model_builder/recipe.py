"""What to build. Two equal recipes are the same artifact, wherever and whenever they are built."""

import hashlib
import json
import re
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

ARTIFACT_FORMAT = 1
"""Raised only when the output for an unchanged recipe changes, so that an upgrade alone rebuilds nothing."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]

RESERVED_PREFIXES = ("preprocessing_", "postprocessing_", "onnx_", "tensorrt_", "ensemble_")


class Engine(StrEnum):
    """The runtime of the acoustic model."""

    ONNX_RUNTIME = "OnnxRuntime"
    TENSORRT = "TensorRT"


class Precision(StrEnum):
    """Type of the acoustic model's weights and activations. Features, softmax and lengths stay FP32."""

    FP32 = "FP32"
    FP16 = "FP16"


class Frontend(StrEnum):
    """What computes the features: the graph itself behind a numpy model, or NeMo's preprocessor."""

    NUMPY = "Numpy"
    NEMO = "NeMo"


class Wire(StrEnum):
    """Encoding of the audio that clients send."""

    PCM16 = "PCM16"
    FLOAT32 = "FLOAT32"
    FLOAT64 = "FLOAT64"


class Recipe(BaseModel):
    """All inputs of a build that decide its output.

    The checkpoint is named by its content, not by where it came from: the same file from a hub, a bucket or a disk is
    one artifact.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_name: ModelName
    checkpoint_sha256: Sha256
    engine: Engine = Engine.ONNX_RUNTIME
    precision: Precision = Precision.FP32
    frontend: Frontend = Frontend.NUMPY
    wire: Wire = Wire.PCM16
    max_audio_seconds: int = Field(default=40, ge=1, le=600)
    max_batch_size: int = Field(default=32, ge=1, le=512)
    max_wer_increase_permille: int = Field(default=5, ge=0, le=1000)
    min_token_agreement_permille: int = Field(default=990, ge=0, le=1000)
    check_audio_sha256: Sha256

    @model_validator(mode="after")
    def _name_is_free(self) -> Self:
        for prefix in RESERVED_PREFIXES:
            if self.model_name.startswith(prefix):
                raise ValueError(
                    f"model name {self.model_name!r} starts with {prefix!r}, which names a part of the repository; "
                    f"use {re.sub('^' + prefix, '', self.model_name)!r}"
                )
        return self

    def canonical_json(self) -> bytes:
        """The recipe as canonical JSON: sorted keys, no spaces, UTF-8."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


def build_key(recipe: Recipe) -> str:
    """SHA-256 (hex) of the artifact format and the recipe: the artifact's name in storage."""
    return hashlib.sha256(b"%d\n%s" % (ARTIFACT_FORMAT, recipe.canonical_json())).hexdigest()
