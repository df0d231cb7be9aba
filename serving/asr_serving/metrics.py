"""What the scheduler model tells Prometheus, beside Triton's own metrics.

Counters add up over replicas, so that autoscaling and dashboards can divide and compare them: padding is
`1 - asr_audio_seconds_total / asr_padded_audio_seconds_total`, the mean batch
`asr_utterances_total / asr_batches_total`, the mean wait `asr_waiting_seconds_total / asr_utterances_total`.
"""

from dataclasses import dataclass
from typing import Any

import triton_python_backend_utils as pb_utils


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters of one model, labelled with its name."""

    families: tuple[Any, ...]
    """Held because Triton deletes a metric together with its family."""
    audio_seconds: Any
    padded_audio_seconds: Any
    utterances: Any
    refused: Any
    failed: Any
    batches: Any
    waiting_seconds: Any

    @classmethod
    def of(cls, model: str) -> "Counters":
        """Register the counters with Triton."""

        families = []

        def counter(name: str, description: str) -> Any:  # noqa: ANN401 (Triton's types exist only inside Triton)
            family = pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.COUNTER)
            families.append(family)
            return family.Metric(labels={"model": model})

        counters = dict(
            audio_seconds=counter("asr_audio_seconds_total", "Seconds of audio transcribed"),
            padded_audio_seconds=counter(
                "asr_padded_audio_seconds_total", "Seconds of audio that the acoustic model computed, padding included"
            ),
            utterances=counter("asr_utterances_total", "Utterances transcribed"),
            refused=counter("asr_refused_total", "Requests refused because of their audio"),
            failed=counter("asr_failed_total", "Utterances that failed in the server"),
            batches=counter("asr_batches_total", "Batches sent to the acoustic model"),
            waiting_seconds=counter("asr_waiting_seconds_total", "Seconds that utterances waited for their batch"),
        )
        return cls(families=tuple(families), **counters)
