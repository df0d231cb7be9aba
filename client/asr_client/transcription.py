"""Send utterances to a Triton server and get transcripts back. Adapter of tritonclient."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_serving import tensors

Pcm = npt.NDArray[np.int16]


class TranscriptionError(Exception):
    """The server refused or failed this request; the message is the server's.

    `status` is the gRPC status name, such as `StatusCode.INVALID_ARGUMENT`, when there was one.
    """

    def __init__(self, message: str, status: str | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Word:
    """One word and when it was said, in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What one utterance says; confidence from 0 to 1."""

    text: str
    confidence: float
    words: tuple[Word, ...]


class Client:
    """One connection to one model. Use `connect`."""

    def __init__(self, grpc: Any, model: str, wire: str) -> None:  # noqa: ANN401 (tritonclient has no types)
        self._grpc = grpc
        self._model = model
        self._wire = wire

    def encode(self, signal: Pcm) -> npt.NDArray[Any]:
        """Int16 samples [L] in the encoding that the model takes, [1, L]."""
        if self._wire == "INT16":
            return signal[None]
        dtype = np.float32 if self._wire == "FP32" else np.float64
        return (signal.astype(dtype) / dtype(32768))[None]

    async def transcribe(self, signal: Pcm) -> Transcript:
        """Transcribe one utterance [L].

        Raises:
            TranscriptionError: The server refused it, failed or is gone.
        """
        outputs = await self.infer(self.encode(signal), [tensor.name for tensor in tensors.TRANSCRIPT])
        words = [word.decode() for word in outputs["words"].ravel()]
        offsets = outputs["word_offsets"].reshape(-1, 2)
        return Transcript(
            text=outputs["decoded_texts"].ravel()[0].decode(),
            confidence=float(outputs["confidence"].ravel()[0]),
            words=tuple(
                Word(word, round(float(start), 3), round(float(end), 3))
                for word, (start, end) in zip(words, offsets, strict=True)
            ),
        )

    async def infer(self, signal: npt.NDArray[Any], outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Send `audio_signal` as it is and return the named outputs.

        Raises:
            TranscriptionError: The server refused it, failed or is gone.
        """
        return await infer(self._grpc, self._model, {"audio_signal": signal}, outputs)


async def infer(
    grpc: Any,  # noqa: ANN401
    model: str,
    inputs: dict[str, npt.NDArray[Any]],
    outputs: Sequence[str],
) -> dict[str, npt.NDArray[Any]]:
    """One inference request over an open `tritonclient.grpc.aio` client.

    Raises:
        TranscriptionError: The server refused it, failed or is gone.
    """
    from tritonclient.grpc import InferInput, InferRequestedOutput  # noqa: PLC0415
    from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # noqa: PLC0415

    sent = []
    for name, array in inputs.items():
        sent.append(InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        sent[-1].set_data_from_numpy(array)
    try:
        result = await grpc.infer(model, sent, outputs=[InferRequestedOutput(name) for name in outputs])
    except InferenceServerException as error:
        raise TranscriptionError(error.message(), error.status()) from error
    return {name: result.as_numpy(name) for name in outputs}


@asynccontextmanager
async def connect(url: str, model: str) -> AsyncIterator[Client]:
    """Connect to `url` (host:port of Triton's gRPC) and ask what `model` takes.

    Raises:
        TranscriptionError: No server there, or it does not serve the model.
    """
    async with channel(url) as grpc:
        from tritonclient.utils import InferenceServerException  # noqa: PLC0415

        try:
            metadata = await grpc.get_model_metadata(model)
        except InferenceServerException as error:
            raise TranscriptionError(
                f"{url} does not serve {model!r}: {error.message()}; `asr doctor --url {url}` says more", error.status()
            ) from error
        audio = next((tensor for tensor in metadata.inputs if tensor.name == "audio_signal"), None)
        if audio is None or audio.datatype not in tensors.WIRE_DTYPES.values():
            raise TranscriptionError(f"model {model!r} takes no audio_signal; is it one of this project's?")
        yield Client(grpc, model, audio.datatype)


@asynccontextmanager
async def channel(url: str) -> AsyncIterator[Any]:
    """An open `tritonclient.grpc.aio` client."""
    from tritonclient.grpc import aio  # noqa: PLC0415 (loads gRPC)

    grpc = aio.InferenceServerClient(url)
    try:
        yield grpc
    finally:
        await grpc.close()


async def gather_bounded(jobs: Sequence[Callable[[], Awaitable[None]]], concurrency: int) -> None:
    """Run all jobs, at most `concurrency` at once."""
    gate = asyncio.Semaphore(concurrency)

    async def run(job: Callable[[], Awaitable[None]]) -> None:
        async with gate:
            await job()

    await asyncio.gather(*(run(job) for job in jobs))


def transcribe_all(
    url: str,
    model: str,
    signals: Sequence[Pcm],
    *,
    concurrency: int = 64,
    done: Callable[[int, Transcript | TranscriptionError], None] = lambda _index, _result: None,
) -> list[Transcript | TranscriptionError]:
    """Transcribe utterances, many at once, one a request.

    Args:
        url: Host and port of Triton's gRPC.
        model: The model.
        signals: Utterances [L] int16 at 16 kHz.
        concurrency: Requests in flight.
        done: Called with the index and the result as each arrives.

    Returns:
        A transcript or an error for each signal, in their order.

    Raises:
        TranscriptionError: No server there, or it does not serve the model.
    """
    results: list[Transcript | TranscriptionError | None] = [None] * len(signals)

    async def run() -> None:
        async with connect(url, model) as client:

            async def one(index: int) -> None:
                result: Transcript | TranscriptionError
                try:
                    result = await client.transcribe(signals[index])
                except TranscriptionError as error:
                    result = error
                results[index] = result
                done(index, result)

            await gather_bounded([lambda index=index: one(index) for index in range(len(signals))], concurrency)

    asyncio.run(run())
    return [result for result in results if result is not None]
