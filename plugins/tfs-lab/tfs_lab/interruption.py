"""A `tfs` command that sends itself a signal: `python -m tfs_lab.interruption SIGNAL STEP OPERATION run ...`

The moment is a step and a number of file operations instead of a time, so it does not depend on the speed of the
machine, and each file operation of a save can be hit.
"""

import os
import signal
import sys
from typing import Any

from tfs_core.builtin.jsonl import JsonlLogger
from tfs_core.cli.main import tfs
from tfs_core.records import StepRecord

FILE_EVENTS = {"os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"}
"""Audit events (PEP 578) of operations that change files; `open` is one, too, when it opens a file for writing."""


def interrupt(number: signal.Signals, *, step: int, operation: int) -> None:
    """Make this process send itself the signal once, after it has logged `step` or a later step.

    `operation` is the number of the file operation, counted from that step on, that is not executed because the signal
    comes first. With 0, the signal follows directly after the line of `metrics.jsonl`.
    """
    log_step = JsonlLogger.on_step
    is_due, operations = False, 0

    def on_step(logger: JsonlLogger, record: StepRecord) -> None:
        nonlocal is_due
        log_step(logger, record)
        if record.step >= step and not is_due:
            is_due = True
            if operation == 0:
                os.kill(os.getpid(), number)

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal operations
        if is_due and _changes_files(event, arguments):
            operations += 1
            if operations == operation:
                os.kill(os.getpid(), number)

    JsonlLogger.on_step = on_step  # type: ignore[method-assign, assignment]
    sys.addaudithook(count)


def _changes_files(event: str, arguments: tuple[Any, ...]) -> bool:
    return event in FILE_EVENTS or (event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR)))


if __name__ == "__main__":
    name, step, operation, *arguments = sys.argv[1:]
    interrupt(signal.Signals[name], step=int(step), operation=int(operation))
    tfs(arguments)
