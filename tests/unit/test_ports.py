"""Ports of `model-builder serve`, before a server is started."""

import socket
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from model_builder.cli import app
from model_builder.triton import Ports

LISTEN = "import socket, sys; socket.create_server(('127.0.0.1', int(sys.argv[1])))"
TAKE = "import socket, sys; socket.socket().bind(('127.0.0.1', int(sys.argv[1])))"


def test_a_port_that_is_taken_is_told_with_the_option_that_chooses_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["serve", str(tmp_path), "--grpc-port", str(port)])

    assert result.exit_code == 40
    assert result.stderr == f"ServerUnavailable: port {port} is in use; choose another with --grpc-port\n"


def test_one_port_for_two_services_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = str(found.getsockname()[1])
    result = CliRunner().invoke(app, ["serve", str(tmp_path), "--grpc-port", port, "--http-port", port])

    assert result.exit_code == 40
    assert "choose another with --http-port" in result.stderr


def test_a_free_port_stays_free_for_the_server_that_it_is_meant_for() -> None:
    port = str(Ports.free().http)

    assert subprocess.run([sys.executable, "-c", LISTEN, port], check=False).returncode == 0
    taken = subprocess.run([sys.executable, "-c", TAKE, port], check=False, capture_output=True, text=True)
    assert "Address already in use" in taken.stderr
