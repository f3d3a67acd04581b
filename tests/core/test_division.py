"""The division into training and validation text must not change: fixed documents, fixed results.

A token store is identified by a hash of its inputs, which includes `DIVISION_VERSION` but not the code of the division.
If one of these tests fails, existing stores have a different division with the same hash: undo the change, or increase
`DIVISION_VERSION` and update the expected results here.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tfs_core.contracts import SupportsPieces, SupportsStreaming
from tfs_core.data import documents as module
from tfs_core.data.documents import DIVISION_VERSION, Division, TrainingText, hash_of, split_pieces
from tfs_core.data.prepare import prepare_tokens

VERSION = 1
"""The version of the division whose results are in this file."""

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class Documents:
    """A source of given documents."""

    description = "a test's documents"

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def splits(self) -> Sequence[str]:
        return ("train",)

    def documents(self, split: str) -> Iterator[str]:
        yield from self.texts

    def fingerprint(self) -> str:
        return hash_of(list(self.texts))


class InParts(Documents):
    """The same, three characters at a time."""

    def pieces(self, split: str) -> Iterator[tuple[str, bool]]:
        for text in self.texts:
            for start in range(0, len(text), 3):
                yield text[start : start + 3], False
            yield "", True


class Stream(Documents):
    """The same, as a stream."""

    def stream(self, split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], str]]:
        for index in range(start[0] if start else 0, len(self.texts)):
            yield (index,), self.texts[index]

    def pinned_options(self) -> None:
        return None

    def close(self) -> None:
        pass


class Bytes:
    """A byte tokenizer."""

    vocab_size = 257
    end_of_text_id = 256

    def encode_batch(self, texts: Sequence[str]) -> list[Any]:
        return [list(text.encode()) for text in texts]

    def fingerprint(self) -> str:
        return "bytes"


def uneven(n: int) -> list[str]:
    """Return documents of 7 to about 60 characters, not sorted by length."""
    return [f"text {i} " + " ".join(WORDS[: i * 7 % 11]) for i in range(n)]


def divided(source: Documents, fraction: float, **quotas: int | None) -> dict[str, list[int]]:
    """Return the indices of the documents of each split."""
    limits = {"train": None, "validation": None} | quotas
    found: dict[str, list[int]] = {"train": [], "validation": []}
    for split, piece in split_pieces(source, quotas=limits, validation_fraction=fraction):
        if piece.begins and not piece.is_empty_document:
            found[split].append(piece.document)
    return found


def test_answers_in_this_file_are_those_of_the_current_version() -> None:
    assert DIVISION_VERSION == VERSION
    assert isinstance(InParts([]), SupportsPieces)
    assert isinstance(Stream([]), SupportsStreaming)


@pytest.mark.parametrize("kind", [Documents, InParts, Stream])
@pytest.mark.parametrize(
    ("fraction", "held_out"),
    [
        (0.01, [19]),
        (0.1, [11, 19, 20, 22]),
        (0.3, [1, 9, 14, 16, 19, 20, 22]),
        (0.5, [1, 2, 7, 8, 9, 10, 11, 14, 16, 17, 19, 20, 22]),
        (0.9, [index for index in range(24) if index not in (18, 23)]),
    ],
)
def test_little_text_is_divided_as_in_earlier_versions(
    kind: type[Documents], fraction: float, held_out: list[int]
) -> None:
    kept = [index for index in range(24) if index not in held_out]
    assert divided(kind(uneven(24)), fraction) == {"train": kept, "validation": held_out}


@pytest.mark.parametrize(("limit", "value"), [("MANY_DOCUMENTS", 16), ("MUCH_TEXT", 500)])
@pytest.mark.parametrize(
    ("fraction", "held_out"),
    [(0.1, [19, 20, 34, 38, 52, 56]), (0.3, [1, 9, 11, 14, 16, 19, 20, 22, 30, 34, 38, 41, 51, 52, 56])],
)
def test_much_text_is_divided_as_in_earlier_versions(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int, fraction: float, held_out: list[int]
) -> None:
    monkeypatch.setattr(module, limit, value)
    assert divided(Documents(uneven(60)), fraction)["validation"] == held_out


@pytest.mark.parametrize("kind", [Documents, InParts, Stream])
def test_subsets_are_the_first_documents_of_the_same_division(kind: type[Documents]) -> None:
    source = kind(uneven(24))
    assert divided(source, 0.3, train=5, validation=2) == {"train": [0, 2, 3, 4, 5], "validation": [1, 9]}
    assert divided(source, 0.3, train=7)["validation"] == [1, 9, 14, 16, 19, 20, 22]
    assert divided(source, 0.3, train=0, validation=3) == {"train": [], "validation": [1, 9, 14]}


def test_sizes_that_decide_a_division_are_those_of_earlier_versions() -> None:
    sizes = (module.PIECE_CHARACTERS, module.MUCH_TEXT, module.MANY_DOCUMENTS, module.STREAM_BEGINNING)
    assert sizes == (65_536, 67_108_864, 100_000, 20_000)
    assert (module.STREAM_CHARACTERS, module.STREAM_VALIDATION, module._CUT_WINDOW) == (33_554_432, 1_000, 4_096)


def test_long_documents_are_divided_by_their_beginning_as_in_earlier_versions() -> None:
    texts = [f"book {i} " + "word " * 20_000 for i in range(8)]
    assert divided(Documents(texts), 0.4)["validation"] == [4, 6, 7]
    others = [text + f"the end of book {i}" for i, text in enumerate(texts)]
    assert divided(Documents(others), 0.4)["validation"] == [4, 6, 7]


@pytest.mark.parametrize(
    ("fraction", "tail"),
    [
        (0.05, "a line"),
        (0.2, " an end without a line"),
        (0.5, "line 9\nline 10\nline 11\nand an end without a line"),
        (0.9, "".join(f"line {i}\n" for i in range(2, 12)) + "and an end without a line"),
    ],
)
def test_tail_of_the_only_document_begins_where_it_did_in_earlier_versions(fraction: float, tail: str) -> None:
    text = "".join(f"line {i}\n" for i in range(12)) + "and an end without a line"
    pieces = split_pieces(Documents([text]), quotas={"train": None, "validation": None}, validation_fraction=fraction)
    assert "".join(piece.text for split, piece in pieces if split == "validation") == tail


def test_copies_of_one_document_are_divided_as_in_earlier_versions() -> None:
    assert divided(Documents(["the same"] * 9), 0.3)["validation"] == [7, 8]
    assert divided(Documents(["the same"] * 9), 0.01)["validation"] == [8]
    assert divided(Documents(["the same"] * 2), 0.01)["validation"] == [1]


def test_division_of_a_stream_holds_out_the_same_documents_at_any_position() -> None:
    division = Division.from_json(Division.of(Stream(uneven(24)), 0.3).to_json())
    assert hash_of(division.to_json()) == "f4c2ba951b95d6a2c827"
    pieces = division.divide(module.cut_into_pieces(((text, True) for text in uneven(24)[10:]), Stream([])))
    assert [10 + piece.document for split, piece in pieces if split == "validation"] == [14, 16, 19, 20, 22]


def test_training_text_of_a_stream_ends_where_it_did_in_earlier_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STREAM_CHARACTERS", 100)
    monkeypatch.setattr(module, "STREAM_VALIDATION", 2)
    train, validation = module.documents_taken(Stream([]), None), module.documents_held_out(Stream([]), None)
    assert divided(Stream(uneven(24)), 0.3, train=train, validation=validation) == {
        "train": [0, 2, 3, 4],
        "validation": [1, 9],
    }
    assert hash_of(list(TrainingText(Stream(uneven(24)), validation_fraction=0.3)())) == "8c3a36a38cd03795a647"


@pytest.mark.parametrize(
    ("kind", "fraction", "subset_size", "name", "held_out"),
    [
        (Documents, 0.3, None, "ea501241d158929ed336", "ed1f293187a1a0e4dda4"),
        (Documents, 0.1, 9, "1f78d0ca137f260d4ce3", "c097710ee682c6a35718"),
        (InParts, 0.3, None, "ea501241d158929ed336", "ed1f293187a1a0e4dda4"),
        (Stream, 0.3, None, "23c687e9b1f1c5a5a353", "ed1f293187a1a0e4dda4"),
        (Stream, 0.5, 9, "c0c0817a05e8a510788e", "c93f74fd23a9971d34f9"),
    ],
)
def test_store_has_the_same_validation_tokens_under_the_same_name(
    kind: type[Documents], fraction: float, subset_size: int | None, name: str, held_out: str, tmp_path: Path
) -> None:
    prepared = prepare_tokens(
        kind(uneven(24)),
        Bytes(),  # type: ignore[arg-type]  # the part that is used
        assets=tmp_path,
        subset_size=subset_size,
        validation_fraction=fraction,
    )
    assert (prepared.folder.name, hash_of(prepared.validation.tokens.tolist())) == (name, held_out)


def test_text_is_much_from_the_limits_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Much text is divided by draws alone, without reading all of it. Checked at the first document after the limit."""
    texts = uneven(17)
    monkeypatch.setattr(module, "MANY_DOCUMENTS", 16)
    assert Division.of(Documents(texts), 0.3).draws is None
    assert Division.of(Documents(texts[:16]), 0.3).draws is not None
    monkeypatch.setattr(module, "MANY_DOCUMENTS", 100)
    characters = sum(map(len, texts[:16]))
    monkeypatch.setattr(module, "MUCH_TEXT", characters)
    assert Division.of(Documents(texts), 0.3).draws is None
    monkeypatch.setattr(module, "MUCH_TEXT", characters + 1)
    assert Division.of(Documents(texts), 0.3).draws is not None


def test_training_text_of_a_stream_ends_with_the_document_that_reaches_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = uneven(24)
    first_three = sum(len(texts[index]) for index in [0, 2, 3])
    for limit, documents in [(first_three, [0, 2, 3]), (first_three + 1, [0, 2, 3, 4])]:
        monkeypatch.setattr(module, "STREAM_CHARACTERS", limit)
        assert divided(Stream(texts), 0.3)["train"] == documents


@pytest.mark.parametrize(
    ("sizes", "wanted", "held_out"),
    [
        ({0.1: 100, 0.2: 5, 0.3: 100}, 1.0, {0.2}),  # none is small enough: the smallest
        ({0.1: 10, 0.2: 5, 0.3: 10}, 24.9, {0.1, 0.3}),  # all are wanted: all but the smallest
        ({0.3: 10, 0.1: 10, 0.2: 30}, 10.0, {0.1}),  # in the order of the draws, up to the size
        ({0.1: 20, 0.2: 30}, 10.0, {0.1}),  # twice the size is as far away as nothing: not taken, so the smallest
    ],
)
def test_share_has_about_the_wanted_size(sizes: dict[float, int], wanted: float, held_out: set[float]) -> None:
    assert module._share(sizes, wanted) == held_out
