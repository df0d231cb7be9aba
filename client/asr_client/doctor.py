"""Check a server step by step, and say in words what is wrong and what to do about it.

Each step yields findings; when one fails that the later ones build on, they are left out.
"""

import asyncio
import http.client
import json
import os
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from asr_client import shared_memory
from asr_client.server_statistics import ModelStatistics, acoustic_candidates, base_name, parse
from asr_client.transcription import Client, Pcm, Tls, TranscriptionError, channel, infer, is_restricted
from asr_contract.findings import Finding, Outcome
from asr_serving import tensors
from asr_serving.tensors import SAMPLE_RATE, Tensor, model_names

CONNECT_SECONDS = 5.0
ASK_SECONDS = 15.0
REQUEST_SECONDS = 60.0
"""For one second of audio: the first request to a model may load libraries and choose kernels."""

RESTRICTED = (
    "The server gives this to holders of a key alone: look at --grpc-restricted-protocol among its arguments. Servers "
    "of this project's operator restrict shared-memory, trace and logging, which nothing here asks for."
)
RESTRICTED_HTTP = "Clients of HTTP that ask for more need spec.service.apis: All, or triton.apis of the chart."

SILENCE: Pcm = np.zeros(SAMPLE_RATE, dtype=np.int16)


@dataclass(frozen=True, slots=True)
class Served:
    """One model of the repository index."""

    name: str
    version: str
    state: str
    reason: str

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self.state == "READY"


def parse_address(url: str) -> tuple[str, int]:
    """Split HOST:PORT, also where it is written as gRPC's dns:///HOST:PORT.

    Raises:
        ValueError: It is something else; the message says what to write.
    """
    url = re.sub("^dns://[^/]*/", "", url)
    if "://" in url:
        raise ValueError(
            f"{url!r} begins with a scheme; write HOST:PORT, such as {urlsplit(url).netloc or 'localhost:8001'}"
        )
    host, separator, port = url.rpartition(":")
    if not separator or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{url!r} is not HOST:PORT, such as localhost:8001 (8001 is Triton's usual gRPC port)")
    return host.strip("[]"), int(port)


async def examine(
    url: str, *, tls: Tls | None = None, model: str | None = None, http_url: str | None = None
) -> AsyncIterator[Finding]:
    """Check a server from its address to its answers.

    Args:
        url: Host and port of Triton's gRPC.
        tls: None for a server that speaks plain gRPC.
        model: The model to check; all of this project's that are found when None.
        http_url: Triton's HTTP, such as `http://localhost:8000`, to check it, too.
    """
    reached = True
    async for finding in _network(url):
        reached = reached and finding.outcome is not Outcome.FAILED
        yield finding
    if reached:
        async with channel(url, tls) as grpc:
            alive = await _alive(grpc, url, tls)
            yield alive
            if alive.outcome is not Outcome.FAILED:
                if memory := shared_memory.examine(await _address(url)):
                    yield memory
                async for finding in _models(grpc, model):
                    yield finding
    if http_url is not None:
        yield await asyncio.to_thread(_http, http_url)


async def _network(url: str) -> AsyncIterator[Finding]:
    try:
        host, port = parse_address(url)
    except ValueError as error:
        yield Finding("address", Outcome.FAILED, str(error), "Give --url as HOST:PORT.")
        return
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        hint = "Check the spelling. A Kubernetes service has a name inside the cluster only: use kubectl port-forward."
        yield Finding("address", Outcome.FAILED, f"{host} has no address: {error.strerror}", hint)
        return
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    yield Finding("address", Outcome.OK, f"{host} is {', '.join(addresses)}")
    problem = ""
    for address in addresses:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, writer = await asyncio.open_connection(address, port)
        except TimeoutError:
            problem = f"no answer from {address}:{port} within {CONNECT_SECONDS:g} s"
        except OSError as error:
            # asyncio's own text repeats the address instead of the reason.
            problem = f"{address}:{port}: {os.strerror(error.errno) if error.errno else error}"
        else:
            writer.close()
            yield Finding("TCP", Outcome.OK, f"{address}:{port} accepts connections")
            return
    hint = (
        "Packets are dropped on the way: look at firewalls and network policies."
        if "no answer" in problem
        else "Nothing listens there: is Triton running, still loading models, or on another port? gRPC is usually 8001."
    )
    yield Finding("TCP", Outcome.FAILED, problem, hint)


async def _address(url: str) -> str:
    """The first address of a server that was reached."""
    host, port = parse_address(url)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return str(found[0][4][0]).partition("%")[0]


async def _alive(grpc: Any, url: str, tls: Tls | None) -> Finding:  # noqa: ANN401 (tritonclient has no types)
    live = await _ask(grpc.is_server_live)
    if isinstance(live, TranscriptionError):
        return await _unanswered(live, url, tls)
    server = await _ask(grpc.get_server_metadata)
    version = "" if isinstance(server, TranscriptionError) else f"{server.name} {server.version}, "
    ready = await _ask(grpc.is_server_ready)
    if not live:
        hint = "It is starting or shutting down: wait, then look at its log."
        return Finding("gRPC", Outcome.FAILED, f"{version}not live", hint)
    if ready is not True:
        hint = "A model is loading or has failed to load: see below, and Triton's log."
        return Finding("gRPC", Outcome.WARNING, f"{version}live, but not ready", hint)
    return Finding("gRPC", Outcome.OK, f"{version}live and ready")


async def _unanswered(error: TranscriptionError, url: str, tls: Tls | None) -> Finding:
    """Why a port does not say whether Triton is alive."""
    if is_restricted(error):
        # It is Triton, and how it is shows in what it answers to requests.
        return Finding("gRPC", Outcome.WARNING, f"Triton does not say how it is: {error}", RESTRICTED)
    speaks_tls = await asyncio.to_thread(_speaks_tls, url)
    if speaks_tls and tls is None:
        hint = "Add --tls, or --tls-ca FILE with the authority of its certificate."
        return Finding("gRPC", Outcome.FAILED, "this port speaks TLS", hint)
    if tls is not None and error.status == "StatusCode.UNAVAILABLE":
        hint = (
            "Look at the certificate: whether the authorities of --tls-ca signed it, and for this address's name "
            "(else give another by --tls-server-name)."
            if speaks_tls
            else "This port does not speak TLS: leave out --tls, --tls-ca and --tls-server-name."
        )
        return Finding("gRPC", Outcome.FAILED, f"no TLS with this server: {error}", hint)
    page = await asyncio.to_thread(_get, url, "/v2/health/live")
    hint = "Something else listens there. Give the port of Triton's gRPC, usually 8001."
    if isinstance(page, _Page):
        hint = "HTTP answers there. Usual ports of Triton are 8000 HTTP, 8001 gRPC, 8002 metrics: give gRPC's."
    elif error.status == "StatusCode.UNAVAILABLE":
        hint += " If a proxy is set (http_proxy, https_proxy, grpc_proxy), add the host to no_proxy: gRPC uses it."
    return Finding("gRPC", Outcome.FAILED, f"this is not Triton's gRPC: {error}", hint)


async def _models(grpc: Any, model: str | None) -> AsyncIterator[Finding]:  # noqa: ANN401
    index = await _ask(grpc.get_model_repository_index)
    if isinstance(index, TranscriptionError):
        hint = RESTRICTED if is_restricted(index) else "Look at Triton's log."
        yield Finding("models", Outcome.FAILED, f"the repository index cannot be read: {index}", hint)
        return
    served = [Served(entry.name, entry.version, entry.state, entry.reason) for entry in index.models]
    yield judge_index(served)
    ready = {entry.name for entry in served if entry.ready}
    asked = [model] if model is not None else stt_models(entry.name for entry in served)
    if not asked:
        hint = (
            "Serve a repository that `model-builder build` made: it holds preprocessing_N, onnx_N and others beside N."
        )
        yield Finding("set", Outcome.FAILED, "no speech recognition of this project's is served", hint)
    for name in asked:
        yield judge_set(name, ready, [entry.name for entry in served])
        if name not in ready:
            continue
        async for finding in _answers(grpc, name, ready):
            yield finding


def judge_index(served: Sequence[Served]) -> Finding:
    """Whether all models of the repository answer."""
    if not served:
        return Finding(
            "models", Outcome.FAILED, "the repository is empty", "Give Triton a --model-repository with models."
        )
    names = ", ".join(
        f"{entry.name} ({entry.version})" if entry.version else entry.name for entry in served if entry.ready
    )
    broken = [entry for entry in served if not entry.ready]
    if broken:
        told = "; ".join(f"{entry.name} is {entry.state or 'not loaded'} {entry.reason}".strip() for entry in broken)
        found = f"{told}; ready: {names or 'none'}"
        return Finding("models", Outcome.FAILED, found, "Triton's log says why a model did not load.")
    return Finding("models", Outcome.OK, f"ready: {names}")


def stt_models(names: Iterator[str] | Collection[str]) -> list[str]:
    """The Ns of a repository: names which another model's name is made of."""
    return sorted({base_name(name) for name in names if base_name(name) != name})


def judge_set(model: str, ready: Collection[str], served: Collection[str]) -> Finding:
    """Whether all that belongs to `model` is there and ready: N itself, or another model of N's set."""
    names = model_names(base_name(model))
    engines = [engine for engine in ("onnx", "tensorrt") if names[engine] in ready]
    needed = [names["preprocessing"], names["postprocessing"], names["scheduler"]]
    needed += [names["ensemble" if engine == "onnx" else "ensemble_tensorrt"] for engine in engines]
    missing = [name for name in (*needed, model) if name not in ready]
    if not engines:
        missing.append(f"{names['onnx']} or {names['tensorrt']}")
    missing = list(dict.fromkeys(missing))
    if not missing:
        return Finding(
            "set", Outcome.OK, f"{names['scheduler']} is complete, with {' and '.join(names[e] for e in engines)}"
        )
    known = stt_models(served)
    hint = "Serve the whole repository that `model-builder build` made; Triton's log says what did not load."
    if known and base_name(model) not in known:
        hint = f"Is the name right? This server has {', '.join(known)}."
    return Finding("set", Outcome.FAILED, f"{model} lacks {', '.join(missing)}", hint)


def judge_interface(model: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Finding:
    """Whether `model` takes and gives what the tensor table says.

    Args:
        model: Its name.
        inputs: As served, types as in `config.pbtxt`, dimensions without the batch axis.
        outputs: Likewise.
    """
    hint = "Client and server are of different versions, or this is another project's model: update the older one."
    audio = next((tensor for tensor in inputs if tensor.name == "audio_signal"), None)
    told = ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.dims)}" for tensor in inputs) or "nothing"
    if len(inputs) != 1 or audio is None or audio.dtype not in tensors.WIRE_DTYPES.values() or audio.dims != (-1,):
        wanted = f"audio_signal of {' or '.join(tensors.WIRE_DTYPES.values())} [-1]"
        return Finding("interface", Outcome.FAILED, f"{model} takes {told}; expected is {wanted}", hint)
    given = {tensor.name: tensor for tensor in outputs}
    for expected in tensors.TRANSCRIPT:
        found = given.get(expected.name)
        if found is None or (found.dtype, found.dims) != (expected.dtype, expected.dims):
            told = "nothing" if found is None else f"{found.dtype} {list(found.dims)}"
            wanted = f"{expected.dtype} {list(expected.dims)}"
            message = f"{model} gives {told} as {expected.name}; expected is {wanted}"
            return Finding("interface", Outcome.FAILED, message, hint)
    return Finding("interface", Outcome.OK, f"{model} takes {told} and gives a transcript")


async def _answers(grpc: Any, model: str, ready: Collection[str]) -> AsyncIterator[Finding]:  # noqa: ANN401
    metadata = await _ask(grpc.get_model_metadata, model)
    if isinstance(metadata, TranscriptionError):
        hint = RESTRICTED if is_restricted(metadata) else "Look at Triton's log."
        yield Finding("interface", Outcome.FAILED, f"{model}: {metadata}", hint)
        return
    interface = judge_interface(model, _tensors(metadata.inputs), _tensors(metadata.outputs))
    yield interface
    if interface.outcome is Outcome.FAILED:
        return
    # Before the requests below: some of them are meant to fail.
    statistics = await _ask(grpc.get_inference_statistics)
    client = Client(grpc, model, metadata.inputs[0].datatype, REQUEST_SECONDS)
    answered = await _silence(client, model)
    yield answered
    if answered.outcome is not Outcome.FAILED:
        yield await _refusal(client, grpc, model, SILENCE[None].repeat(2, axis=0), "a batch of two")
        yield await _refusal(client, grpc, model, SILENCE[None, :0], "empty audio")
    if isinstance(statistics, TranscriptionError):
        hint = RESTRICTED if is_restricted(statistics) else ""
        yield Finding("statistics", Outcome.WARNING, f"not available: {statistics}", hint)
        return
    counted = parse(statistics)
    for acoustic in acoustic_candidates(model, ready):
        yield judge_acoustic(acoustic, counted.get(acoustic, ModelStatistics()))
    family = set(model_names(base_name(model)).values())
    yield judge_failures({name: found.failed for name, found in counted.items() if name in family})


async def _silence(client: Client, model: str) -> Finding:
    sent = time.perf_counter()
    try:
        transcript = await client.transcribe(SILENCE)
    except TranscriptionError as error:
        hint = "The models are loaded but do not work together; Triton's log has the whole error."
        if is_restricted(error):
            hint = RESTRICTED
        if error.status == "StatusCode.DEADLINE_EXCEEDED":
            hint = "The server is overloaded or hangs: look at its queue and at Triton's log, or restart it."
        if "shared memory" in str(error):
            hint = "Its /dev/shm is full: run the container with --shm-size=512m, or give its pod an emptyDir there."
        return Finding("request", Outcome.FAILED, f"{model} does not transcribe 1 s of silence: {error}", hint)
    took = (time.perf_counter() - sent) * 1e3
    told = f"1 s of silence answered in {took:.0f} ms: {transcript.text!r}, confidence {transcript.confidence:.2f}"
    if not 0 <= transcript.confidence <= 1:
        return Finding("request", Outcome.FAILED, told, "The confidence must be from 0 to 1: the build is broken.")
    return Finding("request", Outcome.OK, told)


async def _refusal(client: Client, grpc: Any, model: str, signal: Pcm, what: str) -> Finding:  # noqa: ANN401
    """Send what must be refused, beside a request that must not suffer from it."""
    inputs = {"audio_signal": np.stack([client.encode(row)[0] for row in signal])}
    bad, neighbour = await asyncio.gather(
        infer(grpc, model, inputs, [tensors.DECODED_TEXTS.name], timeout=REQUEST_SECONDS),
        client.transcribe(SILENCE),
        return_exceptions=True,
    )
    for result in (bad, neighbour):
        if isinstance(result, BaseException) and not isinstance(result, TranscriptionError):
            raise result
    check = "refusal"
    if isinstance(neighbour, TranscriptionError):
        hint = "One client's mistake must not cost others their answer: report this with Triton's log."
        return Finding(check, Outcome.FAILED, f"beside {what}, a good request failed: {neighbour}", hint)
    if not isinstance(bad, TranscriptionError):
        return Finding(
            check, Outcome.FAILED, f"{what} was answered, not refused", "Rebuild with a newer model-builder."
        )
    if bad.status != "StatusCode.INVALID_ARGUMENT":
        hint = "It should be refused as INVALID_ARGUMENT: look at Triton's log."
        return Finding(check, Outcome.FAILED, f"{what} failed as {bad.status}: {bad}", hint)
    return Finding(check, Outcome.OK, f"{what} is refused, its neighbour answered: {bad}")


def judge_acoustic(name: str, counted: ModelStatistics) -> Finding:
    """What the acoustic model did since it was loaded; warm-up is among it."""
    if counted.mean_batch is None:
        return Finding("statistics", Outcome.OK, f"{name} has done nothing yet")
    queue = counted.queue.mean_ms
    told = (
        f"{name}: {counted.inferences} utterances in {counted.executions} batches, "
        f"mean batch {counted.mean_batch:.2f}, mean queue {'-' if queue is None else f'{queue:.1f}'} ms"
    )
    compute = counted.compute.mean_ms
    if queue is not None and compute is not None and queue > max(10 * compute, 1000.0):
        hint = "Requests wait much longer than they compute: more replicas or GPUs are needed."
        return Finding("statistics", Outcome.WARNING, told, hint)
    return Finding("statistics", Outcome.OK, told)


def judge_failures(failed: dict[str, int]) -> Finding:
    """Whether Triton counted failed requests at any model of the set."""
    counted = ", ".join(f"{name} {number}" for name, number in failed.items() if number)
    if not counted:
        return Finding("failures", Outcome.OK, "no failed requests counted since the server started")
    hint = "Refused audio counts, too, and so does each earlier run of asr doctor; Triton's log names others."
    return Finding("failures", Outcome.WARNING, f"failed requests since the server started: {counted}", hint)


def _tensors(served: Any) -> list[Tensor]:  # noqa: ANN401
    """Metadata in the terms of the tensor table: the batch axis goes, and BYTES is what the wire calls STRING."""
    return [
        Tensor(tensor.name, "STRING" if tensor.datatype == "BYTES" else tensor.datatype, tuple(tensor.shape)[1:], ())
        for tensor in served
    ]


async def _ask(question: Callable[..., Any], *arguments: str) -> Any:  # noqa: ANN401
    """The server's answer, or why there is none as a `TranscriptionError`."""
    from tritonclient.utils import InferenceServerException  # noqa: PLC0415

    try:
        return await question(*arguments, client_timeout=ASK_SECONDS)
    except InferenceServerException as error:
        return TranscriptionError(error.message(), error.status())


def _http(url: str) -> Finding:
    hint = "Give --http-url as http://HOST:PORT of Triton's HTTP: usual ports are 8000 HTTP, 8001 gRPC, 8002 metrics."
    found = _get(url, "/v2/health/ready")
    if isinstance(found, str):
        return Finding("HTTP", Outcome.FAILED, f"{url} does not answer: {found}", hint)
    about = _get(url, "/v2")
    # The metrics' port answers 200 to every path.
    if found.status == http.HTTPStatus.NOT_FOUND or not (_is_triton(about) or _is_kept(about)):
        return Finding("HTTP", Outcome.FAILED, f"{url} is not Triton's HTTP", hint)
    if _is_kept(found):
        hint = "Probes need it: leave health out of --http-restricted-api."
        return Finding("HTTP", Outcome.WARNING, f"{url} does not say whether it is ready: health is restricted", hint)
    if found.status != http.HTTPStatus.OK:
        hint = "A model is loading or has failed to load: see above, and Triton's log."
        return Finding("HTTP", Outcome.FAILED, f"{url}/v2/health/ready answers {found.status}: not ready", hint)
    if _is_kept(about):
        found_out = f"{url} is ready; it gives its metadata to holders of a key alone (--http-restricted-api)"
        return Finding("HTTP", Outcome.OK, found_out, RESTRICTED_HTTP)
    return Finding("HTTP", Outcome.OK, f"{url} is ready")


def _speaks_tls(url: str) -> bool:
    """Whether a TLS handshake succeeds, whoever signed the certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection(parse_address(url), timeout=CONNECT_SECONDS) as connection,
            context.wrap_socket(connection),
        ):
            return True
    except OSError:  # ssl's errors are such
        return False


@dataclass(frozen=True, slots=True)
class _Page:
    status: int
    body: bytes


def _is_triton(page: _Page | str) -> bool:
    """Whether this is Triton's answer to /v2: its name, version and extensions."""
    try:
        return isinstance(page, _Page) and "extensions" in json.loads(page.body)
    except (ValueError, TypeError):
        return False


def _is_kept(page: _Page | str) -> bool:
    """Whether this is how Triton refuses what it gives to holders of a key alone."""
    return (
        isinstance(page, _Page)
        and page.status == http.HTTPStatus.FORBIDDEN
        and b"API is restricted, expecting header" in page.body
    )


def _get(url: str, path: str) -> _Page | str:
    """A page, or why there is none."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port or (443 if secure else 80), timeout=CONNECT_SECONDS)
        try:
            connection.request("GET", parts.path.rstrip("/") + path)
            response = connection.getresponse()
            return _Page(response.status, response.read())
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(error) or type(error).__name__
