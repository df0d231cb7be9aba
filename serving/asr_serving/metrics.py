"""What the scheduler model tells Prometheus, beside Triton's own metrics.

All of it adds up over replicas, so that autoscaling and dashboards can divide and compare: padding is
`1 - asr_audio_seconds_total / asr_padded_audio_seconds_total`, the mean wait
`asr_waiting_seconds_total / asr_utterances_total`.

Each call to one of Triton's metrics goes to the server and back: 20 µs, and 300 where other threads of the process are
at work. So whoever counts only adds numbers here, and one thread tells Triton the sums a few times a second. That it is
one is necessary, too: two threads at one metric at once crash the whole server (Triton 2.51: the metric's shared memory
is replaced while the server reads it).
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

PERIOD_SECONDS = 0.1
"""Between two reports to Triton."""
COUNTERS = {
    "asr_audio_seconds_total": "Seconds of audio transcribed",
    "asr_padded_audio_seconds_total": "Seconds of audio that the acoustic model computed, padding included",
    "asr_utterances_total": "Utterances transcribed",
    "asr_refused_total": "Requests refused because of their audio",
    "asr_failed_total": "Utterances that failed in the server",
    "asr_cancelled_total": "Utterances not computed, since their clients had gone",
    "asr_batches_total": "Batches sent to the acoustic model",
    "asr_waiting_seconds_total": "Seconds that utterances waited for their batch",
}
GAUGES = {"asr_pending_utterances": "Utterances accepted and not yet answered"}
HISTOGRAMS = {
    "asr_request_seconds": "Seconds from an utterance's arrival in the scheduler to its answer",
    "asr_batch_utterances": "Utterances in a batch of the acoustic model",
}
BOUNDS = {
    "asr_request_seconds": (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, np.inf),
    "asr_batch_utterances": (1, 2, 4, 8, 16, 32, 64, 128, 256, np.inf),
}
"""Upper bounds of the histograms' buckets. Triton's own histograms take one value a call, so these are counters."""


class Metrics:
    """Metrics of one process of a model, labelled with the model's name. They lag behind by `PERIOD_SECONDS`.

    Counters and histograms are shared by all its processes. The gauge has the process as a further label: of a shared
    one, a process that ends would leave behind what it had not answered.

    Args:
        model: Name of the model.
        process: Triton's name of the model's instance.
    """

    def __init__(self, model: str, process: str) -> None:
        labels = {"model": model}
        self._families: list[Any] = []
        """Held because Triton deletes a metric together with its family."""
        self._metrics: dict[tuple[str, float | None], Any] = {}
        """Of histograms by name and upper bound, the largest first: no smaller bucket may hold more in between."""
        for name, text in COUNTERS.items():
            self._metrics[name, None] = self._family(name, text).Metric(labels=labels)
        for name, text in HISTOGRAMS.items():
            for part in (f"{name}_sum", f"{name}_count"):
                self._metrics[part, None] = self._family(part, text).Metric(labels=labels)
            buckets = self._family(f"{name}_bucket", text)
            for bound in reversed(BOUNDS[name]):
                upper = "+Inf" if bound == np.inf else f"{bound:g}"
                self._metrics[f"{name}_bucket", bound] = buckets.Metric(labels=labels | {"le": upper})
        ((name, text),) = GAUGES.items()
        gauge = self._family(name, text, "GAUGE")
        self._gauge = gauge.Metric(labels=labels | {"scheduler": process})
        self._gauge.set(0)
        self._changed = threading.Condition()
        self._amounts: dict[tuple[str, float | None], float] = {}
        self._pending = 0
        self._told = 0
        """Of the pending ones, what Triton knows."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        self._thread.start()

    def _family(self, name: str, text: str, kind: str = "COUNTER") -> Any:  # noqa: ANN401 (Triton's)
        family = pb_utils.MetricFamily(name=name, description=text, kind=getattr(pb_utils.MetricFamily, kind))
        self._families.append(family)
        return family

    def add(self, **amounts: float) -> None:
        """Add to counters, named without `asr_` and `_total`."""
        self._change({(f"asr_{name}_total", None): amount for name, amount in amounts.items()})

    def observe(self, name: str, values: Sequence[float]) -> None:
        """Add values to a histogram, named without `asr_`."""
        bounds = BOUNDS[f"asr_{name}"]
        counts = (np.asarray(values)[:, None] <= np.asarray(bounds)).sum(axis=0)
        buckets = {(f"asr_{name}_bucket", bound): float(count) for bound, count in zip(bounds, counts, strict=True)}
        self._change(buckets | {(f"asr_{name}_sum", None): sum(values), (f"asr_{name}_count", None): len(values)})

    def accepted(self, count: int) -> None:
        """So many more utterances wait for their answer; fewer if negative."""
        self._change({}, pending=count)

    def _change(self, amounts: Mapping[tuple[str, float | None], float], *, pending: int = 0) -> None:
        with self._changed:
            for key, amount in amounts.items():
                self._amounts[key] = self._amounts.get(key, 0.0) + amount
            self._pending += pending
            self._changed.notify()

    def close(self) -> None:
        """End. The server ends too: nobody will ask for what it has not been told yet."""
        self._ending.set()
        with self._changed:
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while not self._ending.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._amounts or self._pending != self._told or self._ending.is_set())
                amounts, self._amounts = self._amounts, {}
                pending = self._pending
            try:
                for key, metric in self._metrics.items():
                    if amount := amounts.get(key):
                        metric.increment(amount)
                self._gauge.set(pending)
            except Exception as error:  # noqa: BLE001 (Triton raises its own types; the next report may do)
                pb_utils.Logger.log_error(f"metrics could not be told: {error}")
            self._told = pending
            self._ending.wait(PERIOD_SECONDS)
