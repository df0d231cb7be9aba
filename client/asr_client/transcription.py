"""Send utterances to a Triton server and get transcripts back. Adapter of tritonclient."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from asr_serving import tensors

Pcm = npt.NDArray[np.int16]
Value = TypeVar("Value")

CONNECT_SECONDS = 20.0
"""A server that takes longer to say what a model is is not there, or is something else."""
CONNECT_RETRIES = 2
"""A server that is gone is told within a second or two; a pod that has just died has its Service's other pods."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
"""Limits of the random pauses before a request is sent again: the first one's, doubled each time, and the longest."""
CHANNEL = {
    # As many bytes as tritonclient allows itself.
    "grpc.max_send_message_length": 2**31 - 1,
    "grpc.max_receive_message_length": 2**31 - 1,
    # A name that resolves to all pods (a headless Service) is balanced over them; one address is as without it.
    "grpc.service_config": json.dumps({"loadBalancingConfig": [{"round_robin": {}}]}),
    # Servers end connections by and by so that clients look which pods there are; 30 s is too rarely for that.
    "grpc.dns_min_time_between_resolutions_ms": 5_000,
    # Else requests would fail for up to two minutes after a server is there again.
    "grpc.initial_reconnect_backoff_ms": 250,
    "grpc.max_reconnect_backoff_ms": 2_000,
    # A client has connections of its own.
    "grpc.use_local_subchannel_pool": 1,
}


@dataclass(frozen=True, slots=True)
class Tls:
    """How a server is known that speaks TLS.

    Attributes:
        authorities: PEM file of those that may sign its certificate; None for those that gRPC brings.
        server_name: The name that its certificate must hold; None for the address's.
    """

    authorities: Path | None = None
    server_name: str | None = None

    def __str__(self) -> str:
        """As options of `asr`."""
        options = "--tls" if self.authorities is None else f"--tls-ca {self.authorities}"
        return options if self.server_name is None else f"{options} --tls-server-name {self.server_name}"


class TranscriptionError(Exception):
    """The server refused or failed this request; the message is the server's.

    `status` is the gRPC status name, such as `StatusCode.INVALID_ARGUMENT`, when there was one.
    """

    def __init__(self, message: str, status: str | None = None) -> None:
        super().__init__(message)
        self.status = status


class ServerUnavailableError(TranscriptionError):
    """No server there, or it does not serve the model: no request can succeed."""


class AudioTooLongError(TranscriptionError):
    """The model does not take audio of this length; nothing was sent."""


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
    """Connections to one model. Use `connect`."""

    def __init__(
        self,
        grpc: Any,  # noqa: ANN401 (tritonclient has no types)
        model: str,
        wire: str,
        timeout: float | None = None,
        retries: int = 0,
    ) -> None:
        self._grpc = grpc
        self._model = model
        self._wire = wire
        self._timeout = timeout
        self._retries = retries

    @property
    def grpc(self) -> Any:  # noqa: ANN401
        """The open `tritonclient.grpc.aio` client, to ask the server about itself."""
        return self._grpc

    async def max_seconds(self) -> float | None:
        """Longest audio that the model serves; None when the server does not tell, as one of an earlier build."""
        from tritonclient.utils import InferenceServerException  # noqa: PLC0415

        try:
            answer = await self._grpc.get_model_config(self._model, client_timeout=CONNECT_SECONDS)
        except InferenceServerException:
            return None  # restricted, or lost: then requests tell
        return max_seconds_of(answer.config.parameters)

    def encode(self, signal: Pcm) -> npt.NDArray[Any]:
        """Int16 samples [L] in the encoding that the model takes, [1, L]."""
        if self._wire == "INT16":
            return signal[None]
        scaled = signal[None] / np.float64(32768)
        return scaled.astype(np.float32) if self._wire == "FP32" else scaled

    async def transcribe(
        self, signal: Pcm, *, again: Callable[[TranscriptionError], None] = lambda _error: None
    ) -> Transcript:
        """Transcribe one utterance [L].

        Args:
            signal: Int16 samples.
            again: Called with the reason each time before the request is sent again.

        Raises:
            TranscriptionError: The server refused it, failed or is gone, however often it was asked.
        """
        outputs = [tensor.name for tensor in tensors.TRANSCRIPT]
        found = await self.infer(self.encode(signal), outputs, again=again)
        return transcript_of(found, seconds=signal.size / tensors.SAMPLE_RATE)

    async def infer(
        self,
        signal: npt.NDArray[Any],
        outputs: Sequence[str],
        *,
        again: Callable[[TranscriptionError], None] = lambda _error: None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Send `audio_signal` as it is and return the named outputs.

        Raises:
            TranscriptionError: The server refused it, failed or is gone, however often it was asked.
        """
        started = time.monotonic()

        async def once() -> dict[str, npt.NDArray[Any]]:
            left = None if self._timeout is None else max(self._timeout - (time.monotonic() - started), 0.001)
            try:
                return await infer(self._grpc, self._model, {"audio_signal": signal}, outputs, timeout=left)
            except TranscriptionError as error:
                if error.status == "StatusCode.DEADLINE_EXCEEDED" and self._timeout is not None:
                    # The time that was given, not what was left of it: else each failure has a message of its own.
                    raise TranscriptionError(f"no answer within {self._timeout:g} s", error.status) from error
                raise

        return await repeated(once, retries=self._retries, seconds=self._timeout, again=again)


def is_restricted(error: BaseException) -> bool:
    """Whether the server gives this part of its API to holders of a key alone. It says so as UNAVAILABLE."""
    return isinstance(error, TranscriptionError) and "is restricted, expecting header" in str(error)


def max_seconds_of(parameters: Mapping[str, Any]) -> float | None:
    """Longest audio by the parameters of a model's configuration, None when they do not tell."""
    if tensors.MAX_AUDIO_SECONDS not in parameters:
        return None
    try:
        seconds = float(parameters[tensors.MAX_AUDIO_SECONDS].string_value)
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None


def is_lost(error: BaseException) -> bool:
    """Whether the server is gone or going: the same request may succeed elsewhere or later.

    A transcription changes nothing on the server, so it may be sent again even where it was perhaps done. What the
    server refused it would refuse again, and a request that took too long would take as long.
    """
    if not isinstance(error, TranscriptionError) or is_restricted(error):
        return False
    # How Triton speaks of its models while it ends.
    ending = error.status == "StatusCode.NOT_FOUND" and "has no available versions" in str(error)
    # A Python process of the server's has died, and so will the server: its container is started again.
    broken = error.status == "StatusCode.INTERNAL" and "Stub process" in str(error) and "not healthy" in str(error)
    # CANCELLED is what a server that ends does to requests in flight: asyncio tells in another way what we cancel.
    return error.status in {"StatusCode.UNAVAILABLE", "StatusCode.CANCELLED"} or ending or broken


async def repeated(
    once: Callable[[], Awaitable[Value]],
    *,
    retries: int,
    seconds: float | None = None,
    again: Callable[[TranscriptionError], None] = lambda _error: None,
) -> Value:
    """Ask once, and again after growing random pauses where the server is lost.

    Args:
        once: Asks the server.
        retries: How often to ask again at most.
        seconds: Do not ask again when so many have passed, None for no limit.
        again: Called with the reason each time before it is asked again.

    Raises:
        TranscriptionError: The last one.
    """
    from tenacity import (  # noqa: PLC0415 (what the client needs is loaded when it connects)
        AsyncRetrying,
        RetryCallState,
        retry_if_exception,
        stop_after_attempt,
        stop_before_delay,
        stop_never,
        wait_random_exponential,
    )

    def tell(state: RetryCallState) -> None:
        if state.outcome is not None and isinstance(error := state.outcome.exception(), TranscriptionError):
            again(error)

    retrying = AsyncRetrying(
        retry=retry_if_exception(is_lost),
        stop=stop_after_attempt(1 + retries) | (stop_never if seconds is None else stop_before_delay(seconds)),
        wait=wait_random_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
        before_sleep=tell,
        reraise=True,
    )
    return await retrying(once)


def transcript_of(outputs: dict[str, npt.NDArray[Any]], *, seconds: float) -> Transcript:
    """The server's answer to an utterance of that length.

    Raises:
        TranscriptionError: It is not a transcript.
    """

    def within(time: np.float32) -> float:
        # The model's last step may reach beyond the audio.
        return round(min(float(time), seconds), 3)

    try:
        words = [word.decode() for word in outputs["words"].ravel()]
        offsets = outputs["word_offsets"].reshape(-1, 2)
        return Transcript(
            text=outputs["decoded_texts"].ravel()[0].decode(),
            confidence=float(outputs["confidence"].ravel()[0]),
            words=tuple(
                Word(word, within(start), within(end)) for word, (start, end) in zip(words, offsets, strict=True)
            ),
        )
    except (IndexError, ValueError) as error:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
        raise TranscriptionError(f"the answer is not a transcript ({error}): {shapes}") from error


async def infer(
    grpc: Any,  # noqa: ANN401
    model: str,
    inputs: dict[str, npt.NDArray[Any]],
    outputs: Sequence[str],
    *,
    timeout: float | None = None,  # noqa: ASYNC109 (gRPC sends this deadline to the server, which then gives up too)
) -> dict[str, npt.NDArray[Any]]:
    """One inference request over an open `tritonclient.grpc.aio` client.

    Args:
        grpc: The client.
        model: The model.
        inputs: Arrays with the batch axis in front, by name.
        outputs: Names of the outputs to return.
        timeout: Seconds to wait for the answer, None for ever.

    Raises:
        TranscriptionError: The server refused it, failed, is gone, or did not answer in time.
    """
    from tritonclient.grpc import InferInput, InferRequestedOutput  # noqa: PLC0415
    from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # noqa: PLC0415

    sent = []
    for name, array in inputs.items():
        sent.append(InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        sent[-1].set_data_from_numpy(array)
    try:
        result = await grpc.infer(
            model, sent, outputs=[InferRequestedOutput(name) for name in outputs], client_timeout=timeout
        )
    except InferenceServerException as error:
        message = error.message()
        if error.status() == "StatusCode.DEADLINE_EXCEEDED":
            message = f"no answer within {timeout:g} s" if timeout else message
        raise TranscriptionError(message, error.status()) from error
    arrays = {name: result.as_numpy(name) for name in outputs}
    missing = [name for name, array in arrays.items() if array is None]
    if missing:
        raise TranscriptionError(f"the answer lacks {', '.join(missing)}")
    return arrays


@asynccontextmanager
async def connect(
    url: str,
    model: str,
    *,
    tls: Tls | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 (of each request, not of this call)
    retries: int = 0,
) -> AsyncIterator[Client]:
    """Connect to `url` and ask what `model` takes.

    Args:
        url: Host and port of Triton's gRPC. A name of several addresses is balanced over them.
        model: The model.
        tls: None for a server that speaks plain gRPC.
        timeout: Seconds that each request may take, however often it is sent; None for ever.
        retries: How often a request is sent again whose server is lost.

    Raises:
        ServerUnavailableError: No server there, or it does not serve the model.
    """
    async with channel(url, tls) as grpc:
        from tritonclient.utils import InferenceServerException  # noqa: PLC0415

        async def ask() -> Any:  # noqa: ANN401
            try:
                return await grpc.get_model_metadata(model, client_timeout=CONNECT_SECONDS)
            except InferenceServerException as error:
                reached = error.status() not in {"StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"}
                problem = f"{url} does not serve {model!r}" if reached else f"no Triton answers at {url}"
                if is_restricted(TranscriptionError(error.message())):
                    problem = f"Triton at {url} does not say what {model!r} takes (--grpc-restricted-protocol=metadata)"
                raise ServerUnavailableError(
                    f"{problem}: {error.message()}; `asr doctor --url {url}{f' {tls}' if tls else ''}` says more",
                    error.status(),
                ) from error

        metadata = await repeated(ask, retries=min(retries, CONNECT_RETRIES))
        audio = next((tensor for tensor in metadata.inputs if tensor.name == "audio_signal"), None)
        if audio is None or audio.datatype not in tensors.WIRE_DTYPES.values():
            raise ServerUnavailableError(f"model {model!r} takes no audio_signal; is it one of this project's?")
        yield Client(grpc, model, audio.datatype, timeout, retries)


@asynccontextmanager
async def channel(url: str, tls: Tls | None = None) -> AsyncIterator[Any]:
    """An open `tritonclient.grpc.aio` client."""
    from tritonclient.grpc import aio  # noqa: PLC0415 (loads gRPC)

    options = dict[str, Any](CHANNEL)
    if tls is not None and tls.server_name is not None:
        options["grpc.ssl_target_name_override"] = tls.server_name
    grpc = aio.InferenceServerClient(
        url,
        ssl=tls is not None,
        root_certificates=tls.authorities if tls is not None else None,
        channel_args=list(options.items()),
    )
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
    timeout: float | None = None,
    done: Callable[[int, Transcript | TranscriptionError], None] = lambda _index, _result: None,
) -> list[Transcript | TranscriptionError]:
    """Transcribe utterances, many at once, one a request.

    Args:
        url: Host and port of Triton's gRPC.
        model: The model.
        signals: Utterances [L] int16 at 16 kHz.
        concurrency: Requests in flight.
        timeout: Seconds that each request may take, None for ever.
        done: Called with the index and the result as each arrives.

    Returns:
        A transcript or an error for each signal, in their order.

    Raises:
        ServerUnavailableError: No server there, or it does not serve the model.
    """
    results: list[Transcript | TranscriptionError | None] = [None] * len(signals)

    async def run() -> None:
        async with connect(url, model, timeout=timeout) as client:

            async def one(index: int) -> None:
                result: Transcript | TranscriptionError
                try:
                    result = await client.transcribe(signals[index])
                except TranscriptionError as error:
                    result = error
                results[index] = result
                done(index, result)

            await gather_bounded([partial(one, index) for index in range(len(signals))], concurrency)

    asyncio.run(run())
    return [result for result in results if result is not None]
