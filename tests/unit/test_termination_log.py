"""What `model-builder` leaves for Kubernetes to show."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_builder.cli import app


@pytest.mark.parametrize("letter", ["x", "ß", '"', "語"])
def test_a_message_that_is_too_long_is_cut_and_stays_readable(tmp_path: Path, letter: str) -> None:
    log = tmp_path / "termination-log"
    uri = f"s3://bucket/{letter * 5000}?"
    result = CliRunner().invoke(app, ["fetch", uri, str(tmp_path / "model"), "--termination-log", str(log)])
    assert result.exit_code not in {0, 1, 2}
    assert 3500 < log.stat().st_size <= 4096
    told = json.loads(log.read_text())
    assert told["reason"]
    assert letter * 20 in told["message"]


def test_a_file_that_cannot_be_written_is_told_before_anything_is_done(tmp_path: Path) -> None:
    log = tmp_path / "nowhere" / "termination-log"
    result = CliRunner().invoke(app, ["fetch", "file:///nowhere/key", "model", "--termination-log", str(log)])
    assert result.exit_code == 2
    assert "--termination-log" in result.output
    assert "No such file or directory" in result.output
