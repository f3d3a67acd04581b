"""A thread-safe LRU cache; concurrent callers of one key share one computation."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """LRU cache of computed values by key. Thread-safe; each value is computed once, by the first caller."""

    def __init__(self, most: int) -> None:
        """Create a cache of at most `most` entries."""
        self._most = most
        self._made: OrderedDict[Hashable, Future[T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the cached value of `key`, or compute it with `make`.

        Concurrent callers of the key wait for the result. An exception of `make` is raised in all of them and is not
        cached, so the next call tries again.
        """
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
