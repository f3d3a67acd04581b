"""Progress of long work: lines or a bar after two seconds, none with --quiet, in other threads, or from Python."""

import os
import pty
import subprocess
import sys
import threading

import pytest

from tfs_core import progress as module
from tfs_core.progress import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the module sees, in seconds; tests move it."""
    now = [100.0]
    monkeypatch.setattr("tfs_core.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr(module, "is_shown", True)
    return now


def test_lines_begin_after_two_seconds_and_come_every_ten(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("reading", total=100e6, unit="B") as advance:
        for _ in range(40):
            clock[0] += 0.5
            advance(2e6)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 8.0 MB of 100.0 MB, 4.0 MB/s, 0:23 left",
        "reading: 48.0 MB of 100.0 MB, 4.0 MB/s, 0:13 left",
    ]


def test_bar_is_filled_by_the_work_that_is_done(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress("reading", total=8e6, unit="B") as advance:
        clock[0] += 2
        advance(2e6)
        (task,) = module._active[0]._bar.tasks
        assert (task.completed, task.total, task.fields["status"]) == (
            2e6,
            8e6,
            "2.0 MB of 8.0 MB, 1.0 MB/s, 0:06 left",
        )


def test_an_unknown_total_and_waiting(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("merging", unit="documents") as advance:
        clock[0] += 3
        advance(0)
        clock[0] += 10
        advance(1300)
    assert capsys.readouterr().err.splitlines() == ["merging: ...", "merging: 1,300 documents, 100 documents/s"]


def test_short_work_shows_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading", unit="B") as advance:
        clock[0] += 1.9
        advance(1)
    assert capsys.readouterr().err == ""


def test_work_inside_other_work_keeps_that_on_the_screen(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("tokenizing", unit="documents") as advance:
        with progress("downloading", unit="B") as advance_inside:
            clock[0] += 3
            advance_inside(1e6)
        clock[0] += 10
        advance(1300)
    with progress("reading", unit="documents") as advance:
        clock[0] += 3
        advance(3)
    assert capsys.readouterr().err.splitlines() == [
        "tokenizing: ...",
        "tokenizing: 1,300 documents, 100 documents/s",
        "reading: 3 documents, 1 document/s",
    ]


@pytest.mark.parametrize("is_shown", [None, False], ids=["from Python", "quiet"])
def test_from_python_and_with_quiet_nothing_is_shown(
    is_shown: bool | None, clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "is_shown", is_shown)
    with progress("reading", unit="B") as advance:
        clock[0] += 30
        advance(1)
    assert capsys.readouterr().err == ""


def test_only_the_outer_work_and_only_the_main_thread_are_shown(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    def work(what: str) -> None:
        with progress(what, unit="B") as advance:
            clock[0] += 30
            advance(1)

    thread = threading.Thread(target=work, args=("thread",))
    thread.start()
    thread.join()
    with progress("outer", unit="B") as advance:
        work("inner")
        advance(1)
    work("next")
    shown = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["outer", "next"]


SCRIPT = """
from tfs_core import progress
progress.is_shown, progress.FIRST_SECONDS = True, 0.0
try:
    with progress.progress("reading [x]", total=10, unit="documents") as advance:
        for _ in range(3):
            advance(1)
            progress.time.sleep(0.11)
        raise KeyboardInterrupt
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.parametrize("columns", ["40", "120"])
def test_a_bar_on_a_terminal_leaves_nothing_behind(columns: str) -> None:
    main, side = pty.openpty()
    environment = os.environ | {"COLUMNS": columns, "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=side, stderr=side, env=environment) as process:
        os.close(side)
        shown = b""
        try:
            while block := os.read(main, 1 << 16):
                shown += block
        except OSError:  # the terminal is closed
            pass
    os.close(main)
    assert process.returncode == 0
    text = shown.decode()
    assert "reading [x]" in text
    assert "3 documents" in text
    after_bar = text[text.rindex("\x1b[2K") :]  # the last thing before "stopped" is the clearing of the line
    assert "stopped" in after_bar
    assert "reading" not in after_bar
