"""Documents on their way to the token store: read in pieces, divided into training and validation text.

A document may be larger than memory (one big text file), so text travels in pieces of bounded size.

Validation text, where a data set has no split of its own, is held out by document, chosen by a draw from the hash of
its content: the same document is always on the same side, however often it occurs. If there is much text every
document draws for itself; if there is little, documents are taken in the order of their draws until they make up the
share asked for. If there is only one document, its tail is held out, from a line's end on.
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

PIECE_CHARACTERS = 1 << 16
"""No piece is longer. Changing it changes `DIVISION_VERSION`: long documents are drawn by their first piece."""

MUCH_TEXT = 1 << 26
MANY_DOCUMENTS = 100_000
"""Characters, or documents, from which on each document draws for itself: enough for the share to come out right."""

DIVISION_VERSION = 1
"""Changes when the same source would be divided otherwise."""

STREAM_BEGINNING = 20_000
"""Training documents that stand for a stream, which is not held: a tokenizer is trained on them, and a model tried."""

STREAM_CHARACTERS = 1 << 25
"""The beginning of a stream ends after so many characters, if that comes first: documents may be books."""

STREAM_VALIDATION = 1_000
"""Documents held out of a stream for validation, where nobody says how many: of all, the share would have no end."""

_WORD_END = re.compile(r"(?<=\S)(?=\s)")
_CUT_WINDOW = 1 << 12

Quotas = Mapping[str, int | None]
"""For each split, how many documents to take at most; None for all."""


class Piece(NamedTuple):
    """A document, or a part of a long one."""

    text: str
    document: int  # its document's place in what the source gives: 0, 1, 2, ...
    begins: bool  # the document begins with it
    ends: bool  # the document ends with it

    @property
    def is_empty_document(self) -> bool:
        """Whether this is a whole document without a character in it."""
        return self.begins and self.ends and not self.text


def describe(source: DatasetSource) -> str:
    """Return what messages call a source: its `description` if it has one."""
    return str(getattr(source, "description", type(source).__name__))


def read_pieces(source: DatasetSource, split: str) -> Iterator[Piece]:
    """Iterate over the text of a split, no piece longer than `PIECE_CHARACTERS`, as `cut_into_pieces` says."""
    if isinstance(source, SupportsPieces):
        return cut_into_pieces(source.pieces(split), source)
    return cut_into_pieces(((document, True) for document in source.documents(split)), source)


def cut_into_pieces(parts: Iterable[tuple[str, bool]], source: DatasetSource) -> Iterator[Piece]:
    """Iterate over the text of documents that come in parts: (text, whether its document ends with it).

    A long document is cut where whitespace begins, if there is any near: there a byte-level BPE that looks ahead but
    not behind, as GPT-2's does, cuts too, so that the ids of the pieces are those of the whole. Raises DataError for
    text with a lone surrogate.
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
    """Return the last position up to `stop` where whitespace follows something else; `stop` if there is none near."""
    ends = [match.start() for match in _WORD_END.finditer(text, stop - _CUT_WINDOW, stop)]
    return ends[-1] if ends else stop


def _checked(piece: Piece, source: DatasetSource) -> Piece:
    """Return the piece. Raises DataError when it is not Unicode text."""
    try:
        piece.text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{describe(source)}: document {piece.document + 1} is not Unicode text: it holds the lone surrogate "
            f"U+{ord(piece.text[error.start]):04X}, half a character. Replace it where the text comes from."
        ) from error
    return piece


def split_pieces(source: DatasetSource, *, quotas: Quotas, validation_fraction: float) -> Iterator[tuple[str, Piece]]:
    """Iterate over (split, piece), the splits being "train" and "validation", up to the quota of each.

    A source's own validation split is used where there is one; else documents are held out as the module says. Of a
    stream, the training documents end after `STREAM_CHARACTERS`.
    Raises DataError when there is too little text to hold any of it out.
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
    """Pass on the first so many documents of each split, and stop reading when every quota is filled.

    Of the training documents no more are passed on once they have `most_characters`.
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
    """Which of a source's documents are held out."""

    fraction: float
    draws: frozenset[float] | None = None  # those held out; None for all below `fraction`
    tail_from: int | None = None  # where there is one document (or copies of one): the characters before the tail
    characters: int = 0  # in all, where there is one document

    @classmethod
    def of(cls, source: DatasetSource, fraction: float) -> "Division":
        """Return how the source's documents divide; reads all of it if that is little, else the beginning."""
        sizes: dict[float, int] = {}  # draw -> characters of the documents that drew it
        documents, characters, lowest, highest = 0, 0, 1.0, 0.0
        for piece in read_pieces(source, "train"):
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
                f"{describe(source)}: there is a single character in it, which leaves nothing to hold out for "
                "validation. Give it more text, or a validation split of its own."
            )
        if len(sizes) > 1:
            return cls(fraction, draws=_share(sizes, fraction * characters))
        if isinstance(source, SupportsStreaming):
            raise DataError(f"{describe(source)}: a single document is no stream. Leave its `streaming` out.")
        smallest_side = characters // documents if documents > 1 else 1
        tail_from = min(max(round(characters * (1 - fraction)), smallest_side), characters - smallest_side)
        return cls(fraction, tail_from=tail_from, characters=characters if documents == 1 else 0)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Division":
        """Return what `to_json` wrote down."""
        draws = values["draws"]
        return cls(values["fraction"], None if draws is None else frozenset(draws))

    def to_json(self) -> dict[str, Any]:
        """Return, as JSON values, how a stream divides, wherever one begins to read it."""
        assert self.tail_from is None, "what is held out of a single document hangs on where it stands"
        return {"fraction": self.fraction, "draws": None if self.draws is None else sorted(self.draws)}

    def divide(self, pieces: Iterable[Piece]) -> Iterator[tuple[str, Piece]]:
        """Give every piece its split."""
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
        """Return whether the document that begins with this piece, after so many characters, is held out."""
        if self.tail_from is not None:
            return seen >= self.tail_from
        draw = _draw(piece.text)
        return draw < self.fraction if self.draws is None else draw in self.draws

    def _cut(self, text: str, seen: int) -> int | None:
        """Return where the tail of the only document begins in its piece `text`; None when it does not.

        It is the first line's end from `tail_from` on, or, if there is none, `tail_from` itself.
        """
        if self.tail_from is None or not self.characters or seen + len(text) <= self.tail_from:
            return None
        at = max(self.tail_from - seen, 1)
        line_end = text.find("\n", at) + 1
        return line_end if line_end and seen + line_end < self.characters else at


def _share(sizes: Mapping[float, int], wanted: float) -> frozenset[float]:
    """Return the lowest draws whose sizes add up to about `wanted`: at least one, and not all."""
    taken: set[float] = set()
    left = wanted
    for draw in sorted(sizes):
        if sizes[draw] < 2 * left:  # then taking it comes nearer to what is wanted than leaving it
            taken.add(draw)
            left -= sizes[draw]
    if not taken:
        taken.add(min(sizes, key=lambda draw: sizes[draw]))
    if len(taken) == len(sizes):
        taken.remove(min(sizes, key=lambda draw: sizes[draw]))
    return frozenset(taken)


def _draw(text: str) -> float:
    """Return a number from 0 to 1 that follows from the content of the piece a document begins with."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


@dataclass(frozen=True)
class TrainingText:
    """The text that a run trains on, for a tokenizer that is trained on demand: validation text is not in it.

    Calling it iterates over the text, long documents in pieces.
    """

    source: DatasetSource
    subset_size: int | None = None
    validation_fraction: float = 0.01

    @property
    def fingerprint(self) -> str:
        """A short string that changes when the text does."""
        has_own = "validation" in self.source.splits()
        held_out = None if has_own else [DIVISION_VERSION, self.validation_fraction]
        return hash_of([self.source.fingerprint(), documents_taken(self.source, self.subset_size), held_out])

    def __call__(self) -> Iterator[str]:
        """Iterate over the text, always in the same order."""
        quotas = {"train": documents_taken(self.source, self.subset_size), "validation": 0}
        for _, piece in split_pieces(self.source, quotas=quotas, validation_fraction=self.validation_fraction):
            if piece.text:
                yield piece.text


def documents_taken(source: DatasetSource, subset_size: int | None) -> int | None:
    """Return how many training documents are held, None for all: of a stream, its beginning unless told otherwise."""
    return STREAM_BEGINNING if subset_size is None and isinstance(source, SupportsStreaming) else subset_size


def documents_held_out(source: DatasetSource, val_subset_size: int | None) -> int | None:
    """Return how many validation documents are held, None for all there are; a stream's draws would have no end."""
    endless = isinstance(source, SupportsStreaming) and "validation" not in source.splits()
    return STREAM_VALIDATION if val_subset_size is None and endless else val_subset_size


def hash_of(values: object) -> str:
    """Return 20 hexadecimal digits that are the same for the same plain JSON values, on every machine."""
    canonical = json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:20]
