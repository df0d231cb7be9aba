"""Runs a server that must not outlive the process that started it: `python -m model_builder.tether COMMAND...`.

The starter holds this process's standard input open. When it closes, because the starter is done or was killed, the
server's whole process group is killed. Triton needs this: its Python models do not always end with it (the stub of a
killed server can wait for it for ever, with the interpreter's lock held). SIGTERM is passed on. The starter gives this
process a session of its own, so that Ctrl-C and the end of a terminal reach the starter alone.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress


def main(command: list[str]) -> int:
    """Run `command` to its end; returns its exit code, 128 + N for signal N."""
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def kill_group() -> None:
        with suppress(ProcessLookupError):  # none is left
            os.killpg(server.pid, signal.SIGKILL)

    def watch() -> None:
        sys.stdin.buffer.read()
        kill_group()

    signal.signal(signal.SIGTERM, lambda _signal, _frame: server.terminate())
    threading.Thread(target=watch, daemon=True).start()
    code = server.wait()
    kill_group()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # the watching thread still reads
