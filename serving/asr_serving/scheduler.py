"""Triton model `N`: gathers waiting utterances into full batches of like length, and answers each.

Triton's own batcher closes a batch at the first request of another shape, so mixed lengths reach the acoustic model
almost one by one. Here `execute` only takes requests in and returns; worker threads pick the next batch from all that
wait (`batching.choose`) and call the acoustic model; other threads decode what it gave and answer each request through
its response sender. While every worker is busy the next batches gather; an idle server answers at once, without a queue
delay. Nothing is computed for clients that have gone: else an overload would last until all that it left is computed.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from asr_serving import audio, batching, frontend, metrics, progress, refusals, settings, tensors, text
from asr_serving.postprocessing import VOCABULARY_FILE, transcript_tensors

ACOUSTIC_READY_SECONDS = 600.0
"""Triton refuses calls between models until all are loaded: requests that come before that wait this long."""
ANSWERING_THREADS = 4
"""An answer waits until the server has taken it: the acoustic model must not wait with it."""
ASK_AFTER_SECONDS = 1.0
"""How long a client is taken to be there. Then it is asked for, which is a call to the server of 50 µs and more."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
REUSED_BYTES = 32 * 1024 * 1024
"""Allocations up to this size, the largest that glibc takes, and eight times as much free memory, are kept."""


@dataclass(slots=True, eq=False)
class _Waiting:
    samples: audio.Samples
    wanted: Collection[str]
    sender: Any
    since: float
    seen: float
    """When its client was last known to be there."""

    def is_gone(self) -> bool:
        """Its client waits no more: it gave up, its deadline has passed, or its connection is lost.

        Only for who holds it alone: the server may not be asked about a request that is answered meanwhile.
        """
        now = time.monotonic()
        if now - self.seen < ASK_AFTER_SECONDS:
            return False
        self.seen = now
        try:
            return bool(self.sender.is_cancelled())
        except Exception as error:  # noqa: BLE001 (Triton raises its own types; it must not end the worker and its batch)
            pb_utils.Logger.log_error(f"whether a client still waits cannot be asked: {error}")
            return False


class TritonPythonModel:
    def initialize(self, args: dict[str, Any]) -> None:
        _keep_freed_memory()
        folder = Path(args["model_repository"]) / args["model_version"]
        self._settings = settings.Settings.load(folder)
        self._vocabulary = text.Vocabulary.load(folder / VOCABULARY_FILE)
        self._frontend = frontend.load(self._settings.frontend, folder)
        self._metrics = metrics.Metrics(args["model_name"], args["model_instance_name"])
        lock = threading.Lock()
        self._arrived = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._waiting: list[_Waiting] = []
        self._stopping = False
        self._acoustic_answered = False
        self._progress = progress.Progress()
        self._answering = ThreadPoolExecutor(ANSWERING_THREADS, thread_name_prefix="answer")
        self._workers = [
            threading.Thread(target=self._work, name=f"batch-{index}", daemon=True)
            for index in range(self._settings.in_flight)
        ]
        for worker in self._workers:
            worker.start()

    def execute(self, requests: list[Any]) -> None:
        accepted = []
        for request in requests:
            sender = request.get_response_sender()
            try:
                signal = pb_utils.get_input_tensor_by_name(request, "audio_signal").as_numpy()
                samples = audio.checked(signal, self._settings.limits)
                now = time.monotonic()
                accepted.append(_Waiting(samples, request.requested_output_names(), sender, since=now, seen=now))
            except audio.AudioError as error:
                self._metrics.add(refused=1)
                _answer(sender, _error(str(error), pb_utils.TritonError.INVALID_ARG))
        if accepted:
            self._metrics.accepted(len(accepted))
        with self._room:
            # Back-pressure: past this point requests wait in Triton's queue, where its queue policy governs them.
            self._room.wait_for(lambda: self._stopping or len(self._waiting) < self._settings.max_pending)
            self._waiting.extend(accepted)
            self._arrived.notify()

    def is_ready(self) -> bool:
        """Whether what is asked is answered. Triton asks from release 26.03 on, as part of the model's readiness.

        A pod whose scheduler is not ready is started again: busy, starting and ending ones are ready.
        """
        if self._stopping:
            return True
        return all(worker.is_alive() for worker in self._workers) and not self._progress.is_stuck()

    def finalize(self) -> None:
        with self._arrived:
            self._stopping = True
            self._arrived.notify_all()
            self._room.notify_all()
        for worker in self._workers:
            worker.join()
        self._answering.shutdown()
        for waiting in self._waiting:
            _answer(waiting.sender, _error("the server is stopping", pb_utils.TritonError.UNAVAILABLE))
        self._metrics.close()

    def _work(self) -> None:
        batches = audio.Batches()
        while batch := self._take():
            taken_at = time.monotonic()
            shape = self._settings.grid.shape_of(max(waiting.samples.size for waiting in batch))
            try:
                with self._progress.working(len(batch) * shape.samples / tensors.SAMPLE_RATE) as heard:
                    inputs = self._frontend(*batches.pad([waiting.samples for waiting in batch], shape.samples))
                    outputs = self._call_acoustic(
                        [pb_utils.Tensor(name, array) for name, array in inputs.items()], heard
                    )
            except Exception as error:  # noqa: BLE001 (whatever failed, every client of this batch must hear of it)
                self._answering.submit(self._fail, batch, error)
            else:
                if self._waiting:
                    self._answering.submit(self._answer, batch, outputs, shape.samples, taken_at)
                else:  # an idle server answers sooner without handing over
                    self._answer(batch, outputs, shape.samples, taken_at)

    def _take(self) -> list[_Waiting]:
        """Wait for utterances and take the next batch of clients that wait; empty when the model is to stop."""
        while True:
            batch = self._choose()
            gone = {waiting for waiting in batch if waiting.is_gone()}
            if not gone:
                return batch
            self._answering.submit(self._drop, gone)
            # Not without them: full batches count most when there is too much to do.
            left = [waiting for waiting in batch if waiting not in gone]
            with self._arrived:
                self._waiting = sorted([*left, *self._waiting], key=lambda waiting: waiting.since)

    def _choose(self) -> list[_Waiting]:
        with self._arrived:
            self._arrived.wait_for(lambda: self._stopping or self._waiting)
            if self._stopping:
                return []
            indices = batching.choose([waiting.samples.size for waiting in self._waiting], self._settings.grid)
            batch = [self._waiting[index] for index in indices]
            taken = set(indices)
            self._waiting = [waiting for index, waiting in enumerate(self._waiting) if index not in taken]
            if self._waiting:
                self._arrived.notify()
            self._room.notify_all()
            return batch

    def _answer(self, batch: Sequence[_Waiting], outputs: Any, samples: int, taken_at: float) -> None:  # noqa: ANN401
        try:
            tokens, logprobs, lengths = (
                pb_utils.get_output_tensor_by_name(outputs, tensor.name).as_numpy() for tensor in tensors.ACOUSTIC
            )
            transcripts = text.transcribe(tokens, logprobs, lengths[:, 0], self._vocabulary)
            responses = [
                pb_utils.InferenceResponse(transcript_tensors(transcript, waiting.wanted))
                for waiting, transcript in zip(batch, transcripts, strict=True)
            ]
        except Exception as error:  # noqa: BLE001 (nobody looks at what a thread of the pool raises)
            self._fail(batch, error)
            return
        with self._progress.working():
            for waiting, response in zip(batch, responses, strict=True):
                _answer(waiting.sender, response)
        self._count(batch, samples, taken_at)

    def _fail(self, batch: Sequence[_Waiting], error: Exception) -> None:
        code = getattr(pb_utils.TritonError, refusals.status(str(error), ending=self._stopping))
        response = _error(f"{self._settings.acoustic_model}: {error}", code)
        for waiting in batch:
            _answer(waiting.sender, response)
        self._metrics.add(failed=len(batch))
        self._metrics.accepted(-len(batch))

    def _drop(self, gone: Collection[_Waiting]) -> None:
        response = _error("the client has gone", pb_utils.TritonError.CANCELLED)
        for waiting in gone:
            _answer(waiting.sender, response)
        self._metrics.add(cancelled=len(gone))
        self._metrics.accepted(-len(gone))

    def _count(self, batch: Sequence[_Waiting], samples: int, taken_at: float) -> None:
        self._metrics.add(
            utterances=len(batch),
            batches=1,
            audio_seconds=sum(item.samples.size for item in batch) / tensors.SAMPLE_RATE,
            padded_audio_seconds=len(batch) * samples / tensors.SAMPLE_RATE,
            waiting_seconds=sum(taken_at - item.since for item in batch),
        )
        self._metrics.observe("batch_utterances", [len(batch)])
        now = time.monotonic()
        self._metrics.observe("request_seconds", [now - item.since for item in batch])
        self._metrics.accepted(-len(batch))

    def _call_acoustic(self, inputs: list[Any], heard: Callable[[], None]) -> Any:  # noqa: ANN401 (Triton's types)
        deadline = time.monotonic() + ACOUSTIC_READY_SECONDS
        while True:
            request = pb_utils.InferenceRequest(
                model_name=self._settings.acoustic_model,
                requested_output_names=[tensor.name for tensor in tensors.ACOUSTIC],
                inputs=inputs,
                preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
            )
            response = request.exec()
            heard()
            if not response.has_error():
                self._acoustic_answered = True
                return response
            message = response.error().message()
            if self._acoustic_answered or not refusals.is_refused(message) or time.monotonic() > deadline:
                raise RuntimeError(message)
            with self._room:
                if self._room.wait_for(lambda: self._stopping, timeout=0.1):
                    raise RuntimeError(message)


def _keep_freed_memory() -> None:
    """Have glibc reuse the memory of audio instead of asking the kernel for new pages, which costs more than copying.

    Other C libraries have no such settings, and are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, REUSED_BYTES)
        mallopt(M_TRIM_THRESHOLD, 8 * REUSED_BYTES)


def _error(message: str, code: int) -> Any:  # noqa: ANN401
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _answer(sender: Any, response: Any) -> None:  # noqa: ANN401
    """Answer one request. A client that has gone away must not cost the others their worker."""
    try:
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except Exception as error:  # noqa: BLE001 (Triton raises its own exception types)
        pb_utils.Logger.log_error(f"an answer could not be sent: {error}")
