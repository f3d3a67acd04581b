"""Prefetch: a background thread that writes the shards of a token stream to disk, a few ahead of training."""

import threading
from collections.abc import Callable

from tfs_core.errors import DataError, TfsError
from tfs_streaming.shards import Shard, ShardFolder, StreamPlace
from tfs_streaming.token_stream import TokenStream

SHARDS_AHEAD = 2
"""Shards to prefetch beyond the one that training reads."""

ATTEMPTS = 3
RETRY_SECONDS = 5.0
"""Delay between two attempts. After `ATTEMPTS` failures, `wait` raises the error when training needs the shard."""

CLOSE_SECONDS = 0.5
"""Maximum time that `close` waits for the end of the thread: Ctrl-C is obeyed although the network blocks it."""

NeededShards = Callable[[], set[int]]
"""Returns the numbers of the shards that the kept checkpoints need."""


class Spooler:
    """Write shards in order, each when training gets close to it, and delete shards that are no longer needed."""

    def __init__(
        self,
        stream: TokenStream,
        shards: ShardFolder,
        *,
        size: int,
        needed: NeededShards,
        report: Callable[[str], None],
    ) -> None:
        self._stream = stream
        self._shards = shards
        self._size = size
        self._needed = needed
        self._report = report
        self._changed = threading.Condition()  # guards all attributes below
        self._starts: dict[int, StreamPlace] = {}
        self._next = 0  # the shard to write next
        self._wanted = 0  # the shard that training reads
        self._failures = 0  # failed attempts since the last shard
        self._error: Exception | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="spooler", daemon=True)

    def start(self, number: int, place: StreamPlace) -> None:
        """Start the thread at shard `number`, which begins at `place`. Shards that are already on disk are reused."""
        self._wanted, self._starts[number] = number, place
        while (shard := self._shards.open(number)) is not None and shard.start == place:
            number, place = number + 1, shard.end
            self._starts[number] = place
        self._next = number
        self._thread.start()

    def wait(self, number: int, *, seconds: float) -> bool:
        """Announce that training needs a shard; return whether it is on disk, after waiting for at most `seconds`.

        Raises DataError when the shard could not be written.
        """
        with self._changed:
            if number != self._wanted:
                self._wanted = number
                self._changed.notify_all()
            if number >= self._next and self._error is None:
                self._changed.wait_for(lambda: number < self._next or self._error is not None, timeout=seconds)
            if number < self._next:
                return True
            if isinstance(self._error, TfsError):
                raise DataError(
                    f"{self._error} A training run is saved, and continues there when it is resumed."
                ) from self._error
            if self._error is not None:
                raise self._error
            return False

    def open(self, number: int) -> Shard:
        """Return a shard for which `wait` returned True. Raises DataError when it was deleted or damaged meanwhile."""
        shard = self._shards.open(number)
        if shard is None:
            raise DataError(
                f"shard {number} in {self._shards.folder} was deleted or damaged. Resume the run to rebuild it."
            )
        return shard

    def start_of(self, number: int) -> StreamPlace:
        """Return the start position of a shard: one written or reused since `start`, or the next one to write."""
        return self._starts[number]

    def close(self) -> None:
        """Stop the thread, and delete the shards that no kept checkpoint needs."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._delete_all_but(self._needed())
            self._stream.close()

    # In the thread

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._spool()
            except TfsError as error:
                if self._stopped:
                    return
                self._failures += 1
                if self._failures >= ATTEMPTS:
                    self._set_error(error)
                else:
                    self._report(f"{error} Retrying in {RETRY_SECONDS:g} seconds.")
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, timeout=RETRY_SECONDS)
            except Exception as error:  # a bug: `wait` raises it in the training thread
                self._set_error(error)
                return

    def _set_error(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _spool(self) -> None:
        """Write shards, each when it is within `SHARDS_AHEAD` of training. Raises the errors of the stream."""
        for tokens, start, end in self._stream.shards(self._starts[self._next], size=self._size):
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._next <= self._wanted + SHARDS_AHEAD)
                if self._stopped:
                    return
                number, wanted = self._next, self._wanted
            # Read `wanted` before listing the checkpoints: a checkpoint saved later needs no shard before `wanted`.
            self._delete_all_but(self._needed() | set(range(wanted, number)))
            self._shards.write(number, tokens, start, end)
            with self._changed:
                self._starts[number + 1] = end
                self._next, self._error, self._failures = number + 1, None, 0
                self._changed.notify_all()

    def _delete_all_but(self, kept: set[int]) -> None:
        for number in self._shards.numbers():
            if number not in kept:
                self._shards.delete(number)
