"""Builds that are killed, repeated or run twice at once."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.builder.conftest import NAME, Builder, Built
from tests.support.faults import faulty
from tests.support.processes import servers_over
from tests.support.programs import program

REUSED = ("export", "frontend", "check", "gate")


def command(builder: Builder, work: Path, prefix: str, source: Path) -> list[str]:
    return [
        *(program("model-builder"), "build", "--source", str(source), "--name", NAME),
        *("--storage", f"{builder.s3.uri}/{prefix}", "--work", str(work), "--json"),
    ]


def start(builder: Builder, work: Path, prefix: str, source: Path) -> subprocess.Popen[bytes]:
    """Begin a build and leave it running."""
    return subprocess.Popen(
        command(builder, work, prefix, source),
        env=os.environ | builder.s3.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def manifests(builder: Builder, prefix: str) -> list[Path]:
    return list((builder.s3.folder / prefix).rglob("manifest.json"))


def unpublish(builder: Builder, built: Built) -> None:
    shutil.rmtree(builder.s3.folder / built.uri.removeprefix("s3://asr-models/"))


def test_killed_at_random_moments_a_build_leaves_no_artifact_and_then_succeeds(
    builder: Builder, demo_checkpoint: Path
) -> None:
    work, moments = builder.folder / "killed", random.Random(5)  # noqa: S311 (moments, not secrets)
    published = False
    for _ in range(4):
        process = start(builder, work, "killed", demo_checkpoint)
        try:
            process.wait(moments.uniform(1, 16))
            published = published or process.returncode == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert published or not manifests(builder, "killed")
    done = subprocess.run(
        command(builder, work, "killed", demo_checkpoint),
        env=os.environ | builder.s3.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert len(manifests(builder, "killed")) == 1
    assert builder.run("verify", done.stdout.splitlines()[-1]).returncode == 0


def test_stages_whose_inputs_did_not_change_are_not_run_again(builder: Builder, demo_checkpoint: Path) -> None:
    first = builder.build("twice", "--max-batch-size", "8", source=demo_checkpoint)
    unpublish(builder, first)
    second = builder.build("twice", "--max-batch-size", "8", source=demo_checkpoint)
    assert second.uri == first.uri
    assert [name for name in REUSED if second.report["stages"][name].get("reused")] == list(REUSED)
    assert "load" not in second.report["stages"]


def test_what_is_accepted_decides_anew_whether_a_build_passes(builder: Builder, demo_checkpoint: Path) -> None:
    options = ("--max-batch-size", "24")
    builder.build("stricter", *options, source=demo_checkpoint)
    second = builder.build("stricter", *options, "--max-wer-increase-permille", "0", source=demo_checkpoint)
    assert second.report["stages"]["frontend"].get("reused")
    assert not second.report["stages"]["gate"].get("reused")


def test_another_encoding_of_the_audio_makes_the_mel_graph_anew(builder: Builder, demo_checkpoint: Path) -> None:
    options = ("--max-batch-size", "12")
    builder.build("encodings", *options, source=demo_checkpoint)
    second = builder.build("encodings", *options, "--wire", "float32", source=demo_checkpoint)
    assert second.report["stages"]["export"].get("reused")
    assert not second.report["stages"]["frontend"].get("reused")


def test_an_intermediate_file_that_was_altered_is_made_again(builder: Builder, demo_checkpoint: Path) -> None:
    options = ("--max-batch-size", "16")
    first = builder.build("altered", *options, source=demo_checkpoint)
    unpublish(builder, first)
    model = first.work / "graphs" / "model.onnx"
    sound = model.read_bytes()
    model.write_bytes(sound[:-1] + b"\0")
    second = builder.build("altered", *options, source=demo_checkpoint)
    assert model.read_bytes() == sound
    assert second.report["stages"]["export"].get("reused")
    assert not second.report["stages"]["frontend"].get("reused")


def test_two_builders_at_once_agree_on_one_artifact(builder: Builder, demo_checkpoint: Path) -> None:
    processes = [
        subprocess.Popen(
            command(builder, builder.folder / f"race-{index}", "race", demo_checkpoint),
            env=os.environ | builder.s3.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    uris = {output.splitlines()[-1] for output, _ in outputs}
    assert len(uris) == len(manifests(builder, "race")) == 1
    assert builder.run("verify", uris.pop()).returncode == 0


def test_a_work_folder_in_use_is_refused(builder: Builder, demo_checkpoint: Path) -> None:
    work = builder.folder / "shared"
    first = start(builder, work, "shared", demo_checkpoint)
    try:
        while not (work / "checkpoint").exists():
            assert first.poll() is None
            time.sleep(0.1)
        second = builder.run(*command(builder, work, "shared", demo_checkpoint)[1:])
    finally:
        first.kill()
        first.wait()
    assert second.returncode == 32
    assert "another build uses" in second.stderr


def test_a_killed_build_takes_its_triton_with_it(builder: Builder, demo_checkpoint: Path) -> None:
    work = builder.folder / "killed-at-the-gate"
    process = start(builder, work, "killed-at-the-gate", demo_checkpoint)
    while not (work / "triton.log").exists():
        assert process.poll() is None
        time.sleep(0.05)
    while len(servers_over(work)) < 5:  # the server and its four Python models
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while (alive := servers_over(work)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive
    assert not manifests(builder, "killed-at-the-gate")


@pytest.mark.parametrize(
    ("number", "code", "stages"),
    [(signal.SIGINT, 130, ("check", "gate")), (signal.SIGTERM, 143, ("load", "export", "gate", "publish"))],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_build_that_is_interrupted_says_so_at_any_stage_and_the_next_run_continues(
    builder: Builder, demo_checkpoint: Path, number: signal.Signals, code: int, stages: tuple[str, ...]
) -> None:
    name = f"interrupted-{number.name}"
    work = builder.folder / name
    address = urlsplit(builder.s3.environment["AWS_ENDPOINT_URL"])
    assert address.hostname is not None
    assert address.port is not None
    with faulty(address.hostname, address.port) as proxy:
        proxy.bytes_per_second = 2e6  # so that there is time to interrupt the upload
        environment = os.environ | builder.s3.environment | {"AWS_ENDPOINT_URL": proxy.url}
        for stage in stages:
            process = subprocess.Popen(
                command(builder, work, name, demo_checkpoint), env=environment, stderr=subprocess.PIPE, text=True
            )
            assert process.stderr is not None
            while f'"message": "started", "task": "{stage}"' not in (line := process.stderr.readline()):
                assert line, f"it ended before {stage}"
            process.send_signal(number)
            _, errors = process.communicate(timeout=120)
            assert process.returncode == code, errors
            assert "Traceback" not in errors
            report = json.loads((work / "report.json").read_text())
            assert (report["status"], report["stage"]) == ("interrupted", stage)
            assert not manifests(builder, name)
            assert not servers_over(work)
    last = builder.run(*command(builder, work, name, demo_checkpoint)[1:])
    assert last.returncode == 0, last.stderr
    assert len(manifests(builder, name)) == 1
    report = json.loads((work / "report.json").read_text())
    assert all(report["stages"][stage].get("reused") for stage in REUSED if stage != stages[-1])


def test_a_fetch_that_is_interrupted_leaves_nothing(builder: Builder, built: Built, tmp_path: Path) -> None:
    address = urlsplit(builder.s3.environment["AWS_ENDPOINT_URL"])
    assert address.hostname is not None
    assert address.port is not None
    with faulty(address.hostname, address.port) as proxy:
        process = subprocess.Popen(
            [program("model-builder"), "fetch", built.uri, str(tmp_path / "fetched"), "--json"],
            env=os.environ | builder.s3.environment | {"AWS_ENDPOINT_URL": proxy.url},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        assert '"message": "started", "task": "fetch"' in process.stderr.readline()
        process.terminate()
        process.communicate(timeout=120)
    assert process.returncode == 143
    assert not list(tmp_path.iterdir())
