"""Reading documents in pieces, and dividing them into training and validation text.

A document may be larger than memory (one big text file), so text is processed in pieces of bounded size.

If a data set has no validation split, whole documents are held out. A hash of its content gives each document a draw, a
uniform number in [0, 1], so that copies of a document are always in the same split. With much text, all documents with
a draw below the fraction are held out. With little text, documents are held out in the order of their draws until they
make up the fraction. If there is only one document, its end is held out, from the end of a line on.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tfs_core.contracts import DatasetSource, SupportsPieces, SupportsStreaming
from tfs_core.errors import DataError
from tfs_core.progress import progress

PIECE_CHARACTERS = 1 << 16
"""Maximum length of a piece. The draw of a long document is the hash of its first piece, so a change of this value
requires a new `DIVISION_VERSION`."""

MUCH_TEXT = 1 << 26
MANY_DOCUMENTS = 100_000
"""From this many characters or documents on, the draws alone give the fraction with sufficient accuracy."""

DIVISION_VERSION = 1
"""Must change whenever the division of an existing source changes."""

STREAM_BEGINNING = 20_000
"""Default number of a stream's training documents to store: for training a tokenizer, and for trial batches."""

STREAM_CHARACTERS = 1 << 25
"""Limit on the total characters of these training documents: a single one may be as long as a book."""

STREAM_VALIDATION = 1_000
"""Default number of documents held out of a stream for validation: a fraction of an unlimited stream is unlimited."""

_WORD_END = re.compile(r"(?<=\S)(?=\s)")
_CUT_WINDOW = 1 << 12

Quotas = Mapping[str, int | None]
"""{split: maximum number of documents}; None for all."""


class Piece(NamedTuple):
    """A document, or a part of a long one."""

    text: str
    document: int  # index of its document in the source: 0, 1, 2, ...
    begins: bool  # this is the first piece of the document
    ends: bool  # this is the last piece of the document

    @property
    def is_empty_document(self) -> bool:
        """True for a document without any text."""
        return self.begins and self.ends and not self.text


def describe(source: DatasetSource) -> str:
    """Return the name of a source in messages: its `description`, or else its class name."""
    return str(getattr(source, "description", type(source).__name__))


def read_pieces(source: DatasetSource, split: str) -> Iterator[Piece]:
    """Iterate over the text of a split in pieces of at most `PIECE_CHARACTERS`; see `cut_into_pieces`."""
    if isinstance(source, SupportsPieces):
        return cut_into_pieces(source.pieces(split), source)
    return cut_into_pieces(((document, True) for document in source.documents(split)), source)


def cut_into_pieces(parts: Iterable[tuple[str, bool]], source: DatasetSource) -> Iterator[Piece]:
    """Iterate over pieces of documents that are given in parts: (text, True for the last part of its document).

    A long document is cut before whitespace if possible. A byte-level BPE such as GPT-2's also splits there, so the
    pieces have the same ids as the whole document. Raises DataError for text with a lone surrogate.
    """
    document, begins, rest = 0, True, ""
    for part, ends in parts:
        text, start = rest + part, 0
        while len(text) - start > PIECE_CHARACTERS:
            cut = _last_word_end(text, start + PIECE_CHARACTERS)
            yield _checked(Piece(text[start:cut], document, begins, False), source)
            begins, start = False, cut
        rest = text[start:]
        if ends:
            yield _checked(Piece(rest, document, begins, True), source)
            document, begins, rest = document + 1, True, ""


def _last_word_end(text: str, stop: int) -> int:
    """Return the last position before `stop` where a word ends; `stop` if there is none nearby."""
    ends = [match.start() for match in _WORD_END.finditer(text, stop - _CUT_WINDOW, stop)]
    return ends[-1] if ends else stop


def _checked(piece: Piece, source: DatasetSource) -> Piece:
    """Return the piece. Raises DataError when it is not valid Unicode."""
    try:
        piece.text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{describe(source)}: document {piece.document + 1} is not Unicode text: it contains the lone surrogate "
            f"U+{ord(piece.text[error.start]):04X}, half a character. Replace it in the source of the text."
        ) from error
    return piece


def split_pieces(source: DatasetSource, *, quotas: Quotas, validation_fraction: float) -> Iterator[tuple[str, Piece]]:
    """Iterate over (split, piece) for the splits "train" and "validation", up to the quota of each.

    Uses the source's validation split if it has one; otherwise holds out documents (see the module docstring). The
    training documents of a stream end after `STREAM_CHARACTERS`. Raises DataError when there is too little text to hold
    any out.
    """
    most = STREAM_CHARACTERS if isinstance(source, SupportsStreaming) else math.inf
    if "validation" in source.splits():
        for split in ("train", "validation"):
            pieces = ((split, piece) for piece in read_pieces(source, split))
            yield from _up_to_quota(pieces, {split: quotas[split]}, most)
    else:
        division = Division.of(source, validation_fraction)
        yield from _up_to_quota(division.divide(read_pieces(source, "train")), quotas, most)


def _up_to_quota(
    pieces: Iterable[tuple[str, Piece]], quotas: Quotas, most_characters: float
) -> Iterator[tuple[str, Piece]]:
    """Yield the documents of each split up to its quota, and stop reading when all quotas are reached.

    Training documents also end once they have `most_characters` characters.
    """
    taken: Counter[str] = Counter()
    characters = 0
    full = {split for split, quota in quotas.items() if quota == 0}
    skipping = False
    for split, piece in pieces:
        if piece.begins:
            if len(full) == len(quotas):
                return
            skipping = split in full
        if skipping:
            continue
        yield split, piece
        if split == "train":
            characters += len(piece.text)
        if piece.ends and not piece.is_empty_document:
            taken[split] += 1
            if taken[split] == quotas[split] or (split == "train" and characters >= most_characters):
                full.add(split)


@dataclass(frozen=True)
class Division:
    """The division of a source's documents into training and validation text."""

    fraction: float
    draws: frozenset[float] | None = None  # draws that are held out; None for all below `fraction`
    tail_from: int | None = None  # for a single distinct document: characters before the held-out end
    characters: int = 0  # for a single document: its length

    @classmethod
    def of(cls, source: DatasetSource, fraction: float) -> "Division":
        """Return the division of a source's documents. Reads all of a small source, the beginning of a large one.

        Raises DataError for a source without enough text, and for a single document that is streamed.
        """
        sizes: dict[float, int] = {}  # draw -> characters of the documents with this draw
        documents, characters, lowest, highest = 0, 0, 1.0, 0.0
        with progress("dividing the text", unit="characters") as advance:
            for piece in read_pieces(source, "train"):
                advance(len(piece.text))
                if piece.is_empty_document:
                    continue
                if piece.begins:
                    much = characters >= MUCH_TEXT or documents >= MANY_DOCUMENTS
                    if much and lowest < fraction <= highest:
                        return cls(fraction)
                    draw = _draw(piece.text)
                    lowest, highest = min(lowest, draw), max(highest, draw)
                    documents += 1
                sizes[draw] = sizes.get(draw, 0) + len(piece.text)
                characters += len(piece.text)
        if not documents:
            raise DataError(f"{describe(source)}: there is no text in it. Give it a document that is not empty.")
        if characters == 1:
            raise DataError(
                f"{describe(source)}: its text is a single character, which cannot be divided into training and "
                "validation text. Give it more text, or a validation split."
            )
        if len(sizes) > 1:
            return cls(fraction, draws=_share(sizes, fraction * characters))
        if isinstance(source, SupportsStreaming):
            raise DataError(f"{describe(source)}: a single document cannot be streamed. Leave `streaming` out.")
        smallest_side = characters // documents if documents > 1 else 1
        tail_from = min(max(round(characters * (1 - fraction)), smallest_side), characters - smallest_side)
        return cls(fraction, tail_from=tail_from, characters=characters if documents == 1 else 0)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Division":
        """Return the division stored by `to_json`."""
        draws = values["draws"]
        return cls(values["fraction"], None if draws is None else frozenset(draws))

    def to_json(self) -> dict[str, Any]:
        """Return the division as JSON values. Only for streams: their division depends on the documents alone."""
        assert self.tail_from is None, "the division of a single document depends on positions"
        return {"fraction": self.fraction, "draws": None if self.draws is None else sorted(self.draws)}

    def divide(self, pieces: Iterable[Piece]) -> Iterator[tuple[str, Piece]]:
        """Iterate over (split, piece). If a single document is divided within a piece, this piece is cut in two."""
        seen, split = 0, "train"
        for piece in pieces:
            if piece.begins and not piece.is_empty_document:
                split = "validation" if self._holds_out(piece, seen) else "train"
            cut = self._cut(piece.text, seen) if split == "train" else None
            seen += len(piece.text)
            if cut is not None:
                yield "train", Piece(piece.text[:cut], piece.document, piece.begins, True)
                split, piece = "validation", Piece(piece.text[cut:], piece.document, True, piece.ends)
            yield split, piece

    def _holds_out(self, piece: Piece, seen: int) -> bool:
        """Return whether the document that starts with this piece, after `seen` characters, is held out."""
        if self.tail_from is not None:
            return seen >= self.tail_from
        draw = _draw(piece.text)
        return draw < self.fraction if self.draws is None else draw in self.draws

    def _cut(self, text: str, seen: int) -> int | None:
        """Return the index in `text` at which the held-out part of a single document starts, or None.

        That is the first end of a line from `tail_from` on, or `tail_from` itself if there is none.
        """
        if self.tail_from is None or not self.characters or seen + len(text) <= self.tail_from:
            return None
        at = max(self.tail_from - seen, 1)
        line_end = text.find("\n", at) + 1
        return line_end if line_end and seen + line_end < self.characters else at


def _share(sizes: Mapping[float, int], wanted: float) -> frozenset[float]:
    """Return low draws whose documents have about `wanted` characters in total: at least one draw, and not all."""
    taken: set[float] = set()
    left = wanted
    for draw in sorted(sizes):
        if sizes[draw] < 2 * left:  # taking it brings the sum closer to `wanted`
            taken.add(draw)
            left -= sizes[draw]
    if not taken:
        taken.add(min(sizes, key=lambda draw: sizes[draw]))
    if len(taken) == len(sizes):
        taken.remove(min(sizes, key=lambda draw: sizes[draw]))
    return frozenset(taken)


def _draw(text: str) -> float:
    """Return the draw of a document, a number in [0, 1], from a hash of its first piece."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


@dataclass(frozen=True)
class TrainingText:
    """The training text of a run, without validation text, for a tokenizer that is trained on it.

    Calling it iterates over the text, long documents in pieces.
    """

    source: DatasetSource
    subset_size: int | None = None
    validation_fraction: float = 0.01

    @property
    def fingerprint(self) -> str:
        """A short hash of the source and the selection, which changes when the text changes."""
        has_own = "validation" in self.source.splits()
        held_out = None if has_own else [DIVISION_VERSION, self.validation_fraction]
        return hash_of([self.source.fingerprint(), documents_taken(self.source, self.subset_size), held_out])

    def __call__(self) -> Iterator[str]:
        """Iterate over the text, in the same order each time."""
        quotas = {"train": documents_taken(self.source, self.subset_size), "validation": 0}
        for _, piece in split_pieces(self.source, quotas=quotas, validation_fraction=self.validation_fraction):
            if piece.text:
                yield piece.text


def documents_taken(source: DatasetSource, subset_size: int | None) -> int | None:
    """Return the number of training documents to store, None for all; a stream has a default limit."""
    return STREAM_BEGINNING if subset_size is None and isinstance(source, SupportsStreaming) else subset_size


def documents_held_out(source: DatasetSource, val_subset_size: int | None) -> int | None:
    """Return the number of validation documents to store, None for all.

    A stream without a validation split has a default limit.
    """
    endless = isinstance(source, SupportsStreaming) and "validation" not in source.splits()
    return STREAM_VALIDATION if val_subset_size is None and endless else val_subset_size


def hash_of(values: object) -> str:
    """Return a hash of JSON values: 20 hexadecimal digits, equal on all machines."""
    canonical = json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:20]
