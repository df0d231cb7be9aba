"""A proxy before an API server that refuses changes, as an overloaded one or another writer makes it do."""

import http.client
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.cluster.cluster import ApiServer
from tests.cluster.pki import Signed, kubeconfig

CHANGES = {"POST", "PATCH", "PUT", "DELETE"}


@dataclass(slots=True)
class Refusals:
    """What becomes of the next changes.

    Attributes:
        codes: HTTP status of the next refusals, oldest first; afterwards all pass.
        kubeconfig: Of this way to the API server.
        refused: Method and path of what was refused.
    """

    kubeconfig: Path
    codes: list[int] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def refusing(server: ApiServer, folder: Path) -> Iterator[Refusals]:
    """Run the proxy while the block runs. It asks as the cluster's administrator."""
    pki = server.folder / "pki"
    refusals = Refusals(folder / "kubeconfig")
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(pki / "server.crt", pki / "server.key")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(server, refusals)) as proxy:
        proxy.daemon_threads = True
        proxy.socket = ours.wrap_socket(proxy.socket, server_side=True)
        url = f"https://127.0.0.1:{proxy.server_address[1]}"
        admin = Signed(pki / "admin.crt", pki / "admin.key")
        refusals.kubeconfig.write_text(kubeconfig(url, pki / "ca.crt", admin))
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield refusals
        finally:
            proxy.shutdown()


def _handler(server: ApiServer, refusals: Refusals) -> type[http.server.BaseHTTPRequestHandler]:
    pki = server.folder / "pki"
    lock = threading.Lock()
    there = urlsplit(server.url)
    to_server = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    to_server.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                code = refusals.codes.pop(0) if self.command in CHANGES and refusals.codes else None
                if code is not None:
                    refusals.refused.append((self.command, self.path))
            if code is not None:
                told = {"kind": "Status", "status": "Failure", "code": code, "message": f"refused with {code}"}
                self.answer(code, json.dumps(told).encode())
                return
            connection = http.client.HTTPSConnection(there.hostname or "", there.port, context=to_server)
            kept = {name: value for name, value in self.headers.items() if name.lower() not in {"host", "connection"}}
            with closing(connection):
                connection.request(self.command, self.path, body, kept)
                response = connection.getresponse()
                if "watch=true" not in self.path:
                    self.answer(response.status, response.read())
                    return
                self.send_response(response.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Connection", "close")
                self.end_headers()
                while line := response.readline():
                    self.wfile.write(line)

        def answer(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if code == http.HTTPStatus.TOO_MANY_REQUESTS:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = forward  # noqa: N815 (names of the base class)

        def log_message(self, *_: object) -> None:
            """The operator's own log is enough."""

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                self.close_connection = True  # the operator has ended

    return Handler
