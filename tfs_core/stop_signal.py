"""Handling of Ctrl-C (SIGINT) and SIGTERM in training: the handler sets a flag, and the trainer saves and stops.

Saving inside a signal handler could deadlock, or corrupt the operation that it interrupted. A second signal stops at
once.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class StopSignal:
    """Context manager in which SIGINT and SIGTERM set `received`. A second signal raises at once.

    KeyboardInterrupt for SIGINT, SystemExit(128 + number) for SIGTERM.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """The number of the first signal received, or None."""

        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # handlers can be set in the main thread only
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.received is None:
            self.received = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)
