"""`asr conform --url` against a real Triton: it passes, and real faults make its checks fail."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asr_cli.conform import command, run
from asr_cli.conform.artifact import REFERENCES
from asr_cli.conform.outcome import Outcome, Result
from asr_cli.conform.target import Target, local_shell, no_shell, page_reader
from asr_contract.artifact import MANIFEST
from model_builder import triton
from tests.builder.conftest import NAME
from tests.support.programs import program

NOT_ON_CPU = {"GPU memory", "throughput", "latency", f"class_count {NAME}", f"class_count ensemble_{NAME}"}
"""Checks that do not apply: no GPU, no plan, and a Triton that `class_count` on texts would end."""
WITHOUT_KUBERNETES = {"death of a Python process", "pod deletion"}


def asr(server: triton.Server, output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    metrics = f"http://{server.ports.host}:{server.ports.metrics}/metrics"
    started = [program("asr"), "conform", "--url", server.ports.grpc_url, "--metrics-url", metrics]
    # The server's interpreter is the one that is found first on PATH.
    environment = os.environ | {"PATH": f"{Path(program('asr')).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        [*started, "--exec", "env", "--output", str(output), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )


def checks(output: Path) -> dict[str, dict[str, Any]]:
    """Checks of a record by their name."""
    (server,) = json.loads(output.read_text())["servers"]
    return {check["check"]: check for check in server["checks"]}


def names(found: dict[str, dict[str, Any]], outcome: str) -> set[str]:
    return {name for name, check in found.items() if check["outcome"] == outcome}


def test_the_demo_model_conforms_until_its_server_is_ended_and_the_record_holds_no_texts_and_no_paths(
    repository: Path, tmp_path: Path
) -> None:
    with triton.serve(repository) as server:
        done = asr(server, tmp_path / "conformance.json", "--kill")
        assert server.process.wait(60) is not None
    assert done.returncode == 0, done.stdout + done.stderr
    found = checks(tmp_path / "conformance.json")
    assert names(found, "skipped") == NOT_ON_CPU | WITHOUT_KUBERNETES
    assert names(found, "pass") == set(found) - NOT_ON_CPU - WITHOUT_KUBERNETES
    assert found["versions"]["figures"]["triton"] == "2.51.0"
    assert found["tokens onnx_english_stt"]["figures"]["steps"] > 1000
    assert found["cancellation"]["figures"]["cancelled"] > 0
    ended = found["SIGTERM"]["figures"]
    assert ended["answered"] + ended["unavailable"] == ended["sent"] == 64
    written = (tmp_path / "conformance.json").read_text()
    assert str(repository) not in written
    for reference in json.loads((repository / REFERENCES).read_text()):
        assert reference["text"] not in written


def test_what_is_not_given_is_skipped_and_says_what_to_give(server: triton.Server) -> None:
    target = Target("server", server.ports.grpc_url, None, NAME, page=None, shell=no_shell(command.NO_EXEC))
    found = examine(target)
    skipped = {name: f"{result.message} {result.hint}" for name, result in found.items() if result.outcome == "skipped"}
    assert not [result for result in found.values() if result.outcome is Outcome.FAIL]
    assert "--artifact" in skipped["artifact"]
    assert "--audio" in skipped[f"texts {NAME}"]
    assert "--metrics-url" in skipped["metric sums"]
    assert "--exec" in skipped["memory"]


def examine(target: Target, **options: Any) -> dict[str, Result]:  # noqa: ANN401
    """All results by check."""

    async def collect() -> dict[str, Result]:
        return {result.check: result async for result in run.examine(target, **options)}

    return asyncio.run(collect())


def wrong_text(folder: Path) -> None:
    edit(folder / REFERENCES, lambda content: content[3].update(text="another text"))


def wrong_token(folder: Path) -> None:
    edit(folder / REFERENCES, lambda content: content[3]["tokens"].__setitem__(0, 5))


def other_limit(folder: Path) -> None:
    edit(folder / MANIFEST, lambda content: content["recipe"].update(max_audio_seconds=20))


def other_length(folder: Path) -> None:
    edit(folder / MANIFEST, lambda content: content["check"]["by_utterance"][0].update(seconds=99.0))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def altered(repository: Path, tmp_path: Path) -> Path:
    """A copy of what a run reads of the artifact, of four files of the check audio, to put faults into."""
    for name in (MANIFEST, REFERENCES):
        shutil.copy(repository / name, tmp_path)
    edit(tmp_path / REFERENCES, lambda content: content.__delitem__(slice(4, None)))
    edit(tmp_path / MANIFEST, lambda content: content["gate"]["transcripts"].__delitem__(slice(4, None)))
    return tmp_path


ALL_TEXTS = {f"texts {NAME}", f"texts ensemble_{NAME}"}


@pytest.mark.parametrize(
    ("fault", "failing", "skipped"),
    [
        (wrong_text, ALL_TEXTS, set()),
        (wrong_token, {f"tokens onnx_{NAME}"}, set()),
        (other_limit, {f"refusals {NAME}", f"refusals ensemble_{NAME}", "refused requests are counted"}, set()),
        (other_length, set(), ALL_TEXTS | {f"tokens onnx_{NAME}"}),
    ],
    ids=["another text", "another token", "a server that takes longer audio", "other audio of the same name"],
)
def test_an_artifact_that_the_server_does_not_match_fails_exactly_its_checks(
    server: triton.Server, altered: Path, fault: Callable[[Path], None], failing: set[str], skipped: set[str]
) -> None:
    fault(altered)
    found = asyncio.run(before("256 in flight", target_of(server), altered))
    assert {name for name, result in found.items() if result.outcome is Outcome.FAIL} == failing
    assert skipped <= {name for name, result in found.items() if result.outcome is Outcome.SKIPPED}


async def before(check: str, target: Target, folder: Path) -> dict[str, Result]:
    """Results before a check: the later ones say nothing of the fault."""
    found: dict[str, Result] = {}
    async for result in run.examine(target, artifact=folder):
        if result.check == check:
            break
        found[result.check] = result
    return found


def target_of(server: triton.Server, *, gpu: bool | None = None) -> Target:
    return Target(
        name="server",
        url=server.ports.grpc_url,
        tls=None,
        model=NAME,
        page=page_reader(f"http://{server.ports.host}:{server.ports.metrics}/metrics"),
        shell=local_shell(["env"]),
        port=str(server.ports.grpc),
        gpu=gpu,
    )


def test_a_model_on_the_cpu_where_a_gpu_is_expected_fails(server: triton.Server, repository: Path) -> None:
    found = asyncio.run(before(f"logprobs onnx_{NAME}", target_of(server, gpu=True), repository))
    assert {name for name, result in found.items() if result.outcome is Outcome.FAIL} == {f"instance kind onnx_{NAME}"}


def test_the_artifact_is_read_beside_the_server(server: triton.Server) -> None:
    found = target_of(server).ask("artifact")
    assert found["manifest"]["recipe"]["model_name"] == NAME
    assert len(found["references"]) == len(found["manifest"]["gate"]["transcripts"])
