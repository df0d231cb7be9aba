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

from tools.testcluster.cluster import ApiServer
from tools.testcluster.pki import Signed, kubeconfig

CHANGES = {"POST", "PATCH", "PUT", "DELETE"}
NOT_FORWARDED = {"host", "connection"}


@dataclass(slots=True)
class Refusals:
    """What becomes of the next changes.

    Attributes:
        kubeconfig: Of this way to the API server.
        codes: HTTP status of the next refusals, oldest first; afterwards all pass.
        only: Refused are paths that contain this; all others pass.
        refused: Method and path of what was refused.
    """

    kubeconfig: Path
    codes: list[int] = field(default_factory=list)
    only: str = ""
    refused: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def refusing(server: ApiServer, folder: Path) -> Iterator[Refusals]:
    """Run the proxy while the block runs. It asks as the cluster's administrator."""
    pki = server.folder / "pki"
    refusals = Refusals(folder / "kubeconfig")
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(pki / "server.crt", pki / "server.key")
    with Proxy(server, refusals) as proxy:
        proxy.socket = ours.wrap_socket(proxy.socket, server_side=True)
        url = f"https://127.0.0.1:{proxy.server_address[1]}"
        admin = Signed(pki / "admin.crt", pki / "admin.key")
        refusals.kubeconfig.write_text(kubeconfig(url, pki / "ca.crt", admin))
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield refusals
        finally:
            proxy.shutdown()


class Proxy(http.server.ThreadingHTTPServer):
    """See above."""

    daemon_threads = True

    def __init__(self, server: ApiServer, refusals: Refusals) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self._refusals, self._lock = refusals, threading.Lock()
        self._there = urlsplit(server.url)
        pki = server.folder / "pki"
        self._context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._context.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    def refusal(self, method: str, path: str) -> int | None:
        """The status that a request is refused with; None if it passes."""
        with self._lock:
            changes = method in CHANGES and "dryRun=" not in path
            if not changes or not self._refusals.codes or self._refusals.only not in path:
                return None
            self._refusals.refused.append((method, path))
            return self._refusals.codes.pop(0)

    def connection(self) -> http.client.HTTPSConnection:
        """To the API server."""
        return http.client.HTTPSConnection(self._there.hostname or "", self._there.port, context=self._context)


class Handler(http.server.BaseHTTPRequestHandler):
    """Of one connection."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def forward(self) -> None:
        """Hand a request on, or refuse it."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if (code := self.server.refusal(self.command, self.path)) is not None:
            told = {"kind": "Status", "status": "Failure", "code": code, "message": f"refused with {code}"}
            self.answer(code, json.dumps(told).encode())
            return
        kept = {name: value for name, value in self.headers.items() if name.lower() not in NOT_FORWARDED}
        with closing(self.server.connection()) as connection:
            connection.request(self.command, self.path, body, kept)
            response = connection.getresponse()
            if "watch=true" in self.path:
                self.stream(response)
            else:
                self.answer(response.status, response.read())

    def answer(self, code: int, body: bytes) -> None:
        """All at once."""
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code == http.HTTPStatus.TOO_MANY_REQUESTS:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def stream(self, response: http.client.HTTPResponse) -> None:
        """As it comes: a watch."""
        self.send_response(response.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        while line := response.readline():
            self.wfile.write(line)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = forward  # noqa: N815 (names of the base class)

    def log_message(self, *_: object) -> None:
        """The operator's own log is enough."""

    def handle(self) -> None:
        """Until the connection ends."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the operator has ended
