"""The chart's recording rules, alerts and dashboard, for tests."""

import json
import re
from typing import Any

import yaml

from tests.support.chart import CHART
from tools.testcluster.cluster import PROJECT

ADAPTER = PROJECT / "examples" / "prometheus-adapter" / "values.yaml"
ALERTS = CHART / "files" / "alerts.yaml"
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
METRIC = re.compile(r"(?<![:\w])(?:asr_(?!operator_dev)\w+|nv_\w+|up)\b")
"""A metric in an expression that is scraped, not recorded."""

RARE = "asr_deployment_problem"
"""It has series only where something is wrong, each for a reason of its own."""


def rules(kind: str = "alert") -> list[dict[str, Any]]:
    """Alerts, or what is recorded."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def queries() -> dict[str, str]:
    """The dashboard's, by title of the panel and letter, with what Grafana would put in."""
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    }
    put = {"$__rate_interval": "1m", "$__range": "1h", "$namespace": ".*", "$deployment": ".*"}
    for variable, value in put.items():
        found = {name: query.replace(variable, value) for name, query in found.items()}
    return found


def adapter_queries(namespace: str) -> dict[str, str]:
    """What the metrics adapter of the examples asks Prometheus about the pods of a namespace, by name of the metric."""
    found = {}
    for rule in yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]:
        put = {
            "<<.Series>>": rule["seriesQuery"].partition("{")[0],
            "<<.LabelMatchers>>": f'namespace="{namespace}",pod=~".+"',
            "<<.GroupBy>>": "pod",
        }
        query = rule["metricsQuery"]
        for variable, value in put.items():
            query = query.replace(variable, value)
        found[rule["name"]["as"]] = query
    return found


def selectors(expression: str) -> list[str]:
    """What an expression reads of what is scraped, with its labels."""
    found = re.finditer(METRIC.pattern + r"(\{[^}]*\})?", expression)
    return [RARE if match[0].startswith(RARE) else match[0] for match in found]
