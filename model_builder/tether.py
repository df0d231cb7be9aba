"""Runs a server that must not outlive the process that started it: `python -m model_builder.tether REGIONS COMMAND...`.

The starter holds this process's standard input open. When it closes, because the starter is done or was killed, the
server's whole process group is killed. Triton needs this: its Python models do not always end with it (the stub of a
killed server can wait for it for ever, with the interpreter's lock held). SIGTERM is passed on. The starter gives this
process a session of its own, so that Ctrl-C and the end of a terminal reach the starter alone.

A server that is killed leaves its regions of shared memory behind, 16 MiB and more of each Python model. Those whose
names begin with REGIONS, which are this server's alone, are removed at the end.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


def main(regions: str, command: list[str]) -> int:
    """Run `command` to its end and remove its `regions`; returns its exit code, 128 + N for signal N."""
    stopping = False
    server: subprocess.Popen[bytes] | None = None

    def terminate(_signal: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True
        if server is not None:
            server.terminate()

    # Before there is a server: SIGTERM would else end this process alone.
    signal.signal(signal.SIGTERM, terminate)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    if stopping:
        server.terminate()

    def kill_group() -> None:
        with suppress(ProcessLookupError):  # none is left
            os.killpg(server.pid, signal.SIGKILL)

    def watch() -> None:
        sys.stdin.buffer.read()
        kill_group()

    threading.Thread(target=watch, daemon=True).start()
    code = server.wait()
    kill_group()
    for region in SHARED_MEMORY.glob(f"{regions}*"):
        region.unlink(missing_ok=True)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    code = main(sys.argv[1], sys.argv[2:])
    sys.stdout.flush()
    os._exit(code)  # the watching thread still reads
