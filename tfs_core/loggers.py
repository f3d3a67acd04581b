"""Composite of all loggers of a run: all receive every record, and observers also a view of the model."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tfs_core.contracts import ModelView, Moment, Observer, RunLogger
from tfs_core.errors import RecordError
from tfs_core.records import EventRecord, SampleRecord, StepRecord, ValidationRecord


class Loggers(RunLogger):
    """A logger that forwards every call to several loggers.

    A logger that raises an exception is reported once and removed, and training continues. Only a RecordError, raised
    again after all other loggers were called, ends the run.
    """

    def __init__(self, loggers: Sequence[RunLogger], report: Callable[[str], None]) -> None:
        self._loggers = list(loggers)
        self._report = report

    def on_start(self) -> None:
        self._call_each("on_start")

    def on_step(self, record: StepRecord) -> None:
        self._call_each("on_step", record)

    def on_validation(self, record: ValidationRecord) -> None:
        self._call_each("on_validation", record)

    def on_sample(self, record: SampleRecord) -> None:
        self._call_each("on_sample", record)

    def on_event(self, record: EventRecord) -> None:
        self._call_each("on_event", record)

    def on_checkpoint(self, step: int) -> None:
        self._call_each("on_checkpoint", step)

    def on_end(self, status: str) -> None:
        self._call_each("on_end", status)

    def add(self, logger: RunLogger) -> None:
        """Add a logger, which receives all later records."""
        self._loggers.append(logger)

    def tell(self, record: SampleRecord | EventRecord) -> None:
        """Send a record, created by one of the loggers, to all loggers.

        Raises TypeError or ValueError for values that are not JSON, here, in the call of the logger at fault: otherwise
        the loggers that write the record would fail, and be removed.
        """
        json.dumps(vars(record))
        if isinstance(record, SampleRecord):
            self.on_sample(record)
        else:
            self.on_event(record)

    def observers(self, moment: Moment, step: int) -> list[RunLogger]:
        """Return the loggers that observe the model at this moment of the step."""
        found: list[RunLogger] = []
        for logger in [logger for logger in self._loggers if isinstance(logger, Observer)]:
            self._guarded(logger, lambda it: found.append(it) if moment in it.moments(step) else None)
        return found

    def observe(self, moment: Moment, observers: Iterable[RunLogger], view: ModelView) -> None:
        """Call `observe` of each logger in `observers`."""
        for logger in observers:
            self._guarded(logger, lambda it: it.observe(moment, view))

    def _call_each(self, method: str, *arguments: Any) -> None:
        failed = None
        for logger in list(self._loggers):
            try:
                self._guarded(logger, lambda it: getattr(it, method)(*arguments))
            except RecordError as error:
                failed = error
        if failed is not None:
            raise failed

    def _guarded(self, logger: RunLogger, call: Callable[[Any], None]) -> None:
        if logger not in self._loggers:  # removed during this loop: it failed at a record that another logger sent
            return
        try:
            call(logger)
        except RecordError:
            raise
        except Exception as error:  # a fault in a logger, possibly of a third party, must not end a long training
            self._loggers.remove(logger)
            name = f"{type(logger).__module__}.{type(logger).__qualname__}"
            self._report(
                f"The logger {name} failed and was removed: {type(error).__name__}: {error}. Training continues."
            )
