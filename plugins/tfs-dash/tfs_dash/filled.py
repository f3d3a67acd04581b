"""Pages that come with what they show: what is made in time is sent with its page, and saves it one question.

What takes longer (a log that is decoded for the first time) does not hold the page up: it comes without, and asks.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from tfs_dash.parts import Component

PATIENCE_SECONDS = 0.2
"""How long a page waits for what it shows: less than somebody notices who looks at a page that is empty."""

PROPERTIES = {"figure": "data", "part": "children"}
"""Which property of a place of a page holds what it shows, by the place's type."""

_TURNS = threading.BoundedSemaphore(4)
"""What came too late is still being made, and must not pile up: who has no turn in time is late."""

T = TypeVar("T")


def in_time(make: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T | None:
    """Return what `make` returns; None when that takes longer, or fails: who asks for it again is then told.

    What was begun goes on: what it read is then there for who asks.
    """
    made: list[T] = []
    done, late_at = threading.Event(), time.monotonic() + seconds

    def work() -> None:
        try:
            with suppress(Exception):
                made.append(make())
        finally:
            _TURNS.release()
            done.set()

    if not _TURNS.acquire(timeout=seconds):
        return None
    threading.Thread(target=work, daemon=True, name="filling a page").start()
    done.wait(max(late_at - time.monotonic(), 0))
    return made[0] if made else None


def fill(page: Component, make: Callable[[str, str], Any], seconds: float = PATIENCE_SECONDS) -> bool:
    """Fill all places of a page with what `make` returns for their type and name; False, and none filled, when late."""
    places = [
        (at, component)
        for component in page._traverse()
        if isinstance(at := getattr(component, "id", None), dict) and at.get("type") in PROPERTIES
    ]
    places.reverse()  # what stands above tells of what is below
    made = in_time(lambda: [make(at["type"], at["name"]) for at, _ in places], seconds)
    if made is None:
        return False
    for (at, component), shown in zip(places, made, strict=True):
        setattr(component, PROPERTIES[at["type"]], shown)
    return True
