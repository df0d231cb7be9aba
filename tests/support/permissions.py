"""A proxy on loopback before an S3 server that refuses requests as S3 refuses keys that may do less."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

REFUSAL = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
)
DELETE = "DELETE"


@dataclass(slots=True)
class Permissions:
    """What is refused, and what was asked.

    Attributes:
        refused: Methods; `DELETE` is also the request that S3's clients send with POST.
        url: Where the proxy listens.
        asked: Method and path of each request.
    """

    refused: frozenset[str]
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def limited(server: str, *refused: str) -> Iterator[Permissions]:
    """Run a proxy to the S3 server at this URL, without these methods, while the block runs."""
    permissions = Permissions(frozenset(refused))
    address = urlsplit(server)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = DELETE if self.path.endswith("?delete") else self.command
            permissions.asked.append((kind, self.path))
            if kind in permissions.refused:
                self.answer(403, {"Content-Type": "application/xml"}, REFUSAL)
                return
            connection = http.client.HTTPConnection(str(address.hostname), address.port)
            connection.request(self.command, self.path, content, dict(self.headers))
            found = connection.getresponse()
            self.answer(found.status, dict(found.getheaders()), found.read())
            connection.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one  # noqa: N815 (its base class calls them so)

        def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            kept = {name: value for name, value in headers.items() if name.lower() != "transfer-encoding"}
            for name, value in ({"Content-Length": str(len(content))} | kept).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        permissions.url = f"http://127.0.0.1:{proxy.server_address[1]}"
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield permissions
        finally:
            proxy.shutdown()
