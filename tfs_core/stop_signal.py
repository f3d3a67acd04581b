"""Ctrl-C and SIGTERM while training: only noted, so that a checkpoint is saved at the step boundary.

Saving inside a signal handler can hang or tear whatever it interrupted. A second signal stops at once.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class StopSignal:
    """Within the `with` block SIGINT and SIGTERM set `received`; a second one raises out of whatever is running."""

    def __init__(self) -> None:
        self.received: int | None = None
        """The number of the signal that came, or None."""

        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.received is None:
            self.received = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)
