import json

import pytest

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
