import copy
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from asr_contract.errors import RejectedError, WorkFolderError
from model_builder.pipeline import REPORT as REPORT_FILE
from model_builder.pipeline import reported
from model_builder.report_page import SAME, render

REPORT: dict[str, Any] = {
    "status": "published",
    "uri": "s3://bucket/english_stt/abc",
    "recipe": {"model_name": "english_stt", "precision": "FP32"},
    "versions": {"torch": "2.13.0"},
    "stages": {
        "fetch": {"seconds": 0.1, "source": "s3://in/english.nemo", "sha256": "ab" * 32, "bytes": 7_200_000},
        "inspect": {"seconds": 0.1, "class": "EncDecCTCModelBPE", "vocabulary": "sentencepiece"},
        "check": {
            "seconds": 3.0,
            "reused": True,
            "utterances": 1,
            "audio_seconds": 2.0,
            "max_feature_difference": 1e-4,
            "mean_feature_difference": 1e-6,
            "max_logprob_difference": 1e-5,
            "by_utterance": [
                {"file": "a.wav", "seconds": 2.0, "max_feature_difference": 1e-4, "max_logprob_difference": 0.0}
            ],
        },
        "gate": {
            "seconds": 2.0,
            "wer": 0.01,
            "checkpoint_wer": None,
            "text_agreement": 0.5,
            "token_agreement": 0.99,
            "max_token_logprob_difference": 0.02,
            "mean_token_logprob_difference": 3e-4,
            "server": "2.51",
            "transcripts": [
                {"file": "a.wav", "text": None, "checkpoint": "hello <b>there</b>", "served": "hello"},
                {"file": "b.wav", "text": "yes", "checkpoint": "yes", "served": "yes"},
            ],
        },
    },
}


def test_the_page_shows_what_was_measured() -> None:
    page = render(REPORT)
    for part in (
        "s3://bucket/english_stt/abc",
        "1.0e-04",
        "1.00% served",
        "50.00% of texts",
        "at most 2.0e-02",
        "2.13.0",
    ):
        assert part in page
    assert page.count("data:image/png;base64,") == 2


def test_the_page_says_which_checkpoint_it_was_and_how_long_it_took() -> None:
    page = render(REPORT)
    for part in ("s3://in/english.nemo", f"7.2 MB, SHA-256 {'ab' * 32}", "EncDecCTCModelBPE", "Time: 5.2 s"):
        assert part in page


def test_transcripts_that_differ_are_marked_and_come_first() -> None:
    report = copy.deepcopy(REPORT)
    report["stages"]["gate"]["transcripts"].reverse()
    page = render(report)
    assert page.count("class=differs") == 1
    assert page.index("a.wav") < page.index("b.wav")


def test_what_is_the_same_is_not_written_again() -> None:
    assert render(REPORT).count(SAME) == 2


def test_what_a_model_wrote_cannot_become_markup() -> None:
    page = render(REPORT)
    assert "<b>there" not in page
    assert "&lt;b&gt;there" in page


def test_a_build_that_failed_early_has_a_page_too() -> None:
    page = render({"status": "failed", "reason": "SourceUnavailable", "message": "x is not a file", "stages": {}})
    assert "SourceUnavailable: x is not a file" in page
    HTMLParser().feed(page)


def test_a_build_that_ends_with_an_unforeseen_error_is_reported_as_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), reported(tmp_path):
        raise RuntimeError("torch went wrong")
    report = json.loads((tmp_path / REPORT_FILE).read_text())
    assert (report["status"], report["reason"]) == ("failed", "Failed")
    assert report["message"] == "RuntimeError: torch went wrong"


def test_a_work_folder_that_cannot_be_written_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(WorkFolderError, match="cannot write below"), reported(tmp_path):
        raise OSError(28, "No space left on device")
    report = json.loads((tmp_path / REPORT_FILE).read_text())
    assert (report["status"], report["reason"]) == ("failed", "WorkFolderUnusable")


def test_the_page_names_the_file_that_decided() -> None:
    report = copy.deepcopy(REPORT)
    report["stages"]["gate"]["decided_by"] = {"file": "phone.wav", "difference": 0.002, "limit": 0.01}
    assert "phone.wav: 2.0e-03 of 1.0e-02" in render(report)


def test_a_rejected_build_reports_what_was_measured(tmp_path: Path) -> None:
    figures = {"decided_by": {"file": "a.wav", "difference": 0.02, "limit": 0.01}}
    with pytest.raises(RejectedError), reported(tmp_path) as report, report.stage("gate"):
        raise RejectedError("a.wav differs", figures)
    content = json.loads((tmp_path / REPORT_FILE).read_text())
    assert content["stages"]["gate"]["decided_by"]["file"] == "a.wav"
