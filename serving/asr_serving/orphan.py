"""A Python model that outlives its server: Triton's stub does not always end when the server is killed."""

import os
import threading
import time

PERIOD_SECONDS = 2.0


def exit_with_parent() -> None:
    """End this process soon after the server that started it is gone, whatever its threads wait for."""
    server = os.getppid()

    def watch() -> None:
        while os.getppid() == server:
            time.sleep(PERIOD_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="exit-with-parent", daemon=True).start()
