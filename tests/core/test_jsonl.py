"""The .jsonl files of a run folder: strict JSON, the same keys in every line, complete after a resume and a kill."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tfs_core.builtin.jsonl import FILES, JsonlLogger, build
from tfs_core.contracts import RunContext
from tfs_core.errors import RecordError
from tfs_core.loggers import Loggers
from tfs_core.records import EventRecord, SampleRecord, StepRecord, ValidationRecord


def step_record(step: int, **changes: Any) -> StepRecord:
    values = {
        "step": step,
        "epoch": 0,
        "tokens": 8192 * step,
        "flops": 1.2e12 * step,
        "elapsed_seconds": 0.477 * step,
        "loss": 8.20597,
        "learning_rate": 3e-08,
        "grad_norm": 1.2,
        "tokens_per_second": 17180.1,
    }
    return StepRecord(**{**values, **changes})


def validation_record(step: int, **changes: Any) -> ValidationRecord:
    values = {
        "step": step,
        "tokens": 1,
        "flops": 1.0,
        "elapsed_seconds": 1.0,
        "loss": 2.0,
        "perplexity": 7.4,
        "bits_per_byte": 1.7,
        "tokens_evaluated": 9,
    }
    return ValidationRecord(**{**values, **changes})


def event(step: int, **details: Any) -> EventRecord:
    return EventRecord(at="2026-01-01T00:00:00.000+00:00", step=step, kind="checkpoint", details=details)


def started(folder: Path, start_step: int = 0) -> JsonlLogger:
    run = RunContext(folder=folder, name="a", config={}, info={}, total_steps=100, start_step=start_step)
    logger = build(None, run=run)
    logger.on_start()
    return logger


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def lines(path: Path) -> list[Any]:
    return [strict(line) for line in path.read_text(encoding="utf-8").splitlines()]


def steps(path: Path) -> list[int]:
    return [line["step"] for line in lines(path)]


def test_metrics_line_is_written_to_the_letter(tmp_path: Path) -> None:
    started(tmp_path).on_step(step_record(1))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (
        b'{"step":1,"epoch":0,"tokens":8192,"flops":1200000000000.0,"elapsed_seconds":0.477,"loss":8.20597,'
        b'"learning_rate":3e-08,"grad_norm":1.2,"tokens_per_second":17180.1,"nonfinite":[]}\n'
    )


def test_float_keeps_its_point_when_the_record_holds_an_integer(tmp_path: Path) -> None:
    started(tmp_path).on_step(step_record(1, loss=5, flops=10**15))
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert '"loss":5.0,' in text
    assert '"flops":1000000000000000.0,' in text


def test_metrics_write_null_for_what_is_not_finite_and_name_it(tmp_path: Path) -> None:
    started(tmp_path).on_step(step_record(1, loss=math.nan, grad_norm=math.inf))
    (line,) = lines(tmp_path / "metrics.jsonl")
    assert (line["loss"], line["grad_norm"], line["nonfinite"]) == (None, None, ["loss", "grad_norm"])


def test_record_is_not_changed_by_being_written(tmp_path: Path) -> None:
    record = step_record(1, loss=math.nan)
    started(tmp_path).on_step(record)
    assert math.isnan(record.loss)
    assert record.nonfinite == []


def test_validation_and_details_write_null_for_what_is_not_finite(tmp_path: Path) -> None:
    logger = started(tmp_path)
    logger.on_validation(validation_record(1, perplexity=math.inf))
    logger.on_event(event(1, norms=[1.0, math.nan], nested={"loss": -math.inf}))
    assert lines(tmp_path / "validation.jsonl")[0]["perplexity"] is None
    assert lines(tmp_path / "events.jsonl")[0]["details"] == {"norms": [1.0, None], "nested": {"loss": None}}


def test_sample_of_any_text_is_one_line_of_utf8(tmp_path: Path) -> None:
    text = "two\nlines \x1b[31m \u2028 Grüße \U0001f40d \ud800"
    started(tmp_path).on_sample(SampleRecord(step=1, prompt="", text=text, settings={"temperature": 0.8}))
    content = (tmp_path / "samples.jsonl").read_bytes()
    assert content.count(b"\n") == 1
    assert strict(content.decode("utf-8"))["text"] == text.replace("\ud800", "?")


def test_every_line_of_a_file_has_the_keys_of_its_record_in_order(tmp_path: Path) -> None:
    logger = started(tmp_path)
    for step in (1, 2):
        logger.on_step(step_record(step, loss=math.nan if step == 2 else 1.0))
        logger.on_validation(validation_record(step))
        logger.on_sample(SampleRecord(step=step, prompt="a", text="b", settings={"seed": step}))
        logger.on_event(event(step, reason="steps"))
    for record_type, name in FILES.items():
        keys = [field.name for field in fields(record_type)]
        assert [list(line) for line in lines(tmp_path / name)] == [keys, keys], name


def write_steps(folder: Path, last: int) -> None:
    logger = started(folder)
    for step in range(1, last + 1):
        logger.on_step(step_record(step))
    logger.on_end("stopped")


def test_resume_moves_later_lines_aside_and_misses_none(tmp_path: Path) -> None:
    write_steps(tmp_path, 5)
    before = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    logger = started(tmp_path, start_step=3)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(before[:3])
    assert (tmp_path / "aside" / "metrics-1.jsonl").read_bytes() == b"".join(before[3:])
    for step in (4, 5, 6):
        logger.on_step(step_record(step))
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4, 5, 6]


def test_second_resume_writes_a_second_file_aside(tmp_path: Path) -> None:
    write_steps(tmp_path, 5)
    logger = started(tmp_path, start_step=4)
    logger.on_step(step_record(5))
    started(tmp_path, start_step=3)
    assert steps(tmp_path / "aside" / "metrics-1.jsonl") == [5]
    assert steps(tmp_path / "aside" / "metrics-2.jsonl") == [4, 5]
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3]


def test_resume_with_nothing_to_move_leaves_the_file_alone(tmp_path: Path) -> None:
    write_steps(tmp_path, 3)
    before = (tmp_path / "metrics.jsonl").stat()
    started(tmp_path, start_step=3)
    after = (tmp_path / "metrics.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not (tmp_path / "aside").exists()


@pytest.mark.parametrize(
    "tail", [b'{"step":3,"lo', b'{"step":3,"loss":1.0}', b"\0\0\0\0\n", b'[3]\n{"loss":1.0}\n'], ids=repr
)
def test_resume_cuts_a_torn_tail(tmp_path: Path, tail: bytes) -> None:
    write_steps(tmp_path, 3)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    logger = started(tmp_path, start_step=3)
    logger.on_step(step_record(4))
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4]


def test_new_run_in_a_folder_begins_with_empty_files(tmp_path: Path) -> None:
    write_steps(tmp_path, 3)
    started(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    assert steps(tmp_path / "aside" / "metrics-1.jsonl") == [1, 2, 3]


class FullDisk:
    """Stands for `os.write` on a disk that has room for a number of bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._write = os.write
        monkeypatch.setattr("os.write", self.write)

    def write(self, descriptor: int, content: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(descriptor, content[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 10, 300])
def test_lines_wait_for_a_full_disk_and_none_is_missing(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = started(tmp_path)
    disk = FullDisk(monkeypatch, room)
    for step in range(1, 6):
        logger.on_step(step_record(step))
    assert (tmp_path / "metrics.jsonl").stat().st_size == room
    disk.room = 10**6
    logger.on_step(step_record(6))
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4, 5, 6]


def test_full_disk_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loggers = Loggers((), print)
    run = RunContext(folder=tmp_path, name="a", config={}, info={}, total_steps=9, start_step=0, tell=loggers.tell)
    loggers.add(build(None, run=run))
    loggers.on_start()
    disk = FullDisk(monkeypatch, 0)
    for step in range(1, 6):
        loggers.on_step(step_record(step))
    disk.room = 10**6
    loggers.on_checkpoint(5)
    (told,) = lines(tmp_path / "events.jsonl")
    assert (told["kind"], told["step"]) == ("warning", 1)
    assert "No space left on device" in told["details"]["message"]


@pytest.mark.parametrize("call", ["on_checkpoint", "on_end"])
def test_record_that_cannot_be_written_ends_the_run(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfs_core.builtin.jsonl.RETRY_SECONDS", 0.0)
    loggers = Loggers([started(tmp_path)], print)
    FullDisk(monkeypatch, 100)
    loggers.on_step(step_record(1))
    with pytest.raises(RecordError, match=r"metrics\.jsonl cannot be written .* continue with --resume"):
        getattr(loggers, call)(1 if call == "on_checkpoint" else "finished")


def test_lines_that_wait_for_a_full_disk_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfs_core.builtin.jsonl.MAX_WAITING_BYTES", 1000)
    loggers = Loggers([started(tmp_path)], print)
    FullDisk(monkeypatch, 0)
    for step in range(1, 6):
        loggers.on_step(step_record(step))
    with pytest.raises(RecordError):
        loggers.on_step(step_record(6))


def test_lines_that_the_disk_does_not_confirm_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = started(tmp_path)

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(RecordError, match="cannot be flushed"):
        logger.on_checkpoint(1)


def test_checkpoint_makes_every_file_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = started(tmp_path)
    synced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name what a descriptor is")
    logger.on_checkpoint(1)
    assert sorted(Path(path).name for path in synced) == sorted(FILES.values())


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from tfs_core.builtin.jsonl import JsonlLogger
from tfs_core.records import StepRecord
logger = JsonlLogger(Path(sys.argv[1]))
logger.on_start()
step = 0
while True:
    step += 1
    logger.on_step(StepRecord(step=step, epoch=0, tokens=1, flops=1.0, elapsed_seconds=1.0, loss=1.0,
                              learning_rate=1.0, grad_norm=1.0, tokens_per_second=1.0))
    if step == 1000:
        print("written", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_kill_loses_no_line_that_was_written_and_tears_none(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.kill()
    found = steps(tmp_path / "metrics.jsonl")
    assert len(found) >= 1000
    assert found == list(range(1, len(found) + 1))
