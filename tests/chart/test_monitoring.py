"""Alerts and dashboard: Prometheus' own tool reads them, each alert fires when it should, every metric exists."""

import re
import subprocess
from pathlib import Path

import prometheus_client
import pytest
import yaml

import asr_operator.metrics  # noqa: F401 (registers its metrics)
from asr_contract import telemetry
from asr_operator.fleet import Fleet
from asr_operator.store import Store
from tests.support.monitoring import ALERTS, DASHBOARD, METRIC, adapter_queries, queries, rules
from tools.testcluster import machine
from tools.testcluster.cluster import BINARY

PROMTOOL = BINARY.with_name("promtool")
TRITONS = {telemetry.QUEUED_REQUESTS, "nv_gpu_utilization"}
"""Of Triton's own metrics, as its documentation names them."""
POD = 'namespace="speech", app_kubernetes_io_instance="english", asr_operator_dev_pool="l4"'
RESOURCE = 'namespace="speech", name="english"'
POOL = f'{RESOURCE}, pool="l4"'
Series = list[tuple[str, str]]


def problem(kind: str, reason: str) -> str:
    return f'asr_deployment_problem{{{RESOURCE}, type="{kind}", reason="{reason}"}}'


def pending(model: str, values: str) -> Series:
    """Two pods with the same load, half of it still in Triton's queue."""
    return [
        (f'{metric}{{{POD}, pod="{pod}", model="{model}"}}', values)
        for metric in (telemetry.PENDING_UTTERANCES, telemetry.QUEUED_REQUESTS)
        for pod in ("a", "b")
    ]


SCALED = [
    (f"asr_pool_wanted_replicas{{{POOL}}}", "2x60"),
    (f"asr_pool_ready_replicas{{{POOL}}}", "2x60"),
    (f"asr_pool_max_replicas{{{POOL}}}", "2x60"),
    (f'asr_pool_target{{{POOL}, signal="pendingRequests"}}', "8x60"),
]
FIRING: dict[str, tuple[Series, int]] = {
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
    "AsrBuildFailed": ([(problem("Built", "RejectedError"), "1x10")], 3),
    "AsrStalled": ([(problem("Stalled", "NoTritonImage"), "1x10")], 7),
    "AsrNotReady": ([(problem("Ready", "Building"), "1x30 _x30"), (problem("Ready", "RollingOut"), "_x31 1x30")], 50),
    "AsrNotServing": (
        [
            (problem("Serving", "ReplicasMissing"), "_x20 1x20"),
            (f'asr_deployment_condition{{{RESOURCE}, type="Serving"}}', "1x20 0x20"),
        ],
        30,
    ),
    "AsrServingDegraded": ([(problem("Degraded", "PlanFailed"), "1x60")], 35),
    "AsrNoCapacity": ([(problem("Degraded", "InsufficientGPU"), "1x60")], 20),
    "AsrAtMaxReplicas": ([*SCALED, *pending("english_stt", "5x60")], 20),
    "AsrQueueOverTarget": ([*SCALED, *pending("english_stt", "7x60")], 20),
    "AsrDrainFailed": ([(f"asr_deployment_undrained_pods_total{{{RESOURCE}}}", "0x10 1x10")], 15),
    "AsrPodDown": ([(f"up{{{POD}}}", "0x20")], 7),
    "AsrUtterancesFail": (
        [(f"asr_failed_total{{{POD}}}", "0+5x60"), (f"asr_utterances_total{{{POD}}}", "0+100x60")],
        30,
    ),
    "AsrUtterancesWait": (
        [(f"asr_waiting_seconds_total{{{POD}}}", "0+900x60"), (f"asr_utterances_total{{{POD}}}", "0+100x60")],
        30,
    ),
}
WELL = [
    ("asr_operator_last_sync_timestamp_seconds", "0+60x100"),
    ('asr_operator_reconciles_total{outcome="success"}', "0+2x100"),
    ('asr_operator_reconciles_total{outcome="error"}', "0x100"),
    ("asr_operator_longest_running_seconds", "1x100"),
    (f'asr_deployment_condition{{{RESOURCE}, type="Serving"}}', "1x100"),
    (f"asr_deployment_undrained_pods_total{{{RESOURCE}}}", "0x100"),
    (problem("Ready", "ScaledToZero"), "1x100"),
    (problem("Built", "Building"), "1x100"),
    *SCALED,
    *pending("english_stt", "3x100"),
    (f"up{{{POD}}}", "1x100"),
    (f"asr_failed_total{{{POD}}}", "0x100"),
    (f"asr_utterances_total{{{POD}}}", "0+100x100"),
    (f"asr_waiting_seconds_total{{{POD}}}", "0+10x100"),
]
RECORDED: dict[str, tuple[Series, dict[str, float]]] = {
    # What is recorded after 10 minutes of these series.
    "pool:asr_audio_seconds:rate2m": (
        [(f'asr_audio_seconds_total{{{POD}, pod="{pod}"}}', "0+600x20") for pod in "ab"],
        {POOL: 20},
    ),
    "deployment:asr_audio_seconds:rate2m": (
        [(f"asr_audio_seconds_total{{{POD.replace('l4', pool)}}}", "0+600x20") for pool in ("l4", "h100")],
        {RESOURCE: 20},
    ),
    # Of a model whose scheduler is not ours nothing counts, nor of the acoustic model.
    "pool:asr_pending_utterances:sum": (
        [
            *pending("english_stt", "3x20"),
            (f'nv_inference_pending_request_count{{{POD}, pod="a", model="onnx_english_stt"}}', "50x20"),
        ],
        {POOL: 12},
    ),
    "deployment:asr_pending_utterances:sum": (pending("english_stt", "3x20"), {RESOURCE: 12}),
    "pool:asr_request_seconds:p95_5m": (
        [
            (f'asr_request_seconds_bucket{{{POD}, le="1"}}', "0x20"),
            (f'asr_request_seconds_bucket{{{POD}, le="2"}}', "0+1920x20"),
            (f'asr_request_seconds_bucket{{{POD}, le="+Inf"}}', "0+1920x20"),
        ],
        {POOL: 1.95},
    ),
    "pool:asr_load:target_ratio": ([*SCALED, *pending("english_stt", "4x20")], {POOL: 1}),
}


def promtool(*arguments: str) -> str:
    return machine.run([str(PROMTOOL), *arguments], environment={})


def promtool_tests(series: Series, folder: Path, **tests: object) -> subprocess.CompletedProcess[str]:
    """What promtool says of these series and tests."""
    samples = [{"series": name, "values": values} for name, values in series]
    path = folder / "test.yaml"
    test = {"interval": "1m", "input_series": samples} | tests
    whole = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "fuzzy_compare": True, "tests": [test]}
    path.write_text(yaml.safe_dump(whole))
    return subprocess.run([PROMTOOL, "test", "rules", path], check=False, capture_output=True, text=True)


def firing(series: Series, minutes: int, folder: Path) -> set[str]:
    """Alerts that fire after some minutes of these series, as Prometheus' rule engine says."""
    # promtool compares with what is expected: an alert that is expected not to fire, and does, is an error.
    expected = [{"eval_time": f"{minutes}m", "alertname": rule["alert"], "exp_alerts": []} for rule in rules()]
    done = promtool_tests(series, folder, alert_rule_test=expected)
    told = done.stdout + done.stderr
    found = set(re.findall(r"alertname: (\w+)", told))
    assert bool(found) == bool(done.returncode), told
    return found


def test_prometheus_reads_the_alerts() -> None:
    assert f"SUCCESS: {len(FIRING) + len(RECORDED)} rules found" in promtool("check", "rules", str(ALERTS))


@pytest.mark.parametrize("alert", FIRING)
def test_an_alert_fires(alert: str, tmp_path: Path) -> None:
    series, minutes = FIRING[alert]
    assert alert in firing(series, minutes, tmp_path)


def test_no_alert_fires_when_all_is_well(tmp_path: Path) -> None:
    assert {rule["alert"] for rule in rules()} == set(FIRING)
    assert firing(WELL, 60, tmp_path) == set()


def test_each_alert_says_what_it_means_and_what_to_do() -> None:
    for rule in rules():
        assert {"summary", "description", "runbook"} == set(rule["annotations"]), rule["alert"]


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_rule_adds_up_what_pods_count(name: str, tmp_path: Path) -> None:
    series, expected = RECORDED[name]
    samples = [{"labels": f"{name}{{{labels}}}", "value": value} for labels, value in expected.items()]
    asked = {"expr": name, "eval_time": "10m", "exp_samples": samples}
    done = promtool_tests(series, tmp_path, promql_expr_test=[asked])
    assert not done.returncode, done.stdout + done.stderr


def test_every_recording_rule_is_promtool_tests() -> None:
    assert {rule["record"] for rule in rules("record")} == set(RECORDED)


def test_prometheus_reads_the_queries_of_dashboard_and_adapter(tmp_path: Path) -> None:
    asked = [*queries().values(), *adapter_queries("speech").values()]
    recorded = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(asked)]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    assert f"SUCCESS: {len(recorded)} rules found" in promtool("check", "rules", str(path))


def test_every_metric_is_one_that_the_operator_or_a_pod_has() -> None:
    fleet = [family.name for family in Fleet(Store()).collect()]
    families = [family.name for family in prometheus_client.REGISTRY.collect()] + fleet
    operators = {f"{name}{suffix}" for name in families for suffix in ("", "_total", "_bucket", "_count")}
    known = operators | telemetry.SERIES | TRITONS | {"up"}
    texts = [rule["expr"] for rule in rules() + rules("record")] + list(queries().values())
    used = {name for text in texts for name in METRIC.findall(text)}
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
