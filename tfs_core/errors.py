"""Exceptions for errors that the user can fix, as opposed to bugs in tfs.

A message names the component and the place, the expected value, and the remedy. The command line prints it without a
traceback and exits with `exit_code`: 2 for usage and configuration errors, 1 for most others. Bugs in tfs raise other
exceptions, which keep their traceback.
"""


class TfsError(Exception):
    """Base class of errors that the user can cause and fix (exit code 1 unless a subclass changes it)."""

    exit_code = 1


def short_message(error: Exception) -> str:
    """Return the type of a library's exception and the beginning of its message: compilers may report many lines.

    If the first line ends with a colon, as in `BackendCompilerFailed: backend='inductor' raised:`, the second is added.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    return f"{type(error).__name__}: {message[:300]}" if message else type(error).__name__


class UsageError(TfsError):
    """Invalid arguments or an invalid combination of them (exit code 2)."""

    exit_code = 2


class ConfigError(TfsError):
    """Invalid configuration (exit code 2)."""

    exit_code = 2


class PluginError(TfsError):
    """A plugin is missing, broken, or ambiguous."""


class DataError(TfsError):
    """A data set or a tokenizer is unavailable, unreadable, or has invalid content."""


class CheckpointError(TfsError):
    """A checkpoint or a run folder is missing, damaged, or does not match the model."""


class NewerFormatError(CheckpointError):
    """A file was written by a newer tfs, in a format that this one cannot read. It is not damaged: upgrade tfs."""


class TrainingError(TfsError):
    """Training cannot continue: a non-finite loss, a full disk, a run that is locked by another process."""


class RecordError(TrainingError):
    """The record of a run cannot be written. Raised by a logger, it ends the run, which can be resumed."""


class StoppedBySignalError(TrainingError):
    """Training stopped after a signal, with a checkpoint saved (exit code 128 + the number of the signal)."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
