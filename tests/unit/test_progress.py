import io
import json
import logging
from datetime import datetime, timedelta

import kopf
import pytest
from kopf._core.actions.loggers import make_formatter
from rich.console import Console

from model_builder import progress


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_long_task_tells_now_and_then_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    with progress.JsonReporter().task("plan", 10) as task:
        task.note("about 60 s to go")
        task.advance(4)
        task.advance(2)
    found = lines(capsys)
    assert [line["message"] for line in found] == ["started", "progress", "progress", "finished"]
    assert [line.get("done") for line in found[1:3]] == [4, 6]
    assert found[1]["note"] == "about 60 s to go"


def test_a_short_task_is_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.JsonReporter().task("plan", 10) as task:
        task.advance(10)
    assert [line["message"] for line in lines(capsys)] == ["started", "finished"]


@pytest.mark.parametrize("text", ["english[large].nemo", "s3://bucket/[/x]", "[red]"])
@pytest.mark.parametrize("terminal", [True, False])
def test_brackets_in_what_is_told_are_shown_as_they_are(text: str, terminal: bool) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=200, force_terminal=terminal, color_system=None, highlight=False)
    reporter = progress.RichReporter(console)
    reporter.info(f"message {text}", uri=text)
    with reporter.task("fetch") as task:
        task.note(f"note {text}")
    assert f"message {text}" in shown.getvalue()
    assert f"={text}" in shown.getvalue()
    assert f"note {text}" in shown.getvalue()


def test_builder_and_operator_log_the_same_fields(capsys: pytest.CaptureFixture[str]) -> None:
    progress.JsonReporter().error("storage failed", reason="StorageUnavailable")
    (line,) = lines(capsys)
    record = logging.LogRecord("asr_operator", logging.ERROR, __file__, 1, "storage failed", None, None)
    operator = json.loads(make_formatter(log_format=kopf.LogFormat.JSON).format(record))
    assert {"message", "severity", "timestamp"} <= line.keys() & operator.keys()
    assert line["severity"] == operator["severity"]
    assert datetime.fromisoformat(str(line["timestamp"])).utcoffset() == timedelta(0)
