"""Entry point of `model-builder`: from its first moment on, Ctrl-C and SIGTERM end it with 130 and 143, in one line.

The command line itself takes a second to import, so it is imported here and not at the top.
"""

import signal
import sys


class TerminatedError(SystemExit):
    """SIGTERM came before the command could handle it."""


def main() -> None:
    """Run the command."""

    def leave(number: int, _frame: object) -> None:
        raise TerminatedError(128 + number)

    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, leave)
    try:
        from model_builder import cli  # noqa: PLC0415

        cli.main()
    except (KeyboardInterrupt, TerminatedError) as error:
        sys.stderr.write("Interrupted\n")
        sys.exit(128 + (signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM))


if __name__ == "__main__":
    main()
