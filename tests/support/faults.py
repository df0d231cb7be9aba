"""A TCP proxy on loopback that does to connections what networks and overloaded servers do."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
CHUNK = 65_536


@dataclass(slots=True)
class Faults:
    """What happens to the next connections, one fault each, oldest first; then they pass.

    Attributes:
        refuse: Answer so many connections with 503.
        cut_after: Close a connection when so many bytes went to the server, one entry a connection.
        url: Where the proxy listens.
        seen: Connections so far.
    """

    refuse: int = 0
    cut_after: list[int] = field(default_factory=list)
    url: str = ""
    seen: int = 0


@contextmanager
def faulty(host: str, port: int) -> Iterator[Faults]:
    """Run a proxy to `host:port` while the block runs."""
    faults = Faults()
    lock = threading.Lock()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with lock:
                faults.seen += 1
                refuse = faults.refuse > 0
                faults.refuse -= refuse
                limit = faults.cut_after.pop(0) if faults.cut_after and not refuse else None
            if refuse:
                self.request.recv(CHUNK)
                self.request.sendall(UNAVAILABLE)
                return
            with socket.create_connection((host, port)) as server:
                back = threading.Thread(target=pump, args=(server, self.request, None), daemon=True)
                back.start()
                pump(self.request, server, limit)
                if limit is None:
                    back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as proxy:
        proxy.daemon_threads = True
        faults.url = f"http://127.0.0.1:{proxy.server_address[1]}"
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield faults
        finally:
            proxy.shutdown()


def pump(source: socket.socket, target: socket.socket, limit: int | None) -> None:
    """Copy until the end, or until `limit` bytes are through and the connection is torn down."""
    passed = 0
    with suppress(OSError):  # the other side is gone, which is what this proxy is for
        while chunk := source.recv(CHUNK):
            passed += len(chunk)
            if limit is not None and passed >= limit:
                break
            target.sendall(chunk)
    for end in (source, target):
        with suppress(OSError):  # already closed
            end.shutdown(socket.SHUT_RDWR)
