"""Fill the charts and parts of a page before it is sent, if that is fast enough, to save one callback request.

On timeout (such as when a log is decoded for the first time), the page is sent empty and the browser requests its
charts and parts.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from tfs_dash.parts import Component

FILL_TIMEOUT_SECONDS = 0.2
"""Timeout for filling a page: too short for a user to notice an empty page."""

PROPERTIES = {"figure": "data", "part": "children"}
"""Type of a placeholder -> the property that holds its content."""

_SLOTS = threading.BoundedSemaphore(4)
"""Limits the number of threads: they continue after a timeout. A call that gets no slot in time counts as timed out."""

T = TypeVar("T")


def in_time(make: Callable[[], T], seconds: float = FILL_TIMEOUT_SECONDS) -> T | None:
    """Return the result of `make`, or None if it takes longer than `seconds` or raises.

    After a timeout `make` continues in its thread, so that caches are warm for the next request. An exception is not
    reported here: the page requests the content again, and the error is shown then.
    """
    made: list[T] = []
    done, deadline = threading.Event(), time.monotonic() + seconds

    def work() -> None:
        try:
            with suppress(Exception):
                made.append(make())
        finally:
            _SLOTS.release()
            done.set()

    if not _SLOTS.acquire(timeout=seconds):
        return None
    threading.Thread(target=work, daemon=True, name="filling a page").start()
    done.wait(max(deadline - time.monotonic(), 0))
    return made[0] if made else None


def fill(page: Component, make: Callable[[str, str], Any], seconds: float = FILL_TIMEOUT_SECONDS) -> bool:
    """Fill all placeholders of a page with `make(type, name)`. Returns False, with none filled, on timeout or error."""
    places = [
        (at, component)
        for component in page._traverse()
        if isinstance(at := getattr(component, "id", None), dict) and at.get("type") in PROPERTIES
    ]
    places.reverse()  # notices at the top report damage that is found while the charts below are made
    made = in_time(lambda: [make(at["type"], at["name"]) for at, _ in places], seconds)
    if made is None:
        return False
    for (at, component), shown in zip(places, made, strict=True):
        setattr(component, PROPERTIES[at["type"]], shown)
    return True
