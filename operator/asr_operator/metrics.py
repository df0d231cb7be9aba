"""What Prometheus can ask the operator."""

from prometheus_client import Counter, Gauge, Histogram

RECONCILES = Counter("asr_operator_reconciles", "Passes over one resource, by outcome.", ["outcome"])
ERRORS = Counter("asr_operator_errors", "Passes that failed, by reason.", ["reason"])
DURATION = Histogram(
    "asr_operator_reconcile_seconds",
    "Time of a pass over one resource.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
REQUESTS = Counter("asr_operator_api_requests", "Requests to the API server.", ["method", "resource", "code"])
DEPTH = Gauge("asr_operator_queue_depth", "Resources that wait for a pass.")
LONGEST = Gauge("asr_operator_longest_running_seconds", "Age of the oldest pass that is under way.")
RESOURCES = Gauge("asr_operator_resources", "AsrDeployments that are known.")
SYNCED = Gauge("asr_operator_last_sync_timestamp_seconds", "When everything was last read, in Unix time.")
BUILDS = Histogram(
    "asr_build_seconds",
    "Time of a build's Job, its wait for a node included, by outcome: success or error.",
    ["outcome"],
    buckets=(30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400),
)
STARTS = Histogram(
    "asr_pod_start_seconds",
    "Parts of the start of a serving pod, and the whole; each pod counts once, when it is ready for the first time.",
    ["phase"],
    buckets=(0.5, 1, 2, 5, 10, 20, 40, 60, 120, 300, 600, 1200),
)

OUTCOMES = ("success", "error")
for _outcome in OUTCOMES:
    # A counter that comes with its first error would hide it: there is nothing that it has risen from.
    RECONCILES.labels(_outcome)
    BUILDS.labels(_outcome)


def request(method: str, kind: str, code: int) -> None:
    """Count a request."""
    REQUESTS.labels(method, kind, code).inc()
