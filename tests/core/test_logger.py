"""The group of loggers: failing loggers are reported and removed, records reach all loggers."""

from pathlib import Path
from typing import Any

import pytest

from tfs_core.builtin.jsonl import JsonlLogger
from tfs_core.contracts import RunLogger
from tfs_core.loggers import Loggers
from tfs_core.records import EventRecord, StepRecord
from tfs_core.runs import read_lines

NAMES = ("flops", "elapsed_seconds", "loss", "learning_rate", "grad_norm", "tokens_per_second")
NUMBERS: dict[str, Any] = dict.fromkeys(NAMES, 1.0)


class Remembers(RunLogger):
    def __init__(self) -> None:
        self.told: list[str] = []

    def on_start(self) -> None:
        self.told.append("start")

    def on_event(self, record: EventRecord) -> None:
        self.told.append(record.kind)

    def on_end(self, status: str) -> None:
        self.told.append(status)


class Broken(RunLogger):
    def on_start(self) -> None:
        raise RuntimeError("no disk")

    def on_end(self, status: str) -> None:
        raise AssertionError("told again after it was dropped")


def test_logger_that_fails_is_reported_once_and_removed() -> None:
    reports: list[str] = []
    loggers = Loggers([first := Remembers(), Broken(), last := Remembers()], reports.append)
    loggers.on_start()
    loggers.on_end("finished")
    assert first.told == last.told == ["start", "finished"]
    (report,) = reports
    assert "test_logger.Broken" in report
    assert "RuntimeError: no disk" in report


def test_report_may_be_an_event_for_the_other_loggers() -> None:
    healthy = Remembers()

    def report(message: str) -> None:
        loggers.on_event(EventRecord(at="", step=0, kind="warning", details={"message": message}))

    loggers = Loggers([Broken(), healthy], report)
    loggers.on_start()
    assert healthy.told == ["warning", "start"]


def test_interruption_passes_through_the_loggers() -> None:
    class Interrupted(RunLogger):
        def on_start(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Loggers([Interrupted()], print).on_start()


class Watches(Remembers):
    """Observes the model after every second update."""

    def moments(self, step: int) -> set[str]:
        return {"update"} if step % 2 else set()

    def observe(self, moment: str, view: Any) -> None:
        self.told.append(f"{moment} {view}")


def test_observers_are_called_at_their_moments() -> None:
    plain, watches = Remembers(), Watches()
    loggers = Loggers([plain, watches], print)
    assert loggers.observers("update", 3) == [watches]
    assert loggers.observers("update", 4) == loggers.observers("gradients", 3) == []
    loggers.observe("update", loggers.observers("update", 3), "what there is to see")  # type: ignore[arg-type]
    assert (plain.told, watches.told) == ([], ["update what there is to see"])


@pytest.mark.parametrize("broken", ["moments", "observe"])
def test_observer_that_fails_is_removed_too(broken: str) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("blind")

    reports: list[str] = []
    blind = type("Blind", (Watches,), {broken: fails})()
    loggers = Loggers([blind, watches := Watches()], reports.append)
    for _ in range(2):
        loggers.observe("update", loggers.observers("update", 1), "this")  # type: ignore[arg-type]
    loggers.on_end("finished")
    assert watches.told == ["update this", "update this", "finished"]
    assert blind.told == []
    (report,) = reports
    assert "Blind failed and was removed: RuntimeError: blind" in report


def test_record_of_one_logger_reaches_all_of_them_also_one_that_was_added() -> None:
    class Echoes(Remembers):
        def on_end(self, status: str) -> None:
            loggers.tell(EventRecord(at="", step=1, kind="echo", details={}))

    loggers = Loggers([first := Remembers()], print)
    loggers.add(Echoes())
    loggers.add(last := Remembers())
    loggers.on_end("finished")
    assert first.told == ["finished", "echo"]
    assert last.told == ["echo", "finished"]


def test_logger_that_fails_while_a_record_is_handed_on_is_dropped_once() -> None:
    class HandsOn(RunLogger):
        def on_event(self, record: EventRecord) -> None:
            if record.kind == "first":
                loggers.tell(EventRecord(at="", step=1, kind="second", details={}))

    class Fails(RunLogger):
        def on_event(self, record: EventRecord) -> None:
            raise RuntimeError(record.kind)

    reports: list[str] = []
    loggers = Loggers([HandsOn(), Fails()], reports.append)
    loggers.on_event(EventRecord(at="", step=1, kind="first", details={}))
    (report,) = reports
    assert "RuntimeError: second" in report


def test_logger_that_sends_a_record_that_is_not_json_is_removed_and_not_the_one_that_writes_it(tmp_path: Path) -> None:
    class Careless(RunLogger):
        def on_step(self, record: StepRecord) -> None:
            loggers.tell(EventRecord(at="", step=record.step, kind="note", details={"file": tmp_path}))

    reports: list[str] = []
    loggers = Loggers([Careless(), log := JsonlLogger(tmp_path)], reports.append)
    loggers.on_start()
    for step in (1, 2):
        loggers.on_step(StepRecord(step=step, epoch=0, tokens=1, **NUMBERS))
    loggers.on_end("finished")
    (report,) = reports
    assert "Careless failed and was removed: TypeError" in report
    assert [line["step"] for line in read_lines(log.folder / "metrics.jsonl").rows] == [1, 2]
