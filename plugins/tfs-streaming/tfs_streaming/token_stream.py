"""The training text of a streaming source as an endless stream of tokens, epoch after epoch, from any position."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfs_core.contracts import DatasetSource, SupportsStreaming, Tokenizer
from tfs_core.data.documents import Division, Piece, cut_into_pieces, describe, hash_of
from tfs_core.data.encoder import encode
from tfs_core.data.store import token_dtype
from tfs_core.errors import DataError
from tfs_streaming.shards import StreamPlace


class TokenStream:
    """The tokens of a source, readable from any position."""

    def __init__(self, source: DatasetSource, tokenizer: Tokenizer, *, division: Division | None) -> None:
        """`division` selects the documents that are held out for validation; with None, no documents are held out."""
        assert isinstance(source, SupportsStreaming)
        self._streamed: SupportsStreaming = source
        self.source: DatasetSource = source
        self.tokenizer = tokenizer
        self._division = division
        held_out = None if division is None else division.to_json()
        self.fingerprint = hash_of([source.fingerprint(), tokenizer.fingerprint(), held_out])

    def shards(self, start: StreamPlace, *, size: int) -> Iterator[tuple[NDArray[Any], StreamPlace, StreamPlace]]:
        """Iterate over the stream from a position on, cut into shards: (tokens, start position, end position).

        The tokens are uint16 or uint32 [1 + size], the first being the token before the shard. When the source raises
        an error, the complete shards are yielded first; then the error is raised.
        """
        source_error: Exception | None = None
        documents: deque[StreamPlace] = deque()  # not fully cut yet; the first began at `document_began`

        def recorded_pieces() -> Iterator[tuple[str, Piece]]:
            """Iterate over the pieces, and record where documents begin. Ends when the source raises an error."""
            nonlocal source_error
            try:
                for place, piece in self.pieces(start):
                    if piece.begins:
                        documents.append(place)
                    yield "train", piece
            except Exception as error:  # any error: first encode the text before it
                source_error = error

        tokens = np.empty(1 + size, dtype=token_dtype(self.tokenizer.vocab_size))
        tokens[0] = self.tokenizer.end_of_text_id
        filled = 0
        # Token positions are relative to the first shard: its first token is 0, and the earlier tokens of the document
        # that it begins in have negative positions.
        count = document_began = -start.token
        document_ends: deque[int] = deque()
        for block in encode(recorded_pieces(), self.tokenizer):
            document_ends.extend((block.document_ends + count).tolist())
            new = block.tokens
            if count < 0:
                if document_ends and document_ends[0] < 0:
                    raise DataError(
                        f"{describe(self.source)}: a document has fewer tokens than when the checkpoint was saved, so "
                        "the run cannot continue at its position in the stream. Start a new run."
                    )
                before, new = new[:-count], new[-count:]
                tokens[0] = before[-1]
                count += len(before)
            while len(new):
                part, new = new[: size - filled], new[size - filled :]
                tokens[1 + filled : 1 + filled + len(part)] = part
                filled += len(part)
                count += len(part)
                if filled < size:
                    continue
                # A document that ends exactly at the shard's end stays in `documents`: its position plus all its tokens
                # is the start of the next shard.
                while document_ends and document_ends[0] < count:
                    document_began = document_ends.popleft()
                    documents.popleft()
                end = StreamPlace(documents[0].epoch, documents[0].document, count - document_began)
                yield tokens, start, end
                start, filled = end, 0
                tokens = np.concatenate([tokens[-1:], np.empty(size, dtype=tokens.dtype)])
        assert source_error is not None, "a stream has no end"
        raise source_error

    def pieces(self, start: StreamPlace) -> Iterator[tuple[StreamPlace, Piece]]:
        """Iterate over the text from the document at `start` on, each piece with the position of its document.

        Empty documents and documents held out for validation are skipped. Raises DataError when an epoch has no text.
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
        """Release the open files and temporary downloads of the source."""
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
