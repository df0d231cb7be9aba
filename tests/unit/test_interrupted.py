"""What an interruption of a command of `model-builder` says."""

import os
import signal
from typing import Any

import pytest

from model_builder.commands.exit import CONTINUES, errors_reported


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("options", "told"),
    [({}, "interrupted; run it again"), ({"interrupted": CONTINUES}, "interrupted; the next run continues")],
    ids=["fetch, verify and inspect", "build and plan"],
)
def test_only_a_build_promises_to_continue(
    number: signal.Signals, code: int, options: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, errors_reported(None, json_log=False, **options):
        os.kill(os.getpid(), number)

    assert ended.value.code == code
    assert capsys.readouterr().err == f"Interrupted: {told}\n"
