"""What stops a reconcile: for now, or until something is changed."""


class OperatorError(Exception):
    """Base of the operator's own errors."""


class TransientError(OperatorError):
    """The API server cannot be asked now: the key is tried again later."""


class StalledError(OperatorError):
    """Trying again cannot help; the user has to change something.

    Args:
        reason: One word, of `events.Reason`.
        message: What to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class SettingsError(OperatorError):
    """The operator's own settings cannot be used."""
