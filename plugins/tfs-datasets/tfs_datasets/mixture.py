"""`mixture`: several data sets as one, each with a weight.

A weight says how often an epoch shows a source's text: 2 means every document twice, 0.5 half of the documents, drawn
by their content, so that the same ones are taken each time and copies of a document stay together. The documents come
interleaved, the next one from the source that is furthest behind its weight: so the beginning of a mixture
(`subset_size`) is mixed as well, and a source that ends early leaves the rest to the others.
"""

import hashlib
import heapq
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfs_core.contracts import DatasetSource, SupportsLeftOut, SupportsStreaming
from tfs_core.data.documents import Piece, describe, hash_of, read_pieces
from tfs_core.data.prepare import build_source
from tfs_core.errors import ConfigError, DataError
from tfs_datasets.config import MixtureConfig

Document = Iterator[tuple[str, bool]]
"""The parts of a document, each with whether it is the last."""


class Mixture:
    """Sources by weight. A validation split there is when every source has one, each of them whole, one by one."""

    def __init__(self, sources: Sequence[tuple[DatasetSource, float]]) -> None:
        self._sources = sources
        self.description = "a mixture of " + ", ".join(f"{weight:g} x {describe(source)}" for source, weight in sources)

    def splits(self) -> Sequence[str]:
        """Return `train`, and `validation` when every source has that."""
        all_have_it = all("validation" in source.splits() for source, _ in self._sources)
        return ("train", "validation") if all_have_it else ("train",)

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over the documents of all sources."""
        parts: list[str] = []
        for part, ends in self.pieces(split):
            parts.append(part)
            if ends:
                yield "".join(parts)
                parts.clear()

    def pieces(self, split: str) -> Iterator[tuple[str, bool]]:
        """Iterate over the documents in parts: (text, whether its document ends with it)."""
        if split == "validation":
            for source, _ in self._sources:
                for piece in read_pieces(source, split):
                    yield piece.text, piece.ends
            return
        streams = [_weighted(source, split, weight) for source, weight in self._sources]
        behind = [(0.0, place) for place in range(len(streams))]  # (documents given / weight, which source)
        given = [0] * len(streams)
        while behind:
            _, place = heapq.heappop(behind)
            document = next(streams[place], None)
            if document is not None:
                yield from document
                given[place] += 1
                heapq.heappush(behind, (given[place] / self._sources[place][1], place))
            elif not given[place]:
                source, weight = self._sources[place]
                raise DataError(
                    f"mixture: a weight of {weight:g} leaves nothing of {describe(source)}: it has too few documents. "
                    "Give it a weight of 1, or divide it into more documents."
                )

    def left_out(self) -> Sequence[str]:
        """Return what the sources left out."""
        return [
            line for source, _ in self._sources if isinstance(source, SupportsLeftOut) for line in source.left_out()
        ]

    def fingerprint(self) -> str:
        """Return a hash of all sources and weights."""
        return hash_of(["mixture", [[source.fingerprint(), weight] for source, weight in self._sources]])


def _weighted(source: DatasetSource, split: str, weight: float) -> Iterator[Document]:
    """Iterate over the documents of as many readings as the weight says, the last of them perhaps of a share."""
    for reading in range(math.ceil(weight)):
        share = weight - reading
        for document in _documents(read_pieces(source, split)):
            first = next(document)
            if share >= 1 or _draw(first[0]) < share:
                yield _again(first, document)
            else:
                for _ in document:
                    pass


def _documents(pieces: Iterator[Piece]) -> Iterator[Document]:
    """Divide pieces into documents, each to be read to its end before the next."""

    def rest(piece: Piece) -> Document:
        yield piece.text, piece.ends
        while not piece.ends:
            piece = next(pieces)
            yield piece.text, piece.ends

    for piece in pieces:
        yield rest(piece)


def _again(first: tuple[str, bool], rest: Document) -> Document:
    yield first
    yield from rest


def _draw(text: str) -> float:
    """Return a number from 0 to 1 that follows from a text, and not the one that validation text is drawn by."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8, person=b"tfs-mixture").digest()
    return int.from_bytes(digest, "big") / 2.0**64


def build(config: MixtureConfig, *, assets: Path, offline: bool) -> Mixture:
    """Return the mixture of the data sets that the configuration names. Raises DataError when one cannot be had."""
    sources = []
    for source in config.sources:
        built = build_source(source.dataset, assets=assets, offline=offline)
        if isinstance(built, SupportsStreaming):
            raise ConfigError(
                f"mixture: '{source.dataset.name}' cannot be streamed in a mixture, which is made into tokens as a "
                "whole. Leave its `streaming` out, or train on it alone."
            )
        sources.append((built, source.weight))
    return Mixture(sources)
