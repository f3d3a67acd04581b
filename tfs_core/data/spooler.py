"""From a source that streams to shards on disk, a few of them ahead of training, in a thread of its own."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfs_core.contracts import DatasetSource, SupportsStreaming, Tokenizer
from tfs_core.data.documents import Division, Piece, cut_into_pieces, describe, hash_of
from tfs_core.data.encoder import Encoder, Progress
from tfs_core.data.shards import Shard, ShardFolder, StreamPlace
from tfs_core.data.store import token_dtype
from tfs_core.errors import DataError, TfsError

SHARDS_AHEAD = 2
"""How many shards wait for training, besides the one it reads."""

ATTEMPTS = 3
RETRY_SECONDS = 5.0
"""What could not be had is tried again after so long; when it failed so often training is told, once it needs it."""

CLOSE_SECONDS = 3.0
"""A thread that does not end when it is told to, because the network keeps it, is left behind after so long."""

NeededShards = Callable[[], set[int]]
"""Returns the shards that the kept checkpoints need."""


class TokenStream:
    """The training text of a source that streams, without end: epoch after epoch, as tokens are made from it."""

    def __init__(self, source: DatasetSource, tokenizer: Tokenizer, *, division: Division | None) -> None:
        """`division` says which documents are held out for validation; None for none of them."""
        assert isinstance(source, SupportsStreaming)
        self._streamed: SupportsStreaming = source
        self.source: DatasetSource = source
        self.tokenizer = tokenizer
        self._division = division
        held_out = None if division is None else division.to_json()
        self.fingerprint = hash_of([source.fingerprint(), tokenizer.fingerprint(), held_out])

    def pieces(self, start: StreamPlace) -> Iterator[tuple[StreamPlace, Piece]]:
        """Iterate over the text from the document of a place on, each piece with the place where its document begins.

        Empty documents and those that are held out for validation are left out. Raises DataError.
        """
        epoch, document = start.epoch, start.document
        while True:
            found = False
            for place, piece in self._one_epoch(document):
                found = True
                yield StreamPlace(epoch, place), piece
            if not found and not document:
                raise DataError(f"{describe(self.source)}: there is no text in its train split. Add a document to it.")
            epoch, document = epoch + 1, ()

    def close(self) -> None:
        """Let go of what reading the source holds."""
        self._streamed.close()

    def _one_epoch(self, start: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Piece]]:
        place = start

        def parts() -> Iterator[tuple[str, bool]]:
            nonlocal place
            for found, document in self._streamed.stream("train", start):
                place = tuple(found)
                yield document, True

        pieces = cut_into_pieces(parts(), self.source)
        divided = (("train", piece) for piece in pieces) if self._division is None else self._division.divide(pieces)
        for split, piece in divided:
            if split == "train" and not piece.is_empty_document:
                yield place, piece


class Spooler:
    """Writes the shards from one on, each when training has come near it, and deletes those that nobody needs."""

    def __init__(
        self, stream: TokenStream, shards: ShardFolder, *, size: int, needed: NeededShards, report: Progress
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
            except _StoppedError:
                return
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
        """Write shard after shard, from the next one on. Raises _StoppedError in the end, or what broke the stream."""
        place = self._starts[self._next]
        tokenizer = self._stream.tokenizer
        cutter = _Cutter(place, self._hand_over, tokenizer=tokenizer, size=self._size, folder=self._shards.folder)
        pieces = cutter.noting_places(self._stream.pieces(place))
        Encoder(tokenizer, {"train": cutter}, lambda _line: None).write_all(pieces)
        assert cutter.broken_off is not None, "a stream has no end"
        raise cutter.broken_off

    def _hand_over(self, tokens: NDArray[Any], start: StreamPlace, end: StreamPlace) -> None:
        """Write the next shard once there is room ahead of training."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._next <= self._wanted + SHARDS_AHEAD)
            if self._stopped:
                raise _StoppedError
            number, wanted = self._next, self._wanted
        # `wanted` is read before the checkpoints are looked at: one that is saved after that needs no shard before it.
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


class _StoppedError(Exception):
    """The spooler is to end."""


class _Cutter:
    """Cuts the tokens that an encoder writes into shards, and knows the place of each cut."""

    def __init__(
        self,
        start: StreamPlace,
        hand_over: Callable[[NDArray[Any], StreamPlace, StreamPlace], None],
        *,
        tokenizer: Tokenizer,
        size: int,
        folder: Path,
    ) -> None:
        self.folder = folder
        self.documents = 0
        self.n_bytes = 0
        self.broken_off: Exception | None = None
        self._hand_over = hand_over
        self._size = size
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._start = start  # of the shard that is being filled
        self._tokens = np.empty(1 + size, dtype=self._dtype)
        self._tokens[0] = tokenizer.end_of_text_id
        self._filled = 0
        # Tokens are counted from the first shard's first: those before it, of the document it begins in, from below 0.
        self._count = self._document_began = -start.token
        self._document_ends: deque[int] = deque()
        self._documents: deque[StreamPlace] = deque()  # the first is the one that `_document_began` is of

    def noting_places(self, pieces: Iterator[tuple[StreamPlace, Piece]]) -> Iterator[tuple[str, Piece]]:
        """Pass the pieces on to the encoder, as it takes them; up to where the stream breaks off, if it does."""
        try:
            for place, piece in pieces:
                if piece.begins:
                    self._documents.append(place)
                yield "train", piece
        except Exception as error:  # whatever it is: what came before it is encoded first
            self.broken_off = error

    def add_block(self, tokens: NDArray[Any], document_ends: NDArray[np.int64], n_bytes: int) -> None:
        """Append tokens, end of text included: `document_ends` are the places behind those."""
        self._document_ends.extend((document_ends + self._count).tolist())
        self.documents += len(document_ends)
        self.n_bytes += n_bytes
        if self._count < 0:
            before = tokens[: -self._count]
            self._tokens[0] = before[-1]
            self._count += len(before)
            tokens = tokens[len(before) :]
        while len(tokens):
            part = tokens[: self._size - self._filled]
            self._tokens[1 + self._filled : 1 + self._filled + len(part)] = part
            self._filled += len(part)
            self._count += len(part)
            tokens = tokens[len(part) :]
            if self._filled == self._size:
                self._cut()

    def _cut(self) -> None:
        # A document that ends right here stays the first: its place, and all its tokens, say where the next begins.
        while self._document_ends and self._document_ends[0] < self._count:
            self._document_began = self._document_ends.popleft()
            self._documents.popleft()
        document = self._documents[0]
        end = StreamPlace(document.epoch, document.document, self._count - self._document_began)
        self._hand_over(self._tokens, self._start, end)
        self._start, self._filled = end, 0
        self._tokens = np.concatenate([self._tokens[-1:], np.empty(self._size, dtype=self._dtype)])
