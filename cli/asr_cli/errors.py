"""Exit codes of the command `asr`, and the errors that lead to them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import typer

from asr_cli.terminal import show_message

SOME_FAILED = 1
WRONG_USAGE = 2
NO_SERVER = 3
INTERRUPTED = 130
CLIENT_PACKAGES = {"google", "grpc", "numpy", "soundfile", "soxr", "tenacity", "tritonclient"}
"""Packages of the extra `client`. The extra `kubernetes` has them as well, and all others that the command needs."""


@contextmanager
def errors_reported() -> Iterator[None]:
    """Report an error that the user can correct in one line, and exit with its code."""
    from asr_client.plot import PlottingMissingError  # noqa: PLC0415
    from asr_client.transcription import AudioTooLongError, ServerUnavailableError  # noqa: PLC0415
    from asr_client.word_errors import WordErrorsError  # noqa: PLC0415

    try:
        yield
    except ServerUnavailableError as error:
        show_message(str(error))
        raise typer.Exit(NO_SERVER) from error
    except (PlottingMissingError, WordErrorsError, AudioTooLongError) as error:
        show_message(str(error))
        raise typer.Exit(WRONG_USAGE) from error
    except KeyboardInterrupt:
        # At once: Python would wait for threads that read, such as a FIFO that nobody writes to.
        with suppress(OSError):
            print(end="", flush=True)  # noqa: T201 (also where standard output is closed)
        os._exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader has what it wanted, such as `head`: typer ends quietly.
        raise
    except OSError as error:
        show_message(str(error))
        raise typer.Exit(SOME_FAILED) from error


def missing_package(error: ModuleNotFoundError) -> str:
    """The message that names the extra which installs the missing package."""
    package = (error.name or "").partition(".")[0]
    extra = "client" if package in CLIENT_PACKAGES else "kubernetes"
    return f"{error.name} is not installed: pip install '.[{extra}]' in the project's folder"
