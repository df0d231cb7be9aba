"""What a call between models that failed means to the client. Pure."""

REFUSED = ("not ready", "stopping", "no available versions", "unloading")
"""How Triton refuses calls between models while it starts and ends, in whichever words its releases put it."""


def is_refused(message: str) -> bool:
    """Whether Triton did not take the call."""
    return any(words in message.lower() for words in REFUSED)


def status(message: str, *, ending: bool) -> str:
    """Triton's name of the error that the client is to get.

    A client that hears UNAVAILABLE knows to ask elsewhere.

    Args:
        message: Of the failed call.
        ending: The server ends. It then takes down models that still compute; what they complain of can be anything.
    """
    return "UNAVAILABLE" if ending or is_refused(message) else "INTERNAL"
