"""The page of exit codes, from the errors of the model builder and the help of the client."""

from collections.abc import Iterator

import asr_cli.main
from asr_contract import errors
from asr_contract.errors import BuilderError
from tools.reference.markdown import escape, page, table


def render() -> str:
    """The page."""
    _, _, client = str(asr_cli.main.app.info.help).partition("Exit codes: ")
    return page(
        "Exit codes",
        "## model-builder",
        "A transient error may pass when the same command runs again. Every other error needs a change first. The "
        "operator reports the reason in the conditions of the AsrDeployment.",
        table(("code", "reason", "transient", "meaning"), _builder()),
        "## asr",
        escape(client[:1].upper() + client[1:]),
        "## asr-operator",
        "`asr-operator check`: 0 all AsrDeployments are valid, 1 an error, 2 wrong usage.",
    )


def _builder() -> Iterator[tuple[str, ...]]:
    yield ("0", "", "", "Success.")
    yield ("1", "`Failed`", "no", "An error in the program itself.")
    yield ("2", "", "no", "Wrong usage.")
    found = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, BuilderError)]
    for error in sorted(found, key=lambda item: (item.exit_code, item.transient)):
        if error is not BuilderError:
            text = (error.__doc__ or "").partition("\n\n")[0]
            yield (str(error.exit_code), f"`{error.reason}`", "yes" if error.transient else "no", escape(text))
    yield ("130", "", "", "Interrupted by Ctrl-C (SIGINT).")
    yield ("143", "", "", "Ended by SIGTERM.")
