"""What the scheduler model tells Prometheus, beside Triton's own metrics.

All of it adds up over replicas, so that autoscaling and dashboards can divide and compare: padding is
`1 - asr_audio_seconds_total / asr_padded_audio_seconds_total`, the mean wait
`asr_waiting_seconds_total / asr_utterances_total`. Each call goes to the server and back: 20 µs on an idle machine, 80
on a busy one. So everything is counted once for each batch, but for the latencies.
"""

import threading
from collections.abc import Iterable
from typing import Any

import triton_python_backend_utils as pb_utils

COUNTERS = {
    "asr_audio_seconds_total": "Seconds of audio transcribed",
    "asr_padded_audio_seconds_total": "Seconds of audio that the acoustic model computed, padding included",
    "asr_utterances_total": "Utterances transcribed",
    "asr_refused_total": "Requests refused because of their audio",
    "asr_failed_total": "Utterances that failed in the server",
    "asr_batches_total": "Batches sent to the acoustic model",
    "asr_waiting_seconds_total": "Seconds that utterances waited for their batch",
}
GAUGES = {"asr_pending_utterances": "Utterances accepted and not yet answered"}
HISTOGRAMS = {
    "asr_request_seconds": "Seconds from an utterance's arrival in the scheduler to its answer",
    "asr_batch_utterances": "Utterances in a batch of the acoustic model",
}
BUCKETS = {
    "asr_request_seconds": (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
    "asr_batch_utterances": (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0),
}


class Metrics:
    """Metrics of one process of a model, labelled with the model's name.

    Counters and histograms are shared by all its processes. The gauge has the process as a further label: of a shared
    one, a process that ends would leave behind what it had not answered.

    Args:
        model: Name of the model.
        process: Triton's name of the model's instance.
    """

    def __init__(self, model: str, process: str) -> None:
        labels, kinds = {"model": model}, pb_utils.MetricFamily
        self._metrics = {name: _Metric(name, text, kinds.COUNTER, labels) for name, text in COUNTERS.items()}
        self._metrics |= {
            name: _Metric(name, text, kinds.GAUGE, labels | {"scheduler": process}) for name, text in GAUGES.items()
        }
        self._metrics |= {
            name: _Metric(name, text, kinds.HISTOGRAM, labels, buckets=list(BUCKETS[name]))
            for name, text in HISTOGRAMS.items()
        }
        self._pending = 0
        self.accepted(0)

    def add(self, **amounts: float) -> None:
        """Add to counters, named without `asr_` and `_total`."""
        for name, amount in amounts.items():
            with self._metrics[f"asr_{name}_total"] as metric:
                metric.increment(amount)

    def accepted(self, count: int) -> None:
        """So many more utterances wait for their answer; fewer if negative."""
        with self._metrics["asr_pending_utterances"] as metric:
            metric.set(self._pending + count)
            self._pending += count

    def observe(self, name: str, values: Iterable[float]) -> None:
        """Add values to a histogram, named without `asr_`."""
        with self._metrics[f"asr_{name}"] as metric:
            for value in values:
                metric.observe(value)


class _Metric:
    """One metric of Triton, to be used by one thread at a time.

    Two threads at one metric crash the server (Triton 2.51: the metric's shared memory is replaced while it reads it).
    """

    def __init__(self, name: str, description: str, kind: Any, labels: dict[str, str], **more: Any) -> None:  # noqa: ANN401
        # The family is held because Triton deletes a metric together with its family.
        self._family = pb_utils.MetricFamily(name=name, description=description, kind=kind)
        self._metric = self._family.Metric(labels=labels, **more)
        self._lock = threading.Lock()

    def __enter__(self) -> Any:  # noqa: ANN401 (Triton's)
        self._lock.acquire()
        return self._metric

    def __exit__(self, *_: object) -> None:
        self._lock.release()
