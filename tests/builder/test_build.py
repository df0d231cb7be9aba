"""From the demo checkpoint to a published artifact, by the command line."""

import os
from pathlib import Path

import pytest

from model_builder import audio_set
from model_builder.progress import NullReporter
from model_builder.stages import check_audio
from tests.builder.conftest import Builder, Built


def test_a_build_leaves_nothing_of_telemetry_in_a_new_home(builder: Builder, built: Built) -> None:
    assert built.uri
    assert [path for path in builder.home.rglob("*") if "microsoft" in str(path).lower()] == []


def test_the_last_line_on_standard_output_is_the_uri_of_the_artifact(built: Built) -> None:
    assert built.uri == f"s3://asr-models/tests/english_stt/{built.report['build_key']}"


def test_every_stage_is_in_the_report_with_its_time(built: Built) -> None:
    assert list(built.report["stages"]) == [
        *("fetch", "inspect", "load", "export", "frontend", "check", "repository", "gate", "publish"),
    ]
    assert all(stage["seconds"] >= 0 for stage in built.report["stages"].values())


def test_mel_features_are_those_of_nemo(built: Built) -> None:
    assert built.report["stages"]["check"]["max_feature_difference"] <= 1e-3


def test_log_probabilities_are_those_of_nemo_alone_and_in_batches_padded_with_noise(built: Built) -> None:
    by_size = built.report["stages"]["check"]["by_batch_size"]
    assert set(by_size) == {"1", "4", "16"}
    assert all(figures["max_logprob_difference"] <= 1e-3 for figures in by_size.values())
    assert all(figures["token_agreement"] == 1.0 for figures in by_size.values())


def test_the_served_model_transcribes_what_nemo_does(built: Built) -> None:
    gate = built.report["stages"]["gate"]
    assert (gate["text_agreement"], gate["token_agreement"]) == (1.0, 1.0)


def test_the_demo_model_makes_few_errors(built: Built) -> None:
    assert built.report["stages"]["gate"]["wer"] <= 0.05


def test_the_same_build_again_is_found_and_not_repeated(builder: Builder, built: Built, demo_checkpoint: Path) -> None:
    again = builder.build("again", source=demo_checkpoint)
    assert again.uri == built.uri
    assert list(again.report["stages"]) == ["fetch"]


def test_the_published_artifact_verifies(builder: Builder, built: Built) -> None:
    assert builder.run("verify", built.uri).returncode == 0


def test_an_object_altered_in_the_bucket_is_found_with_its_name(builder: Builder, built: Built, tmp_path: Path) -> None:
    (victim,) = (builder.s3.folder / built.uri.removeprefix("s3://asr-models/")).rglob("onnx_english_stt/1/model.onnx")
    sound = victim.read_bytes()
    victim.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    try:
        verified = builder.run("verify", built.uri)
        fetched = builder.run("fetch", built.uri, str(tmp_path / "fetched"))
    finally:
        victim.write_bytes(sound)
    assert (verified.returncode, fetched.returncode) == (31, 31)
    assert "onnx_english_stt/1/model.onnx was altered" in fetched.stderr
    assert not list(tmp_path.iterdir())


def test_inspect_shows_what_an_artifact_is(builder: Builder, built: Built) -> None:
    shown = builder.run("inspect", built.uri).stdout
    for part in ("english_stt", "EncDecCTCModelBPE", "1.73 M parameters", "WER", "OnnxRuntime  FP32"):
        assert part in shown


def test_logs_are_json_lines_when_asked_for(builder: Builder, built: Built) -> None:
    lines = builder.run("verify", built.uri, "--json").stderr.splitlines()
    assert [line[0] for line in lines] == ["{"] * len(lines)
    assert lines


def test_a_failure_is_told_to_people_and_to_the_pod(builder: Builder, tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    done = builder.run(
        *("build", "--source", str(tmp_path / "absent.nemo"), "--name", "english_stt"),
        *("--storage", f"{builder.s3.uri}/tests", "--work", str(tmp_path / "work"), "--termination-log", str(log)),
    )
    assert done.returncode == 10
    assert "absent.nemo is not a file" in done.stderr
    assert '"reason": "SourceUnavailable"' in log.read_text()


def test_a_checkpoint_in_the_bucket_is_a_source_and_gives_the_same_artifact(
    builder: Builder, built: Built, demo_checkpoint: Path
) -> None:
    (builder.s3.folder / "incoming").mkdir()
    (builder.s3.folder / "incoming" / "english.nemo").write_bytes(demo_checkpoint.read_bytes())
    again = builder.run(
        *("build", "--source", f"{builder.s3.uri}/incoming/english.nemo", "--name", "english_stt"),
        *("--storage", f"{builder.s3.uri}/tests", "--work", str(builder.folder / "from-bucket")),
    )
    assert again.stdout.splitlines() == [built.uri]


def test_a_proxy_that_cannot_reach_this_machine_does_not_matter(
    builder: Builder, demo_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    builder.build("proxied", "--max-batch-size", "2", source=demo_checkpoint)


def test_the_mark_of_a_folder_in_the_bucket_is_no_check_audio(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = next(audio_set.SHIPPED.glob("*.wav"))
    (builder.s3.folder / "marked").mkdir()
    (builder.s3.folder / "marked" / audio.name).write_bytes(audio.read_bytes())
    # This makes it an object `marked/` for the server.
    os.setxattr(builder.s3.folder / "marked", "user.etag", b'"d41d8cd98f00b204e9800998ecf8427e"')
    for name, value in builder.s3.environment.items():
        monkeypatch.setenv(name, value)
    with check_audio.brought(f"{builder.s3.uri}/marked", tmp_path, NullReporter()) as folder:
        assert [path.name for path in folder.iterdir()] == [audio.name]
