"""Names of the metrics of serving pods that autoscaling, alerts and conformance runs read.

The scheduler model writes them. Its code is copied into every artifact and imports nothing of this package, so it has
the names as literals: a test compares them with these.
"""

UTTERANCES = "asr_utterances_total"
AUDIO_SECONDS = "asr_audio_seconds_total"
PADDED_AUDIO_SECONDS = "asr_padded_audio_seconds_total"
WAITING_SECONDS = "asr_waiting_seconds_total"
BATCHES = "asr_batches_total"
REFUSED = "asr_refused_total"
FAILED = "asr_failed_total"
CANCELLED = "asr_cancelled_total"
COUNTERS = (UTTERANCES, AUDIO_SECONDS, PADDED_AUDIO_SECONDS, WAITING_SECONDS, BATCHES, REFUSED, FAILED, CANCELLED)

PENDING_UTTERANCES = "asr_pending_utterances"
"""What the scheduler model has accepted and not yet answered."""
GAUGES = (PENDING_UTTERANCES,)

REQUEST_SECONDS = "asr_request_seconds"
BATCH_UTTERANCES = "asr_batch_utterances"
HISTOGRAMS = (REQUEST_SECONDS, BATCH_UTTERANCES)

QUEUED_REQUESTS = "nv_inference_pending_request_count"
"""Triton's own: requests that wait for a model; of the acoustic model it would count batches."""


def histogram_series(name: str) -> tuple[str, str, str]:
    """The series that a histogram consists of: buckets, sum and count."""
    return f"{name}_bucket", f"{name}_sum", f"{name}_count"


SERIES = frozenset((*COUNTERS, *GAUGES, *(series for name in HISTOGRAMS for series in histogram_series(name))))
"""All series of the scheduler model."""
