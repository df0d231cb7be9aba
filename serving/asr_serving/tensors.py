"""The tensor table: every tensor of the model repository, written once.

Export, check, `config.pbtxt`, the Python models inside Triton (each gets a copy of this file beside its `model.py`) and
the client all take names, types and dimensions from here. Standard library only.

Dimensions leave out the batch axis, as in `config.pbtxt`; -1 is variable. With the batch axis in front, lengths are
`[B, 1]`, tokens `[B, T]`.
"""

from dataclasses import dataclass

SAMPLE_RATE = 16_000
"""Samples a second that every supported checkpoint and the wire use."""

MAX_AUDIO_SECONDS = "max_audio_seconds"
"""Parameter in the configuration of the models that clients call: clients refuse what is longer before they send it."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named tensor.

    Attributes:
        name: Its name on the wire and in the graph.
        dtype: Triton's data type without the `TYPE_` prefix.
        dims: Dimensions without the batch axis; -1 is variable.
        axes: Names of the dimensions, for the exported graph's symbolic shapes.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    axes: tuple[str, ...]


# What a client sends and gets.
WIRE_DTYPES = {"PCM16": "INT16", "FLOAT32": "FP32", "FLOAT64": "FP64"}


def audio_signal(wire: str) -> Tensor:
    """Mono audio at 16 kHz: PCM16 as int16, the float encodings in [-1, 1]."""
    return Tensor("audio_signal", WIRE_DTYPES[wire], (-1,), ("samples",))


DECODED_TEXTS = Tensor("decoded_texts", "STRING", (1,), ("one",))
CONFIDENCE = Tensor("confidence", "FP32", (1,), ("one",))
"""Mean probability of the best token over the frames that carry a token; 1 for silence. 0 to 1."""
WORDS = Tensor("words", "STRING", (-1,), ("words",))
WORD_OFFSETS = Tensor("word_offsets", "FP32", (-1, 2), ("words", "start_end"))
"""Start and end of each word in seconds."""
TRANSCRIPT = (DECODED_TEXTS, CONFIDENCE, WORDS, WORD_OFFSETS)

# Between the front end and the acoustic model, when the mel graph is part of the acoustic graph...
AUDIO = Tensor("audio", "FP32", (-1,), ("samples",))
"""Audio in [-1, 1], padded with anything: the graph masks what lies beyond the length."""
AUDIO_PCM16 = Tensor("audio", "UINT8", (-1,), ("bytes",))
"""The same as 16-bit integers, each of them two bytes, the low one first: TensorRT takes no 16-bit integers, and
floats are twice as much to copy on their way to the GPU."""
AUDIO_LENGTH = Tensor("audio_length", "INT32", (1,), ("one",))
"""Valid samples."""


def audio(wire: str) -> Tensor:
    """What the mel graph takes of audio that came in this encoding."""
    return AUDIO_PCM16 if wire == "PCM16" else AUDIO


# ... and when NeMo's own preprocessor runs in front of it.
def processed_signal(features: int) -> Tensor:
    """Normalised log-mel features, `features` bands by frames of 10 ms."""
    return Tensor("processed_signal", "FP32", (features, -1), ("features", "frames"))


PROCESSED_SIGNAL_LENGTH = Tensor("processed_signal_length", "INT32", (1,), ("one",))
"""Valid frames."""

# What the acoustic model gives.
TOKENS = Tensor("tokens", "INT32", (-1,), ("steps",))
"""Best token of each encoder step, blank included; the blank is the last one of the vocabulary."""
TOKEN_LOGPROBS = Tensor("token_logprobs", "FP32", (-1,), ("steps",))
"""Natural log-probability of that token."""
ENCODED_LENGTH = Tensor("encoded_length", "INT32", (1,), ("one",))
"""Valid encoder steps."""


def logprobs(classes: int) -> Tensor:
    """Log-probabilities of all classes (vocabulary and blank), for those who ask for this output."""
    return Tensor("logprobs", "FP32", (-1, classes), ("steps", "classes"))


ACOUSTIC = (TOKENS, TOKEN_LOGPROBS, ENCODED_LENGTH)
"""What postprocessing needs of the acoustic model."""


def model_names(name: str) -> dict[str, str]:
    """Names of the models in the repository of `name`, by role."""
    return {
        "preprocessing": f"preprocessing_{name}",
        "onnx": f"onnx_{name}",
        "tensorrt": f"tensorrt_{name}",
        "postprocessing": f"postprocessing_{name}",
        "ensemble": f"ensemble_{name}",
        "ensemble_tensorrt": f"ensemble_tensorrt_{name}",
        "scheduler": name,
    }
