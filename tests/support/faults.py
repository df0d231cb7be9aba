"""A TCP proxy on loopback that does to connections what networks and overloaded servers do."""

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
CHUNK = 65_536


@dataclass(slots=True)
class Faults:
    """What happens to the next connections, one fault each, oldest first; then they pass.

    Attributes:
        refuse: Answer so many connections with 503.
        hang: Take all that so many connections send, and never answer.
        cut_after: Close a connection when so many bytes went to the server, one entry a connection.
        cut_answer_after: The same for bytes that came from the server.
        bytes_per_second: How fast each connection sends to the server; 0 for as fast as it can.
        url: Where the proxy listens.
        seen: Connections so far.
        passed: Bytes that came from the server so far.
    """

    refuse: int = 0
    hang: int = 0
    cut_after: list[int] = field(default_factory=list)
    cut_answer_after: list[int] = field(default_factory=list)
    bytes_per_second: float = 0.0
    url: str = ""
    seen: int = 0
    passed: int = 0


@contextmanager
def faulty(host: str, port: int) -> Iterator[Faults]:
    """Run a proxy to `host:port` while the block runs."""
    faults = Faults()
    lock = threading.Lock()

    def count(size: int) -> None:
        with lock:
            faults.passed += size

    def pace(size: int) -> None:
        if faults.bytes_per_second:
            time.sleep(size / faults.bytes_per_second)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with lock:
                faults.seen += 1
                refuse = faults.refuse > 0
                faults.refuse -= refuse
                hang = faults.hang > 0 and not refuse
                faults.hang -= hang
                limit = faults.cut_after.pop(0) if faults.cut_after and not refuse else None
                answer_limit = faults.cut_answer_after.pop(0) if faults.cut_answer_after and not refuse else None
            if hang:
                while self.request.recv(CHUNK):
                    continue
                return
            if refuse:
                self.request.recv(CHUNK)
                self.request.sendall(UNAVAILABLE)
                return
            with socket.create_connection((host, port)) as server:
                back = threading.Thread(target=pump, args=(server, self.request, answer_limit, count), daemon=True)
                back.start()
                pump(self.request, server, limit, pace)
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


def pump(source: socket.socket, target: socket.socket, limit: int | None, told: Callable[[int], None]) -> None:
    """Copy until the end, or until `limit` bytes are through and the connection is torn down."""
    passed = 0
    with suppress(OSError):  # the other side is gone, which is what this proxy is for
        while chunk := source.recv(CHUNK):
            passed += len(chunk)
            if limit is not None and passed >= limit:
                break
            target.sendall(chunk)
            told(len(chunk))
    for end in (source, target):
        with suppress(OSError):  # already closed
            end.shutdown(socket.SHUT_RDWR)
