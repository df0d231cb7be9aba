"""`hf:` sources by the hub's own client against a server on loopback that speaks the hub's protocol."""

import hashlib
import json
import os
import resource
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "somebody/english"
PROGRAM = """
import sys
from pathlib import Path
from asr_contract.errors import BuilderError
from model_builder.progress import NullReporter
from model_builder.stages import fetch
try:
    found = fetch.run(sys.argv[1], Path(sys.argv[2]), NullReporter())
    print(found.path, found.sha256, found.revision)
except BuilderError as error:
    print(error.reason, 'transient' if error.transient else 'lasting', error)
"""


class Hub(ThreadingHTTPServer):
    """A hub with one repository.

    Attributes:
        files: Its files.
        listed: SHA-256 that it lists for each.
        sizes: Bytes that it lists of some, in place of their own.
        sent: Bytes of files that it sent.
        failing: Status that it answers instead, by the beginning of the path.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.listed: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.sent = 0
        self.failing: dict[str, int] = {}

    def add(self, name: str, content: bytes) -> None:
        self.files[name] = content
        self.listed[name] = hashlib.sha256(content).hexdigest()


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        failing = [status for start, status in self.server.failing.items() if path.startswith(start)]
        if failing:
            self.answer(failing[0], b"{}")
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            siblings = [
                {
                    "rfilename": name,
                    "size": size,
                    "lfs": {"sha256": self.server.listed[name], "size": size, "pointerSize": 134},
                }
                for name, content in self.server.files.items()
                for size in [self.server.sizes.get(name, len(content))]
            ]
            self.answer(200, json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/{REPOSITORY}/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            content = self.server.files[name]
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.answer(
                206 if start else 200,
                content[start:],
                {"ETag": f'"{self.server.listed[name]}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
                | ({"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}),
            )
            self.server.sent += 0 if self.command == "HEAD" else len(content) - start
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ((headers or {}) | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fetched(hub: Hub, source: str, folder: Path, *, limit: int = resource.RLIM_INFINITY) -> str:
    """What the stage says, in a process of its own: the hub's client reads its environment when it is imported.

    `limit` is the size in bytes that no file on disk can exceed.
    """
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, source, str(folder)],
        env=os.environ | settings | {"HF_HOME": str(folder / "hub"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    return done.stdout.strip()


def test_a_checkpoint_of_the_hub_is_fetched_once_and_named_by_its_commit(hub: Hub, tmp_path: Path) -> None:
    content = secrets.token_bytes(3_000_000)
    hub.add("english.nemo", content)
    hub.add("README.md", b"a card")
    said = fetched(hub, f"hf:{REPOSITORY}@main", tmp_path)
    assert said == f"{tmp_path / 'english.nemo'} {hashlib.sha256(content).hexdigest()} {COMMIT}"
    assert fetched(hub, f"hf:{REPOSITORY}", tmp_path) == said
    assert hub.sent == len(content)


def test_a_file_that_is_not_the_one_that_the_hub_lists_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.add("english.nemo", b"some bytes")
    hub.listed["english.nemo"] = "0" * 64
    assert "but lists 0000" in fetched(hub, f"hf:{REPOSITORY}", tmp_path)
    assert not (tmp_path / "english.nemo").exists()


@pytest.mark.parametrize("names", [[], ["a.nemo", "b.nemo"]])
def test_a_repository_must_hold_one_checkpoint(hub: Hub, tmp_path: Path, names: list[str]) -> None:
    for name in names:
        hub.add(name, b"")
    assert fetched(hub, f"hf:{REPOSITORY}", tmp_path).startswith(
        f"SourceUnavailable lasting {REPOSITORY} holds {len(names)} .nemo files"
    )


def test_a_repository_for_other_libraries_is_said_to_be_one(hub: Hub, tmp_path: Path) -> None:
    hub.add("config.json", b"{}")
    hub.add("model.safetensors", b"weights")
    said = fetched(hub, f"hf:{REPOSITORY}", tmp_path)
    assert "It holds config.json, model.safetensors; models for other libraries than NeMo are not supported" in said


def test_a_checkpoint_that_is_listed_as_too_large_is_not_downloaded(hub: Hub, tmp_path: Path) -> None:
    hub.add("parakeet-ctc-0.6b.nemo", b"some bytes")
    hub.sizes["parakeet-ctc-0.6b.nemo"] = 2_436_000_000
    said = fetched(hub, f"hf:{REPOSITORY}", tmp_path)
    assert said.startswith(f"CheckpointUnsupported lasting {REPOSITORY}/parakeet-ctc-0.6b.nemo has 2.44 GB")
    assert hub.sent == 0


def test_a_repository_that_is_not_there_or_not_ours_to_read_is_told(hub: Hub, tmp_path: Path) -> None:
    assert "is not on the hub, or is private: set HF_TOKEN" in fetched(hub, "hf:nobody/nothing", tmp_path)


@pytest.mark.parametrize("part", ["/api", f"/{REPOSITORY}"], ids=["what there is", "the file"])
@pytest.mark.parametrize(("status", "kind"), [(503, "transient"), (429, "transient"), (403, "lasting")])
def test_a_hub_that_is_down_or_busy_may_be_asked_again_and_one_that_refuses_not(
    hub: Hub, tmp_path: Path, part: str, status: int, kind: str
) -> None:
    hub.add("english.nemo", b"some bytes")
    hub.failing[part] = status
    said = fetched(hub, f"hf:{REPOSITORY}", tmp_path)
    assert said.startswith(f"SourceUnavailable {kind} cannot fetch {REPOSITORY}@main from the hub: ")
    assert str(status) in said


def test_a_hub_that_is_not_there_may_be_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.shutdown()
    hub.server_close()
    assert fetched(hub, f"hf:{REPOSITORY}", tmp_path).startswith("SourceUnavailable transient cannot fetch")


def test_a_disk_that_is_full_is_no_fault_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.add("english.nemo", secrets.token_bytes(3_000_000))
    assert fetched(hub, f"hf:{REPOSITORY}", tmp_path, limit=2_000_000).startswith("WorkFolderUnusable lasting")
