"""The training text of a source that streams, as an endless stream of tokens: epoch after epoch, from any place on."""

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
    """The tokens that a tokenizer makes of a source, from any place on."""

    def __init__(self, source: DatasetSource, tokenizer: Tokenizer, *, division: Division | None) -> None:
        """`division` says which documents are held out for validation; None for none of them."""
        assert isinstance(source, SupportsStreaming)
        self._streamed: SupportsStreaming = source
        self.source: DatasetSource = source
        self.tokenizer = tokenizer
        self._division = division
        held_out = None if division is None else division.to_json()
        self.fingerprint = hash_of([source.fingerprint(), tokenizer.fingerprint(), held_out])

    def shards(self, start: StreamPlace, *, size: int) -> Iterator[tuple[NDArray[Any], StreamPlace, StreamPlace]]:
        """Iterate over the stream from a place on, cut into shards: (tokens, where it begins, where it ends).

        The tokens are uint16 or uint32 [1 + size]: the one before the shard comes first. What breaks the stream is
        raised after all shards before it.
        """
        broken_off: Exception | None = None
        documents: deque[StreamPlace] = deque()  # those that are not cut yet; the first began at `document_began`

        def noting_documents() -> Iterator[tuple[str, Piece]]:
            """Pass the pieces on to be encoded, up to where the stream breaks off, if it does."""
            nonlocal broken_off
            try:
                for place, piece in self.pieces(start):
                    if piece.begins:
                        documents.append(place)
                    yield "train", piece
            except Exception as error:  # whatever it is: what came before it is encoded first
                broken_off = error

        tokens = np.empty(1 + size, dtype=token_dtype(self.tokenizer.vocab_size))
        tokens[0] = self.tokenizer.end_of_text_id
        filled = 0
        # Tokens are counted from the first shard's first: those before it, of the document it begins in, from below 0.
        count = document_began = -start.token
        document_ends: deque[int] = deque()
        for block in encode(noting_documents(), self.tokenizer):
            document_ends.extend((block.document_ends + count).tolist())
            new = block.tokens
            if count < 0:
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
                # A document that ends right here stays the first: its place, and all its tokens, say where the next
                # begins.
                while document_ends and document_ends[0] < count:
                    document_began = document_ends.popleft()
                    documents.popleft()
                end = StreamPlace(documents[0].epoch, documents[0].document, count - document_began)
                yield tokens, start, end
                start, filled = end, 0
                tokens = np.concatenate([tokens[-1:], np.empty(size, dtype=tokens.dtype)])
        assert broken_off is not None, "a stream has no end"
        raise broken_off

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
        """Release what reading the source holds."""
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
