"""What to build. Two equal recipes are the same artifact, wherever and whenever they are built."""

import hashlib
import json
import re
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

ARTIFACT_FORMAT = 4
"""Raised only when the output for an unchanged recipe changes, so that an upgrade alone rebuilds nothing."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
MAX_NAME = 96
NAME_PATTERN = r"^[A-Za-z0-9](\.?[A-Za-z0-9_-])*$"
ModelName = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=MAX_NAME)]
"""A name as the hub has it, without its owner. Triton has the same, and Kubernetes a cut one with a digest."""
NAME_HINT = f"letters, digits, '_', '-' and '.' within, at most {MAX_NAME}, such as english_stt or parakeet-ctc-0.6b"

RESERVED_PREFIXES = ("preprocessing_", "postprocessing_", "onnx_", "tensorrt_", "ensemble_")


class Engine(StrEnum):
    """The runtime of the acoustic model."""

    ONNX_RUNTIME = "OnnxRuntime"
    TENSORRT = "TensorRT"
    BOTH = "Both"
    """Both in one repository; the model that clients use runs on TensorRT."""

    @property
    def has_plan(self) -> bool:
        """Whether the repository holds a TensorRT plan, which one GPU product alone can run."""
        return self is not Engine.ONNX_RUNTIME


class Precision(StrEnum):
    """Type of the acoustic model's weights and activations. Features, softmax and lengths stay FP32."""

    FP32 = "FP32"
    FP16 = "FP16"
    BF16 = "BF16"


class Frontend(StrEnum):
    """What computes the features: the graph itself behind a numpy model, or NeMo's preprocessor."""

    NUMPY = "Numpy"
    NEMO = "NeMo"


class Wire(StrEnum):
    """Encoding of the audio that clients send."""

    PCM16 = "PCM16"
    FLOAT32 = "FLOAT32"
    FLOAT64 = "FLOAT64"


class PlanTarget(BaseModel):
    """What a TensorRT plan is built from and for.

    Neither the plan nor its speed carries over to another GPU product: L4 and L40S are both of compute capability 8.9.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    onnx_repository: Sha256
    """Content digest of the ONNX artifact, which was checked against the checkpoint."""
    gpu_product: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=63)
    """As GPU feature discovery labels nodes, MIG profile included, such as `NVIDIA-A100-SXM4-40GB-MIG-1g.5gb`."""
    compute_capability: str = Field(pattern=r"^\d+\.\d+$")
    tensorrt: str = Field(pattern=r"^\d+\.\d+(\.\d+)*$")
    """Version of the library that built the plan; the server's must be the same."""
    shapes: tuple[tuple[float, int], ...] = ()
    """Length in seconds and batch of each shape; empty leaves them to the builder."""


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
    plan: PlanTarget | None = None

    @model_validator(mode="after")
    def _plan_goes_with_engine(self) -> Self:
        if self.engine.has_plan != (self.plan is not None):
            raise ValueError(f"engine {self.engine} goes with{'' if self.engine.has_plan else 'out'} a plan target")
        if self.precision is Precision.BF16 and not self.engine.has_plan:
            raise ValueError("precision BF16 is for TensorRT; ONNX Runtime lacks its operators on many devices")
        return self

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
        return json.dumps(
            self.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":")
        ).encode()


def build_key(recipe: Recipe) -> str:
    """SHA-256 (hex) of the artifact format and the recipe: the artifact's name in storage."""
    return hashlib.sha256(b"%d\n%s" % (ARTIFACT_FORMAT, recipe.canonical_json())).hexdigest()
