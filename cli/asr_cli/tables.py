"""Tables of the command `asr`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    # These load numpy, gRPC or Kubernetes: --help is quick, and works without the extras.
    from asr_cli.conform.outcome import Result as CheckResult
    from asr_client.bench import Latency, Run, Summary
    from asr_client.server_statistics import Statistics
    from asr_operator.diagnose.plans import Plan


def load_table(ran: "Run", summary: "Summary") -> Table:
    """Requests, throughput and failures of a benchmark."""
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(justify="right")
    rows = {
        "requests": f"{summary.requests}",
        "failed": f"[red]{summary.failed}[/]" if summary.failed else "0",
        "sent again": f"[yellow]{summary.retried}[/]" if summary.retried else "0",
        "audio seconds": f"{summary.audio_seconds:.1f}",
        "wall seconds": f"{summary.wall_seconds:.2f}",
        "RTFx": f"[bold]{summary.rtfx:.1f}[/]",
        "requests/s": f"{summary.requests_per_second:.1f}",
        "client CPU": f"{ran.cpu_share:.0%}",
    }
    acoustic = ran.acoustic_statistics
    if acoustic is not None:
        rows["acoustic mean batch"] = _number(acoustic.mean_batch, digits=2)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def latency_table(overall: "Latency", by_length: Mapping[str, "Latency"]) -> Table:
    """Latencies of a benchmark, by length of audio."""
    table = Table(title="Latency in ms, by length of audio", title_justify="left")
    for column in ("audio", "requests", "mean", "p50", "p90", "p95", "p99"):
        table.add_column(column, justify="left" if column == "audio" else "right")
    for name, latency in {"all": overall, **by_length}.items():
        table.add_row(
            f"{name} {latency.shortest_s:.1f}-{latency.longest_s:.1f} s",
            str(latency.requests),
            f"{latency.mean_ms:.1f}",
            *(f"{value:.1f}" for value in latency.percentiles_ms.values()),
        )
    return table


def models_table(models: "Statistics") -> Table:
    """Triton's counts of each model."""
    table = Table(title="Triton's statistics over the run", title_justify="left")
    table.add_column("model", no_wrap=True)
    for column in ("inferences", "executions", "mean batch", "queue ms", "compute ms", "failed"):
        table.add_column(column, justify="right")
    for name, counted in sorted(models.items()):
        table.add_row(
            name,
            str(counted.inferences),
            str(counted.executions),
            _number(counted.mean_batch, digits=2),
            _number(counted.queue.mean_ms, digits=1),
            _number(counted.compute.mean_ms, digits=1),
            str(counted.failed),
        )
    return table


def _number(value: float | None, *, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def plans_table(found: "Sequence[Plan]") -> Table:
    """TensorRT plans, one row for each pool."""
    table = Table(box=None)
    for column in ("resource", "pool", "GPU", "capability", "TensorRT", "plan", "serves"):
        table.add_column(column, no_wrap=True)
    table.add_column("")
    colours = {"published": "green", "failed": "red", "building": "yellow", "waiting": "yellow", "missing": "yellow"}
    for plan in found:
        state = f"[{colours[plan.state]}]{plan.state}[/]" if plan.state in colours else plan.state.value
        cells = (plan.resource, plan.pool, plan.gpu, plan.compute_capability, plan.tensorrt)
        table.add_row(*(escape(cell or "-") for cell in cells), state, plan.serves or "nothing", escape(plan.note))
    return table


OUTCOME_COLOURS = {"pass": "green", "fail": "red", "skipped": "yellow"}


def conform_line(pool: str, result: "CheckResult") -> str:
    """Result of one conformance check in one line."""
    colour = OUTCOME_COLOURS[result.outcome.value]
    return f"[{colour}]{result.outcome.value:<7}[/] {escape(pool)}  {escape(result.check)}: {escape(result.message)}"


def conform_table(results: "Mapping[str, Sequence[CheckResult]]") -> Table:
    """Results of all conformance checks."""
    table = Table(box=None, pad_edge=False)
    for column in ("pool", "check", "outcome"):
        table.add_column(column, no_wrap=True)
    table.add_column("what was found, and what to do", overflow="fold")
    for pool, found in results.items():
        for result in found:
            colour = OUTCOME_COLOURS[result.outcome.value]
            hint = f" [dim]→[/] {escape(result.hint)}" if result.hint else ""
            text = "\n".join(
                [escape(result.message) + hint, *(f"  {escape(line)}" for line in result.details.splitlines())]
            )
            table.add_row(escape(pool), escape(result.check), f"[{colour}]{result.outcome.value}[/]", text)
    return table
