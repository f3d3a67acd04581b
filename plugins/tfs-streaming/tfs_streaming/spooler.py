"""From a stream of tokens to shards on disk, a few of them ahead of training, in a thread of its own."""

import threading
from collections.abc import Callable

from tfs_core.errors import DataError, TfsError
from tfs_streaming.shards import Shard, ShardFolder, StreamPlace
from tfs_streaming.token_stream import TokenStream

SHARDS_AHEAD = 2
"""How many shards wait for training, besides the one it reads."""

ATTEMPTS = 3
RETRY_SECONDS = 5.0
"""What could not be had is tried again after so long; when it failed so often training is told, once it needs it."""

CLOSE_SECONDS = 3.0
"""A thread that does not end when it is told to, because the network keeps it, is left behind after so long."""

NeededShards = Callable[[], set[int]]
"""Returns the shards that the kept checkpoints need."""


class Spooler:
    """Writes the shards from one on, each when training has come near it, and deletes those that nobody needs."""

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
        self._changed = threading.Condition()  # guards all below
        self._starts: dict[int, StreamPlace] = {}
        self._next = 0  # the shard to be written next
        self._wanted = 0  # the shard that training reads
        self._failures = 0  # since the last shard
        self._error: Exception | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="spooler", daemon=True)

    def start(self, number: int, place: StreamPlace) -> None:
        """Begin with a shard, of which the place is known; those that are there already are not made again."""
        self._wanted, self._starts[number] = number, place
        while (shard := self._shards.open(number)) is not None and shard.start == place:
            number, place = number + 1, shard.end
            self._starts[number] = place
        self._next = number
        self._thread.start()

    def wait(self, number: int, *, seconds: float) -> bool:
        """Say that training has come to a shard, and return whether it is there, after so long at most.

        Raises DataError when it is not and could not be made.
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
                raise DataError(str(self._error)) from self._error
            if self._error is not None:
                raise self._error
            return False

    def open(self, number: int) -> Shard:
        """Return a shard for which `wait` returned True. Raises DataError when somebody has deleted it since."""
        shard = self._shards.open(number)
        if shard is None:
            raise DataError(
                f"shard {number} is not in {self._shards.folder} any more. Resume the run: it is made again."
            )
        return shard

    def start_of(self, number: int) -> StreamPlace:
        """Return where a shard begins that training has come to, or reads next."""
        return self._starts[number]

    def close(self) -> None:
        """End the thread, and keep on the disk only the shards that a kept checkpoint needs."""
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
                self._failures += 1
                if self._failures >= ATTEMPTS:
                    self._tell(error)
                else:
                    self._report(f"{error} It is tried again in {RETRY_SECONDS:g} seconds.")
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, timeout=RETRY_SECONDS)
            except Exception as error:  # a mistake: training raises it
                self._tell(error)
                return

    def _tell(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _spool(self) -> None:
        """Write shard after shard, each once there is room ahead of training. Raises what breaks the stream."""
        for tokens, start, end in self._stream.shards(self._starts[self._next], size=self._size):
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._next <= self._wanted + SHARDS_AHEAD)
                if self._stopped:
                    return
                number, wanted = self._next, self._wanted
            # `wanted` is read before the checkpoints are looked at: one that is saved after that needs no shard before
            # it.
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
