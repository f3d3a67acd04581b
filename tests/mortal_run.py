"""A training process that kills itself at a chosen moment. Used by `tests/test_resume.py` and other tests.

The global `arguments` (set by the caller of this file) are those of `tfs_core.run`, with one of these in addition:

    die_after_step      SIGKILL directly after the metrics line of this step was written
    die_at_file_call    SIGKILL instead of the n-th call that syncs, moves or deletes a file, counted from the first
                        step: in the middle of a save, for example
    signal_after_step   (signal number, step): the process sends itself a signal, as Ctrl-C does
    calls_path          file for the number of these calls, written at the end

and optionally

    environment         environment variables; Hugging Face variables of the test process are then removed
    constants           {"module.NAME": value}: replaced module constants
    output_path         file for stdout and stderr of the process
"""

import importlib
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import tfs_core
from tfs_core.builtin.jsonl import JsonlLogger
from tfs_core.errors import TfsError
from tfs_core.records import StepRecord

FILE_CALLS = [(os, "fsync"), (os, "replace"), (os, "rename"), (os, "mkdir"), (shutil, "rmtree"), (os, "unlink")]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def count_file_calls(die_at: int | None, calls: list[str]) -> None:
    """Count all file calls. Call number `die_at` is not executed: the process kills itself."""

    def counted(name: str, original: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) == die_at:
                die()
            return original(*arguments, **named)

        return call

    for module, name in FILE_CALLS:
        setattr(module, name, counted(name, getattr(module, name)))


def main(
    *,
    die_after_step: int | None = None,
    die_at_file_call: int | None = None,
    signal_after_step: tuple[int, int] | None = None,
    calls_path: str | None = None,
    environment: dict[str, str] | None = None,
    constants: dict[str, Any] | None = None,
    output_path: str | None = None,
    **arguments: Any,
) -> None:
    if environment is not None:
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "http", "HTTP"))]:
            del os.environ[name]
        os.environ.update(environment)
    for name, value in (constants or {}).items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(module), constant, value)
    if output_path is not None:
        output = os.open(output_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
    calls: list[str] = []
    original_on_step = JsonlLogger.on_step

    def on_step(logger: JsonlLogger, record: StepRecord) -> None:
        original_on_step(logger, record)
        if record.step == die_after_step:
            die()
        if signal_after_step is not None and record.step == signal_after_step[1]:
            os.kill(os.getpid(), signal_after_step[0])
        if record.step == 1 and (die_at_file_call or calls_path):
            count_file_calls(die_at_file_call, calls)

    JsonlLogger.on_step = on_step  # type: ignore[method-assign]
    try:
        tfs_core.run(**arguments)
    except TfsError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    if calls_path is not None:
        Path(calls_path).write_text(str(len(calls)), encoding="utf-8")


main(**arguments)  # type: ignore[name-defined]  # noqa: F821
