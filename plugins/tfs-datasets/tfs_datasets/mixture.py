"""The data set `mixture`: several data sets combined, each with a weight.

A weight is the number of passes over a source in an epoch: 2 means every document twice, 0.5 half of the documents. The
half is drawn by a hash of the text, so every epoch has the same documents, and a document and its copies are either
all drawn or all skipped. The documents are interleaved: the next one always comes from the source that is furthest
behind its weight. The beginning of a mixture (`subset_size`) is therefore mixed too. When a source ends, the others
continue.
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
"""The parts of a document: (text, True for the last part)."""


class Mixture:
    """Weighted sources. If all sources have a validation split, those splits are concatenated without weights."""

    def __init__(self, sources: Sequence[tuple[DatasetSource, float]]) -> None:
        self._sources = sources
        self.description = "a mixture of " + ", ".join(f"{weight:g} x {describe(source)}" for source, weight in sources)

    def splits(self) -> Sequence[str]:
        """Return `train`, and `validation` if every source has it."""
        all_have_it = all("validation" in source.splits() for source, _ in self._sources)
        return ("train", "validation") if all_have_it else ("train",)

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over the documents of all sources. Raises DataError as `pieces` does."""
        parts: list[str] = []
        for part, ends in self.pieces(split):
            parts.append(part)
            if ends:
                yield "".join(parts)
                parts.clear()

    def pieces(self, split: str) -> Iterator[tuple[str, bool]]:
        """Iterate over the documents in parts: (text, True for the last part of a document).

        Raises DataError when a weight is so small that no document of its source remains.
        """
        if split == "validation":
            for source, _ in self._sources:
                for piece in read_pieces(source, split):
                    yield piece.text, piece.ends
            return
        streams = [_weighted(source, split, weight) for source, weight in self._sources]
        queue = [(0.0, index) for index in range(len(streams))]  # (documents so far / weight, index of the source)
        counts = [0] * len(streams)
        while queue:
            _, index = heapq.heappop(queue)
            document = next(streams[index], None)
            if document is not None:
                yield from document
                counts[index] += 1
                heapq.heappush(queue, (counts[index] / self._sources[index][1], index))
            elif not counts[index]:
                source, weight = self._sources[index]
                raise DataError(
                    f"mixture: a weight of {weight:g} leaves no documents of {describe(source)}: it has too few. "
                    "Give it a weight of 1, or divide it into more documents."
                )

    def left_out(self) -> Sequence[str]:
        """Return the reports of skipped input of all sources."""
        return [
            line for source, _ in self._sources if isinstance(source, SupportsLeftOut) for line in source.left_out()
        ]

    def fingerprint(self) -> str:
        """Return a hash of all sources and weights."""
        return hash_of(["mixture", [[source.fingerprint(), weight] for source, weight in self._sources]])


def _weighted(source: DatasetSource, split: str, weight: float) -> Iterator[Document]:
    """Iterate over the documents of `weight` passes. With a fractional weight, the last pass draws a part."""
    for complete_passes in range(math.ceil(weight)):
        share = weight - complete_passes
        for document in _documents(read_pieces(source, split)):
            first = next(document)
            if share >= 1 or _draw(first[0]) < share:
                yield _prepend(first, document)
            else:
                for _ in document:
                    pass


def _documents(pieces: Iterator[Piece]) -> Iterator[Document]:
    """Group pieces into documents. The caller must read each document to its end before the next one."""

    def rest(piece: Piece) -> Document:
        yield piece.text, piece.ends
        while not piece.ends:
            piece = next(pieces)
            yield piece.text, piece.ends

    for piece in pieces:
        yield rest(piece)


def _prepend(first: tuple[str, bool], rest: Document) -> Document:
    yield first
    yield from rest


def _draw(text: str) -> float:
    """Return a hash of a text as a number in [0, 1), independent of the hash that selects validation documents."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8, person=b"tfs-mixture").digest()
    return int.from_bytes(digest, "big") / 2.0**64


def build(config: MixtureConfig, *, assets: Path, offline: bool) -> Mixture:
    """Return the mixture of the data sets that the configuration names.

    Raises DataError when a data set is not available, and ConfigError when one is streamed.
    """
    sources = []
    for source in config.sources:
        built = build_source(source.dataset, assets=assets, offline=offline)
        if isinstance(built, SupportsStreaming):
            raise ConfigError(
                f"mixture: '{source.dataset.name}' cannot be streamed in a mixture, which is tokenized as a whole. "
                "Remove its option `streaming`, or train on it alone."
            )
        sources.append((built, source.weight))
    return Mixture(sources)
