"""Handling of Ctrl-C (SIGINT), SIGTERM and SIGHUP (a closed terminal).

In training, the handler sets a flag, and the trainer saves and stops. Saving inside a signal handler could deadlock, or
corrupt the operation that it interrupted. A second signal stops at once.
"""

import os
import signal
import threading
import traceback
from types import FrameType, TracebackType
from typing import Any, Self

from tfs_core.terminal import say


def interrupt(_number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C outside of training: raise KeyboardInterrupt, or end the process if it is importing modules.

    Libraries swallow exceptions in imports, or remain half imported.
    """
    if any("importlib" in at.f_code.co_filename for at, _ in traceback.walk_stack(frame)):
        say("Interrupted.", err=True)
        os._exit(130)
    raise KeyboardInterrupt


class StopSignal:
    """Context manager in which SIGINT, SIGTERM and SIGHUP set `received`. A second signal raises at once.

    KeyboardInterrupt for SIGINT, SystemExit(128 + 15) for SIGTERM. A second SIGHUP is ignored: a terminal that closes
    may send several. So is every SIGHUP under `nohup`.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """The number of the first signal received, or None."""

        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # handlers can be set in the main thread only
            hangup = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # not on Windows
            for number in (signal.SIGINT, signal.SIGTERM, *hangup):
                if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGINT:
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
        elif number == signal.SIGTERM:
            raise SystemExit(128 + number)
