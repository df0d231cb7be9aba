"""Alerts and dashboard: Prometheus' own tool reads them, each alert fires when it should, every metric exists."""

import ast
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml

import asr_operator.metrics  # noqa: F401 (registers its metrics)
from tests.cluster import machine
from tests.cluster.cluster import BINARY, PROJECT
from tests.support.chart import CHART

PROMTOOL = BINARY.with_name("promtool")
ALERTS = CHART / "files" / "alerts.yaml"
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
TRITONS = {"nv_inference_pending_request_count", "nv_gpu_utilization"}
"""Of Triton's own metrics, as its documentation names them."""
LABELS = '{namespace="speech", app_kubernetes_io_instance="english", asr_operator_dev_pool="l4"}'

FIRING = {
    # Series, as promtool writes them (from+step x times), and after how many minutes the alert fires.
    "AsrOperatorAbsent": ([], 12),
    "AsrOperatorOutOfDate": ([("asr_operator_last_sync_timestamp_seconds", "0x100")], 70),
    "AsrOperatorErrors": (
        [
            ('asr_operator_reconciles_total{outcome="error"}', "0+1x60"),
            ('asr_operator_reconciles_total{outcome="success"}', "0+2x60"),
        ],
        40,
    ),
    "AsrOperatorStuck": ([("asr_operator_longest_running_seconds", "0+60x20")], 8),
    "AsrPodDown": ([(f"up{LABELS}", "0x20")], 7),
    "AsrUtterancesFail": (
        [(f"asr_failed_total{LABELS}", "0+5x60"), (f"asr_utterances_total{LABELS}", "0+100x60")],
        30,
    ),
    "AsrUtterancesWait": (
        [(f"asr_waiting_seconds_total{LABELS}", "0+900x60"), (f"asr_utterances_total{LABELS}", "0+100x60")],
        30,
    ),
}
WELL = [
    ("asr_operator_last_sync_timestamp_seconds", "0+60x100"),
    ('asr_operator_reconciles_total{outcome="success"}', "0+2x100"),
    ('asr_operator_reconciles_total{outcome="error"}', "0x100"),
    ("asr_operator_longest_running_seconds", "1x100"),
    (f"up{LABELS}", "1x100"),
    (f"asr_failed_total{LABELS}", "0x100"),
    (f"asr_utterances_total{LABELS}", "0+100x100"),
    (f"asr_waiting_seconds_total{LABELS}", "0+10x100"),
]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*arguments: str) -> str:
    return machine.run([str(PROMTOOL), *arguments], environment={})


def firing(series: list[tuple[str, str]], minutes: int, folder: Path) -> set[str]:
    """Alerts that fire after some minutes of these series, as Prometheus' rule engine says."""
    samples = [{"series": name, "values": values} for name, values in series]
    found = set()
    for rule in rules():
        # promtool compares with what is expected: an alert that is expected not to fire, and does, is an error.
        expected = {"eval_time": f"{minutes}m", "alertname": rule["alert"], "exp_alerts": []}
        test = {"interval": "1m", "input_series": samples, "alert_rule_test": [expected]}
        path = folder / "test.yaml"
        path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]}))
        done = subprocess.run([PROMTOOL, "test", "rules", path], check=False, capture_output=True, text=True)
        if done.returncode:
            told = done.stdout + done.stderr
            assert "exp:[]" in re.sub(r"\s", "", told), told
            found.add(rule["alert"])
    return found


def test_prometheus_reads_the_alerts() -> None:
    assert f"SUCCESS: {len(FIRING)} rules found" in promtool("check", "rules", str(ALERTS))


@pytest.mark.parametrize("alert", FIRING)
def test_an_alert_fires(alert: str, tmp_path: Path) -> None:
    series, minutes = FIRING[alert]
    assert alert in firing(series, minutes, tmp_path)


def test_no_alert_fires_when_all_is_well(tmp_path: Path) -> None:
    assert {rule["alert"] for rule in rules()} == set(FIRING)
    assert firing(WELL, 60, tmp_path) == set()


def queries() -> list[str]:
    """The dashboard's, with what Grafana would put in."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return [query.replace("$__rate_interval", "1m").replace("$namespace", ".*") for query in found]


def test_prometheus_reads_the_dashboards_queries(tmp_path: Path) -> None:
    recorded = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries())]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert f"SUCCESS: {len(recorded)} rules found" in promtool("check", "rules", str(path))


def test_every_metric_is_one_that_the_operator_or_a_pod_has() -> None:
    families = [family.name for family in prometheus_client.REGISTRY.collect()]
    operators = {f"{name}{suffix}" for name in families for suffix in ("", "_total", "_bucket")}
    (counters,) = [
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse((PROJECT / "serving" / "asr_serving" / "metrics.py").read_text()))
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "COUNTERS"
    ]
    known = operators | set(counters) | TRITONS | {"up"}
    texts = [rule["expr"] for rule in rules()] + queries()
    used = {name for text in texts for name in re.findall(r"\b(?:asr_(?!operator_dev)\w+|nv_\w+|up)\b", text)}
    assert used - known == set()
    assert len(used) > 12


def test_the_dashboards_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
