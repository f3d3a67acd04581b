"""Several loggers as one: each is told everything, and those that observe are shown the model."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tfs_core.contracts import ModelView, Moment, Observer, RunLogger
from tfs_core.records import EventRecord, SampleRecord, StepRecord, ValidationRecord


class Loggers(RunLogger):
    """Several loggers as one. One that raises is reported once and dropped, and training goes on."""

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
        """Tell this one too from now on."""
        self._loggers.append(logger)

    def tell(self, record: SampleRecord | EventRecord) -> None:
        """Hand on a record that one of the loggers made."""
        if isinstance(record, SampleRecord):
            self.on_sample(record)
        else:
            self.on_event(record)

    def observers(self, moment: Moment, step: int) -> list[RunLogger]:
        """Return the loggers that want to be shown the model at a moment of a step."""
        found: list[RunLogger] = []
        for logger in [logger for logger in self._loggers if isinstance(logger, Observer)]:
            self._guarded(logger, lambda it: found.append(it) if moment in it.moments(step) else None)
        return found

    def observe(self, moment: Moment, observers: Iterable[RunLogger], view: ModelView) -> None:
        """Show the model to the loggers that `observers` returned."""
        for logger in observers:
            self._guarded(logger, lambda it: it.observe(moment, view))

    def _call_each(self, method: str, *arguments: Any) -> None:
        for logger in list(self._loggers):
            self._guarded(logger, lambda it: getattr(it, method)(*arguments))

    def _guarded(self, logger: RunLogger, call: Callable[[Any], None]) -> None:
        if logger not in self._loggers:  # it failed while another's record was handed on
            return
        try:
            call(logger)
        except Exception as error:  # a logger may be a stranger's: it must not end a night's training
            self._loggers.remove(logger)
            name = f"{type(logger).__module__}.{type(logger).__qualname__}"
            self._report(
                f"The logger {name} failed and is told nothing more: {type(error).__name__}: {error}. Training goes on."
            )
