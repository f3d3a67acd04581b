"""What a user can cause. Each error says who, where, what was expected and what to do, in a sentence or two.

The command line prints the message without a traceback and exits with `exit_code`: 2 for usage and configuration,
1 for the rest. Our own bugs are not TfsErrors: they keep their traceback.
"""


class TfsError(Exception):
    """Something a user can cause and can put right."""

    exit_code = 1


def in_short(error: Exception) -> str:
    """Return the type of somebody else's error and the first line of what it says: a compiler may say pages.

    The first that says something: `BackendCompilerFailed: backend='inductor' raised:` leaves it to the next.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class UsageError(TfsError):
    """The command line asks for something that makes no sense (exit code 2)."""

    exit_code = 2


class ConfigError(TfsError):
    """The configuration is wrong; raised before any data is touched (exit code 2)."""

    exit_code = 2


class PluginError(TfsError):
    """A plugin is missing, broken, or ambiguous."""


class DataError(TfsError):
    """A data set or a tokenizer cannot be had, or does not hold what it should."""


class CheckpointError(TfsError):
    """A checkpoint or a run folder is missing, damaged, or does not fit."""


class TrainingError(TfsError):
    """Training cannot go on: a non-finite loss, a full disk, a run that is locked by another process."""


class StoppedBySignalError(TrainingError):
    """Ctrl-C or SIGTERM ended training in good order: a checkpoint is saved (exit code 128 + the signal's number)."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
