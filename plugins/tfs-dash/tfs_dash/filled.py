"""Pages that come with what they show: what is made in time is sent with its page, and saves it one question.

What takes longer (a log that is decoded for the first time) does not hold the page up: it comes without, and asks.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tfs_dash.parts import Component

PATIENCE_SECONDS = 0.2
"""How long a page waits for what it shows: less than somebody notices who looks at a page that is empty."""

_TURNS = threading.BoundedSemaphore(2)
"""Who finds two that still make something that came too late does not begin a third."""

PROPERTIES = {"figure": "data", "part": "children"}
"""Which property of a place holds what it shows."""


def fill(page: Component, make: Callable[[str, str], Any], *, seconds: float = PATIENCE_SECONDS) -> bool:
    """Fill all places of a page with what `make` returns for their type and name; False, and none filled, when late.

    What was begun goes on: what it read is then there for who asks. It is late too when it fails: who asks is told.
    """
    found, done = _found(page), threading.Event()
    made: list[Any] = []

    def work() -> None:
        try:
            with suppress(Exception):
                made.extend([make(place["type"], place["name"]) for place, _ in found])
        finally:
            _TURNS.release()
            done.set()

    if not _TURNS.acquire(blocking=False):
        return False
    threading.Thread(target=work, daemon=True, name="filling a page").start()
    if not done.wait(seconds) or len(made) < len(found):
        return False
    for (place, component), shown in zip(found, made, strict=True):
        setattr(component, PROPERTIES[place["type"]], shown)
    return True


def _found(page: Component) -> list[tuple[dict[str, str], Component]]:
    """Return the places and their components, the last of the page first: what stands above tells of what is below."""
    components = [(getattr(component, "id", None), component) for component in page._traverse()]
    return [(at, one) for at, one in reversed(components) if isinstance(at, dict) and at["type"] in PROPERTIES]
