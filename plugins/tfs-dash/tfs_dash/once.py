"""What takes long is made once: who wants the same meanwhile waits for it, and who wants it later finds it."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """What was made lately, by what it was made of. Safe for several threads."""

    def __init__(self, most: int) -> None:
        """Keep so many."""
        self._most = most
        self._made: OrderedDict[Hashable, Future[T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` returned for this key; raises what it raises, and the next one tries again."""
        with self._lock:
            found = self._made.get(key)
            mine = Future[T]() if found is None else None
            if mine is not None:
                self._made[key] = mine
                while len(self._made) > self._most:
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
        if mine is None:
            return found.result()
        try:
            mine.set_result(make())
        except BaseException as error:
            with self._lock:
                self._made.pop(key, None)
            mine.set_exception(error)
        return mine.result()
