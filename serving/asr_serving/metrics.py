"""What the scheduler model tells Prometheus, beside Triton's own metrics.

Counters add up over replicas, so that autoscaling and dashboards can divide and compare them: padding is
`1 - asr_audio_seconds_total / asr_padded_audio_seconds_total`, the mean batch
`asr_utterances_total / asr_batches_total`, the mean wait `asr_waiting_seconds_total / asr_utterances_total`.
"""

import threading

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


class Counters:
    """Counters of one model, labelled with its name."""

    def __init__(self, model: str) -> None:
        # Families are held because Triton deletes a metric together with its family.
        self._families = {
            name: pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.COUNTER)
            for name, description in COUNTERS.items()
        }
        self._metrics = {name: family.Metric(labels={"model": model}) for name, family in self._families.items()}
        # Two threads at one metric at once crash the whole server (Triton 2.51: the metric's shared memory is replaced
        # while the server reads it).
        self._lock = threading.Lock()

    def add(self, **amounts: float) -> None:
        """Add to counters, named without `asr_` and `_total`."""
        with self._lock:
            for name, amount in amounts.items():
                self._metrics[f"asr_{name}_total"].increment(amount)
