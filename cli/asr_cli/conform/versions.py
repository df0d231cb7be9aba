"""Versions of the server's parts, and whether they go together."""

from collections.abc import Mapping, Sequence
from typing import Any

from asr_cli.conform.artifact import Artifact
from asr_cli.conform.outcome import Result, failed, passed, skipped
from asr_contract.compatibility import same_tensorrt
from asr_contract.server import CHECKED_CONFIGURATION, NO_MODEL_CONTROL, STRICT_READINESS

VERSIONS, FLAGS = "versions", "server flags"
OLDEST = (2, 51)
"""Core of Triton 24.10: the first whose Python models may answer requests in any order."""
NUMPY_2 = (2, 52)
"""Core of Triton 24.11: the first whose Python backend works with numpy 2."""
REQUIRED_FLAGS = {
    NO_MODEL_CONTROL: "anybody who reaches the server could load models, which is running code",
    STRICT_READINESS: "the server would be ready before its models are",
    CHECKED_CONFIGURATION: "Triton would change the configuration that was checked",
}


def numbers(version: str | None) -> tuple[int, ...]:
    """A version as numbers: `2.51.0` is (2, 51, 0); what is no number ends it."""
    found: list[int] = []
    for part in (version or "").split("."):
        if not part.isdecimal():
            break
        found.append(int(part))
    return tuple(found)


def record(
    server: str | None, inside: Mapping[str, Any] | None, image: str | None, artifact: Artifact | None
) -> dict[str, Any]:
    """All versions that are known; None for what is not.

    Args:
        server: Version that Triton's gRPC states.
        inside: What `inside.py versions` printed; None where it could not run.
        image: Name and digest of the server's image.
        artifact: What is served.
    """
    found = inside or {}
    variables = found.get("environment", {})
    gpus = found.get("gpus", [])
    return {
        "triton": server,
        "triton_release": variables.get("NVIDIA_TRITON_SERVER_VERSION"),
        "tensorrt": variables.get("TRT_VERSION"),
        "cuda": variables.get("CUDA_VERSION"),
        "onnxruntime": found.get("onnxruntime"),
        "python": found.get("python"),
        "numpy": found.get("numpy"),
        "driver": gpus[0].get("driver") if gpus else None,
        "gpus": [gpu.get("name") for gpu in gpus],
        "image": image,
        "plan_tensorrt": artifact.tensorrt if artifact else None,
        "build": artifact.build if artifact else None,
    }


def judge(versions: Mapping[str, Any]) -> Result:
    """Whether the versions go together."""
    server = numbers(versions["triton"])
    known = {name: value for name, value in versions.items() if value and name not in {"build", "image"}}
    shown = ", ".join(
        f"{name} {'; '.join(value) if isinstance(value, list) else value}" for name, value in known.items()
    )
    if not server:
        hint = "Is this Triton? asr doctor --url HOST:PORT checks it step by step."
        return failed(VERSIONS, "the server does not state its version", hint, **versions)
    if server < OLDEST:
        hint = "Serve with Triton 24.10 (core 2.51) or newer."
        return failed(VERSIONS, f"Triton core {versions['triton']} is too old; {shown}", hint, **versions)
    if numbers(versions["numpy"])[:1] >= (2,) and server < NUMPY_2:
        message = f"the Python backend of Triton core {versions['triton']} returns empty outputs with numpy 2; {shown}"
        return failed(VERSIONS, message, "Install numpy<2 in the image, or use Triton 24.11 or newer.", **versions)
    plan, library = versions["plan_tensorrt"], versions["tensorrt"]
    if plan and library and not same_tensorrt(plan, library):
        message = f"the plan was built by TensorRT {plan}, the server has {library}"
        hint = "Build the plan in the image that serves: spec.image.tensorrt, or triton.images of the chart."
        return failed(VERSIONS, message, hint, **versions)
    return passed(VERSIONS, shown, **versions)


def judge_flags(flags: Sequence[str]) -> Result:
    """Whether the server runs with the flags that the operator starts it with."""
    missing = [flag for flag in REQUIRED_FLAGS if flag not in flags and f"{flag}=true" not in flags]
    if missing:
        message = "; ".join(f"{flag} is missing: {REQUIRED_FLAGS[flag]}" for flag in missing)
        return failed(FLAGS, message, "Start the server with these flags, as the operator does.", flags=list(flags))
    return passed(FLAGS, f"{len(flags)} flags; {', '.join(REQUIRED_FLAGS)} are among them", flags=list(flags))


def without_shell(reason: str) -> Result:
    """The result of `server flags` where nothing can be run beside the server."""
    return skipped(FLAGS, f"the server's command line cannot be read: {reason}")
