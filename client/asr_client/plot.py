"""Latency as a picture. Adapter of matplotlib, which is not among the client's packages."""

from collections.abc import Sequence
from pathlib import Path

from asr_client.bench import Answer


class PlottingMissingError(Exception):
    """matplotlib is not installed."""


def require() -> None:
    """Load matplotlib.

    Raises:
        PlottingMissingError: It is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401, PLC0415
    except ImportError as error:
        raise PlottingMissingError("a plot needs matplotlib: pip install matplotlib") from error


def save(answers: Sequence[Answer], path: Path, *, title: str) -> None:
    """Draw latency against audio length, and its distribution, as PNG.

    Raises:
        PlottingMissingError: matplotlib is not installed.
        OSError: `path` cannot be written.
    """
    require()
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    answered = [answer for answer in answers if answer.error is None]
    failed = [answer for answer in answers if answer.error is not None]
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    # No pyplot: it would look for a display and keep state.
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    scatter, histogram = figure.subplots(1, 2)
    for kind, colour, chosen in (("answered", "tab:blue", answered), ("failed", "tab:red", failed)):
        if chosen:
            seconds = [answer.audio_seconds for answer in chosen]
            latencies = [answer.latency_s * 1e3 for answer in chosen]
            scatter.scatter(seconds, latencies, s=8, alpha=0.6, color=colour, label=f"{kind} ({len(chosen)})")
            scatter.legend(loc="best")
    scatter.set(xlabel="audio [s]", ylabel="latency [ms]", title="latency against audio length")
    scatter.set_ylim(bottom=0)
    histogram.hist([answer.latency_s * 1e3 for answer in answered], bins=40, color="tab:blue")
    histogram.set(xlabel="latency [ms]", ylabel="requests", title="distribution of latency")
    figure.savefig(path, format="png", dpi=120)
