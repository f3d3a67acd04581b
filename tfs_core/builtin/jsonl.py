"""The logger `jsonl`: the run folder's `.jsonl` files, one line per record, appended with a single write.

The record is as durable as the weights. A line that the disk does not take, because it is full, is kept and written
before the next one; a checkpoint is saved only when all lines before it are on the disk.

The format is specified in docs/formats.md. The keys of a line are the fields of its record in `tfs_core.records`, in
the same order. The JSON is strict: floats always have a point or an exponent, and numbers that are not
finite are written as null.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from tfs_core.contracts import RunContext, RunLogger
from tfs_core.durable import replace, sync_folder
from tfs_core.errors import RecordError
from tfs_core.records import EventRecord, SampleRecord, StepRecord, ValidationRecord
from tfs_core.run_folder import now
from tfs_core.runs import MAX_LINE_BYTES, parse_line

FILES: dict[type, str] = {
    StepRecord: "metrics.jsonl",
    ValidationRecord: "validation.jsonl",
    SampleRecord: "samples.jsonl",
    EventRecord: "events.jsonl",
}

RETRY_SECONDS = 10.0
"""Seconds for which a checkpoint waits until a full disk has room for the lines before it; then the run ends."""

MAX_WAITING_BYTES = 1 << 24
"""Limit on the lines that wait for room on the disk; above it the run ends."""

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def build(config: None, *, run: RunContext) -> "JsonlLogger":  # noqa: ARG001 (it has no options)
    """Return the logger of a run."""
    return JsonlLogger(run.folder, start_step=run.start_step, tell=run.tell)


class JsonlLogger(RunLogger):
    """Writes `metrics.jsonl`, `validation.jsonl`, `samples.jsonl` and `events.jsonl`.

    Raises RecordError when lines cannot be written for too long: they would be missing from the record.
    """

    def __init__(self, folder: Path, *, start_step: int = 0, tell: Callable[[EventRecord], None] | None = None) -> None:
        self.folder = folder
        self.start_step = start_step
        self._tell = tell
        self._has_told = False  # that lines are waiting
        self._files: dict[type, LogFile] = {}

    def on_start(self) -> None:
        """Move lines after the start step, written by an earlier session, to `aside/`; then open the files.

        Raises RecordError when the disk does not take them.
        """
        path = self.folder
        try:
            for record_type, name in FILES.items():
                path = self.folder / name
                truncate_after_step(path, self.start_step)
                self._files[record_type] = LogFile(path, record_type)
            sync_folder(self.folder)
        except OSError as error:
            raise _record_error(f"{path} cannot be written ({error.strerror})") from error

    def on_step(self, record: StepRecord) -> None:
        self._append(record)

    def on_validation(self, record: ValidationRecord) -> None:
        self._append(record)

    def on_sample(self, record: SampleRecord) -> None:
        self._append(record)

    def on_event(self, record: EventRecord) -> None:
        self._append(record)

    def _append(self, record: StepRecord | ValidationRecord | SampleRecord | EventRecord) -> None:
        problem = self._files[type(record)].append(record)
        if problem and self._tell and not self._has_told:
            self._has_told = True  # first: this logger receives the event, too
            message = f"{problem}: lines of the record wait until there is room"
            self._tell(EventRecord(at=now(), step=record.step, kind="warning", details={"message": message}))
        self._has_told = bool(problem)

    def on_checkpoint(self, step: int) -> None:  # noqa: ARG002 (all lines are synced)
        for file in self._files.values():
            file.sync(RETRY_SECONDS)

    def on_end(self, status: str) -> None:
        """Flush and close the files. After a failure, lines that still wait do not hide its reason.

        A resume repeats their steps, since a checkpoint is saved only after all lines before it.
        """
        try:
            for file in self._files.values():
                with suppress(RecordError) if status == "failed" else nullcontext():
                    file.sync(RETRY_SECONDS if status == "finished" else 0.0)
        finally:
            for file in self._files.values():
                file.close()
            self._files = {}


class LogFile:
    """A log file of one record type, open for appending."""

    def __init__(self, path: Path, record_type: type) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self.path = path
        self._waiting = b""  # lines, or the rest of one, that the disk has not taken
        self._descriptor = os.open(path, flags, 0o644)
        self._floats = [field.name for field in fields(record_type) if field.type is float]
        self._names_nonfinite = any(field.name == "nonfinite" for field in fields(record_type))

    def append(self, record: Any) -> str:
        """Append one line with a single write. Return an empty string, or the problem because of which lines wait.

        Raises RecordError when more than MAX_WAITING_BYTES are waiting.
        """
        values = dict(vars(record))  # in the order of the fields
        nonfinite = []
        for name in self._floats:
            value = values[name]
            if value is None:  # unknown; written only by TrainingLogger, which does not receive every value
                continue
            value = float(value)
            if not math.isfinite(value):
                nonfinite.append(name)
                value = None
            values[name] = value
        if nonfinite and self._names_nonfinite:
            values["nonfinite"] = [*values["nonfinite"], *nonfinite]
        try:
            text = _encode(values)
        except ValueError:  # a number that is not finite inside `settings` or `details`
            text = _encode(_without_nonfinite(values))
        self._waiting += f"{text}\n".encode("utf-8", "replace")
        problem = self._write()
        if len(self._waiting) > MAX_WAITING_BYTES:
            raise _record_error(problem)
        return problem

    def _write(self) -> str:
        """Write the waiting lines, as far as the disk takes them. Return the problem, an empty string if none."""
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._descriptor, self._waiting) :]
        except OSError as error:
            return f"{self.path} cannot be written ({error.strerror})"
        return ""

    def sync(self, seconds: float) -> None:
        """Write the waiting lines, and flush the file to the disk (fsync); wait for room for so many seconds at most.

        Raises RecordError when lines are still waiting then, and when the disk does not confirm the lines.
        """
        give_up_at = time.monotonic() + seconds
        while problem := self._write():
            if time.monotonic() > give_up_at:
                raise _record_error(problem)
            time.sleep(0.05)
        try:
            os.fsync(self._descriptor)
        except OSError as error:  # not repeated: a second fsync may succeed although lines of the first one are lost
            raise _record_error(f"{self.path} cannot be flushed to the disk ({error.strerror})") from error

    def close(self) -> None:
        os.close(self._descriptor)


def _record_error(problem: str) -> RecordError:
    return RecordError(f"{problem}, so the run ends here. Make room, then continue with --resume: nothing is lost.")


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(item) for item in value]
    return value


def truncate_after_step(path: Path, step: int) -> None:
    """Keep the lines of `path` up to `step`; move the rest, an incomplete last line included, to a file in `aside/`."""
    if not path.exists() or all(keep for _, keep in _sort_lines(path, step)):
        return
    kept_path, aside_path = path.with_name(f".{path.name}.kept"), _new_aside_file(path)
    try:
        with kept_path.open("wb") as kept, aside_path.open("wb") as aside:
            for line, keep in _sort_lines(path, step):
                (kept if keep else aside).write(line)
            for file in (aside, kept):
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        for unfinished in (kept_path, aside_path):
            unfinished.unlink(missing_ok=True)
        raise
    replace(kept_path, path)  # replaced instead of truncated, so that a reader that follows the file notices the change


def _sort_lines(path: Path, step: int) -> Iterator[tuple[bytes, bool]]:
    with path.open("rb") as file:
        for line in iter(lambda: file.readline(MAX_LINE_BYTES), b""):
            row = parse_line(line) if line.endswith(b"\n") else None
            yield line, row is not None and isinstance(row.get("step"), int) and row["step"] <= step


def _new_aside_file(path: Path) -> Path:
    folder = path.parent / "aside"
    folder.mkdir(exist_ok=True)
    number = 1
    while (folder / f"{path.stem}-{number}.jsonl").exists():
        number += 1
    return folder / f"{path.stem}-{number}.jsonl"
