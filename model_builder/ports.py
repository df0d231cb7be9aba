"""Free TCP ports for servers that are started next."""

import socket


def reserve(count: int, host: str = "127.0.0.1") -> list[int]:
    """Free ports of `host` that no other program is given before this process ends.

    They stay bound, without anybody who listens. A server that sets SO_REUSEADDR, as servers do, may listen on them all
    the same; a program that asks for any free port, or connects from one, gets another.
    """
    ports = []
    for _ in range(count):
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, 0))
        ports.append(int(bound.getsockname()[1]))
        bound.detach()  # from now on the process holds it, and its end closes it
    return ports
