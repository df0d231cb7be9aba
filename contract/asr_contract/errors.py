"""Every way a build can fail, with the exit code that scripts and the operator rely on.

Exit codes are part of the command-line contract: 0 success, 1 an error in this program, 2 wrong usage, the codes below,
and 130 and 143 after SIGINT and SIGTERM. A `transient` error may pass when the same command is run again; the others
need a change first.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class BuilderError(Exception):
    """A failure that the user can act on: `reason` for machines, the message for people."""

    reason: ClassVar[str] = "Failed"
    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False


class SourceError(BuilderError):
    """The checkpoint could not be fetched."""

    reason = "SourceUnavailable"
    exit_code = 10


class SourceUnreachableError(SourceError):
    """The checkpoint could not be fetched now: where it comes from is down or busy, or it was just being replaced."""

    transient = True


class CheckpointError(BuilderError):
    """The file is not a readable NeMo checkpoint, or is not safe to open."""

    reason = "CheckpointInvalid"
    exit_code = 11


class UnsupportedCheckpointError(BuilderError):
    """The checkpoint is a NeMo model of a kind that this builder does not serve."""

    reason = "CheckpointUnsupported"
    exit_code = 12


class CheckAudioError(BuilderError):
    """The check audio is missing or not usable."""

    reason = "CheckAudioInvalid"
    exit_code = 13


class CheckAudioUnreachableError(CheckAudioError):
    """The check audio could not be fetched now: storage refused or failed."""

    transient = True


class RejectedError(BuilderError):
    """The exported model does not transcribe like the checkpoint; `figures` are what was measured until then."""

    reason = "Rejected"
    exit_code = 20

    def __init__(self, message: str, figures: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.figures = dict(figures or {})


class PlanError(BuilderError):
    """TensorRT could not build the plan: an operator it lacks, a shape too large, no time or memory left."""

    reason = "PlanFailed"
    exit_code = 21


class StorageError(BuilderError):
    """Object storage refused or failed."""

    reason = "StorageUnavailable"
    exit_code = 30
    transient = True


class StorageLocationError(StorageError):
    """A location that is none: not a URI of object storage, or a local folder that does not exist."""

    transient = False


class StorageRefusedError(StorageError):
    """Storage knows these credentials, and does not permit this operation to them."""


class ArtifactError(BuilderError):
    """A published artifact is missing, incomplete or altered."""

    reason = "ArtifactInvalid"
    exit_code = 31


class IncompatiblePlanError(BuilderError):
    """A plan of another GPU product or of another TensorRT, or one that is damaged."""

    reason = "PlanIncompatible"
    exit_code = 33


class WorkFolderError(BuilderError):
    """The local folder cannot be written."""

    reason = "WorkFolderUnusable"
    exit_code = 32


class ServerError(BuilderError):
    """Triton is not installed, did not start, or stopped."""

    reason = "ServerUnavailable"
    exit_code = 40


class MissingExtraError(BuilderError):
    """A command needs packages that are not installed; `extra` of this project has them."""

    reason = "MissingPackages"
    exit_code = 41

    def __init__(self, what: str, extra: str) -> None:
        python = ", with Python 3.11 or 3.12" if extra == "builder" else ""
        super().__init__(f"{what}: pip install '.[{extra}]' in the project's folder{python}")


class GpuError(BuilderError):
    """No GPU, no driver, or not enough of its memory."""

    reason = "GpuUnavailable"
    exit_code = 42


class OverridesError(BuilderError):
    """Overrides of the batching that do not fit what was built."""

    reason = "OverridesInvalid"
    exit_code = 34
