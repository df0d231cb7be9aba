"""The page of metrics, recording rules and alerts."""

import ast
from collections.abc import Iterator
from typing import Any

import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric

from asr_operator import metrics
from asr_operator.fleet import Fleet
from asr_operator.store import Store
from tools.reference import CHART, PROJECT
from tools.reference.markdown import escape, page, table

SERVING = PROJECT / "serving" / "asr_serving" / "metrics.py"
KINDS = {"COUNTERS": "counter", "GAUGES": "gauge", "HISTOGRAMS": "histogram"}


def render() -> str:
    """The page."""
    rules = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    everything = [rule for group in rules["groups"] for rule in group["rules"]]
    return page(
        "Metrics",
        "## Operator",
        "Port 9090 of the operator's pod. The labels `namespace`, `name` and `pool` are those of an AsrDeployment, so "
        "scrape with `honor_labels: true`.",
        table(("metric", "type", "labels", "description"), _operator()),
        "## Serving pods",
        "Metrics of the scheduler model, on Triton's port 8002, in addition to Triton's own. All of them add up over "
        "pods. The share of padding is `1 - asr_audio_seconds_total / asr_padded_audio_seconds_total`; the mean wait "
        "is `asr_waiting_seconds_total / asr_utterances_total`.",
        table(("metric", "type", "description"), _serving()),
        "## Recording rules",
        "Installed by the chart value `prometheusRule.enabled`.",
        table(
            ("rule", "expression"),
            ((f"`{rule['record']}`", _code(rule["expr"])) for rule in everything if "record" in rule),
        ),
        "## Alerts",
        "Installed by the chart value `prometheusRule.enabled`. In the texts below, `…` stands for labels and values.",
        table(
            ("alert", "severity", "for", "summary", "what to do"),
            (_alert(rule) for rule in everything if "alert" in rule),
        ),
    )


def _operator() -> Iterator[tuple[str, ...]]:
    own = [item for item in vars(metrics).values() if type(item).__module__.startswith("prometheus_client")]
    labels = {item._name: item._labelnames for item in own if hasattr(item, "_labelnames")}
    found = [metric for metric in REGISTRY.collect() if metric.name in labels]
    for metric in found:
        yield _metric(metric, labels[metric.name])
    for metric in Fleet(Store()).collect():
        yield _metric(metric, getattr(metric, "_labelnames", ()))


def _metric(metric: Metric, labels: Any) -> tuple[str, ...]:  # noqa: ANN401 (a tuple of prometheus_client's)
    name = metric.name + ("_total" if metric.type == "counter" else "")
    return (f"`{name}`", metric.type, ", ".join(f"`{label}`" for label in labels), escape(metric.documentation))


def _serving() -> Iterator[tuple[str, ...]]:
    """Read from the source: the module itself can be imported inside Triton only."""
    for node in ast.parse(SERVING.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in KINDS:
            for name, text in ast.literal_eval(node.value).items():
                yield (f"`{name}`", KINDS[node.targets[0].id], f"{text}.")


def _code(text: str) -> str:
    return f"`{' '.join(text.split())}`"


def _alert(rule: dict[str, Any]) -> tuple[str, ...]:
    notes = rule["annotations"]
    summary = f"{notes['summary']} {notes['description']}"
    row = (rule["alert"], rule["labels"]["severity"], rule.get("for", ""), _plain(summary), _plain(notes["runbook"]))
    return (f"`{row[0]}`", *row[1:])


def _plain(template: str) -> str:
    """An annotation whose placeholders are replaced by an ellipsis."""
    while "{{" in template:
        before, _, rest = template.partition("{{")
        template = f"{before}…{rest.partition('}}')[2]}"
    return escape(template)
