"""Progress of long work on stderr: a bar on a terminal, plain lines elsewhere, nothing with `tfs --quiet`.

    with progress("reading", total=size, unit="B") as advance:
        for block in blocks:
            ...
            advance(len(block))

Nothing is shown in the first two seconds. The bar disappears at the end of the work, also after Ctrl-C. Only the
command `tfs` shows progress: called from Python, tfs shows none.
"""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tfs_core.terminal import counted, escape_control_characters, say

FIRST_SECONDS = 2.0
"""Time until progress is first shown."""

LINE_SECONDS = 10.0
BAR_SECONDS = 0.1
"""Interval between two lines, and between two changes of a bar."""

Advance = Callable[[float], None]
"""Adds an amount of finished work; 0 while waiting."""

is_shown: bool | None = None
"""Set by the command line: False with `--quiet`, otherwise True; None when tfs is called from Python."""

_active: list["_Shown"] = []  # the work that is shown, if any


@contextmanager
def progress(what: str, *, total: float | None = None, unit: str) -> Iterator[Advance]:
    """Show the progress of the block, named `what` ("tokenizing"), and pass it a function that adds finished work.

    `total` is the amount of work, None if unknown. `unit` is "B" for bytes, or a noun in the plural ("documents").
    Work on other threads than the main one is not shown. Work inside other shown work keeps that on the screen.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not is_shown or not in_main:
        yield lambda _amount: None
    elif _active:
        yield lambda _amount: _active[0].advance(0.0) if _active else None
    else:
        shown = _Shown(what, total, unit)
        _active.append(shown)
        try:
            yield shown.advance
        finally:
            shown.close()
            _active.remove(shown)


class _Shown:
    """The progress of one piece of work."""

    def __init__(self, what: str, total: float | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done = 0.0
        self._begun_at = time.monotonic()
        self._has_bar = sys.stderr.isatty()
        self._next_at = self._begun_at + FIRST_SECONDS
        self._bar: Any = None  # a rich Progress, which is imported when it is first shown

    def advance(self, amount: float) -> None:
        """Add an amount of finished work, and show the progress if it is time."""
        self._done += amount
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + (BAR_SECONDS if self._has_bar else LINE_SECONDS)
            with suppress(OSError):  # a closed stderr must not end the work
                self._show(self._done / (now - self._begun_at))

    def _show(self, speed: float) -> None:
        """Show the finished work, its speed in units per second, and the time left if the total is known."""
        status = ""
        if self._done:
            status = f"{self._amount(speed)}/s"
            if self._total is not None:
                status += f", {duration(max(self._total - self._done, 0.0) / speed)} left"
            of = "" if self._total is None else f"of {self._amount(self._total)}, "
            status = f"{self._amount(self._done)} {of}{status}" if of else f"{self._amount(self._done)}, {status}"
        if not self._has_bar:
            say(f"{self._what}: {status or '...'}", err=True)
            return
        if self._bar is None:
            self._bar = _bar()
            self._bar.start()
            self._bar.add_task(escape_control_characters(self._what), total=self._total, status="")
        self._bar.update(self._bar.task_ids[0], completed=self._done, status=status, refresh=True)

    def _amount(self, amount: float) -> str:
        return f"{amount / 1e6:,.1f} MB" if self._unit == "B" else counted(round(amount), self._unit.removesuffix("s"))

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.stop()


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None, table_column=Column(ratio=1, max_width=40)),
        TextColumn("{task.fields[status]}", markup=False, table_column=Column(no_wrap=True)),
        console=Console(stderr=True, highlight=False),
        auto_refresh=False,
        transient=True,
    )


def duration(seconds: float) -> str:
    """Return m:ss or h:mm:ss: 1:05 for 65 seconds, 2:00:07 for 7207; ?:?? for a time that is not finite."""
    if not math.isfinite(seconds):
        return "?:??"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
