"""Documents in pieces, and the selection of held-out documents."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfs_core.data import documents as module
from tfs_core.data.documents import Piece, TrainingText, read_pieces, split_pieces
from tfs_core.errors import DataError

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Documents:
    """A source of given documents."""

    description = "a test's documents"

    def __init__(self, train: list[str], validation: list[str] | None = None) -> None:
        self._texts = {"train": train} | ({} if validation is None else {"validation": validation})

    def splits(self) -> Sequence[str]:
        return tuple(self._texts)

    def documents(self, split: str) -> Iterator[str]:
        yield from self._texts[split]

    def fingerprint(self) -> str:
        return repr(self._texts)


class Parts(Documents):
    """The same, in parts of a given number of characters."""

    size = 3

    def pieces(self, split: str) -> Iterator[tuple[str, bool]]:
        for text in self._texts[split]:
            for start in range(0, len(text), self.size):
                yield text[start : start + self.size], False
            yield "", True


def divided(
    source: Documents, fraction: float = 0.1, train: int | None = None, validation: int | None = None
) -> dict[str, list[str]]:
    """Return the documents of each split, joined from their pieces."""
    found: dict[str, list[str]] = {"train": [], "validation": []}
    quotas = {"train": train, "validation": validation}
    for split, piece in split_pieces(source, quotas=quotas, validation_fraction=fraction):
        if piece.is_empty_document:
            continue
        if piece.begins:
            found[split].append("")
        found[split][-1] += piece.text
    return found


def numbered(n: int) -> list[str]:
    return [f"document {i} " + "x" * (i % 7) for i in range(n)]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@untimed
@given(texts=st.lists(texts | st.lists(texts, min_size=2).map(" ".join), max_size=8), limit=st.integers(5, 15))
def test_pieces_put_together_are_the_documents(texts: list[str], limit: int) -> None:
    """In about three of four examples a document is cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_CHARACTERS", limit)
        patch.setattr(module, "_CUT_WINDOW", 4)
        for source in (Documents(texts), Parts(texts)):
            pieces = list(read_pieces(source, "train"))
            for i, text in enumerate(texts):
                of_document = [piece for piece in pieces if piece.document == i]
                assert "".join(piece.text for piece in of_document) == text
                assert [piece.begins for piece in of_document] == [True] + [False] * (len(of_document) - 1)
                assert [piece.ends for piece in of_document] == [False] * (len(of_document) - 1) + [True]
            assert all(len(piece.text) <= limit for piece in pieces)


def test_long_document_is_cut_where_whitespace_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 10)
    pieces = [piece.text for piece in read_pieces(Documents(["one two  three\n\nfour"]), "train")]
    assert pieces == ["one two", "  three", "\n\nfour"]


def test_lone_surrogate_is_an_error_that_names_the_document() -> None:
    with pytest.raises(DataError, match=r"a test's documents: document 2 .* lone surrogate U\+D800"):
        list(read_pieces(Documents(["fine", "not \ud800"]), "train"))


def test_split_of_the_source_itself_is_used() -> None:
    assert divided(Documents(["a", "b"], ["c"])) == {"train": ["a", "b"], "validation": ["c"]}


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("n", [2, 3, 10, 500])
def test_every_document_is_on_one_side_and_each_side_has_some(n: int, fraction: float) -> None:
    found = divided(Documents(numbered(n)), fraction)
    assert sorted(found["train"] + found["validation"]) == sorted(numbered(n))
    assert found["train"]
    assert found["validation"]


def test_held_out_share_is_about_the_requested_one() -> None:
    found = divided(Documents(numbered(500)), 0.1)
    assert sum(map(len, found["validation"])) == pytest.approx(0.1 * sum(map(len, numbered(500))), rel=0.01)


def test_held_out_share_is_about_the_requested_one_with_draws_per_document(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MANY_DOCUMENTS", 100)
    found = divided(Documents(numbered(5000)), 0.1)
    assert len(found["validation"]) == pytest.approx(500, abs=120)


def test_only_the_beginning_is_read_twice_with_draws_per_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MUCH_TEXT", 1000)
    read = []

    class Counting(Documents):
        def documents(self, split: str) -> Iterator[str]:
            for i, text in enumerate(super().documents(split)):
                read.append(i)
                yield text

    divided(Counting(numbered(1000)))
    assert len(read) < 1300


@pytest.mark.parametrize("many_documents", [10, 100_000])
def test_same_document_is_on_the_same_side_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, many_documents: int
) -> None:
    monkeypatch.setattr(module, "MANY_DOCUMENTS", many_documents)
    found = divided(Documents(numbered(60) + numbered(60)[::-1]), 0.3)
    assert not set(found["train"]) & set(found["validation"])


def test_big_document_is_not_held_out_for_a_small_share() -> None:
    texts = ["a" * 1000, "b" * 900, "c" * 11, "d" * 1100]
    assert divided(Documents(texts), 0.01)["validation"] == ["c" * 11]


def test_copies_of_one_document_are_divided_too() -> None:
    found = divided(Documents(["same"] * 10), 0.2)
    assert found == {"train": ["same"] * 8, "validation": ["same"] * 2}


def test_tail_of_the_only_document_is_held_out_from_a_line_on() -> None:
    text = "".join(f"line {i}\n" for i in range(100))
    found = divided(Documents([text]), 0.1)
    assert found["train"][0] + found["validation"][0] == text
    assert found["train"][0].endswith("\n")
    assert found["validation"][0].startswith("line 9")


@untimed
@given(
    text=st.text(st.sampled_from("ab \n"), min_size=2, max_size=80),
    fraction=st.floats(0.001, 0.999),
    limit=st.integers(5, 30),
)
def test_tail_of_the_only_document_leaves_text_in_both_splits(text: str, fraction: float, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_CHARACTERS", limit)
        patch.setattr(module, "_CUT_WINDOW", 4)
        for source in (Documents(["", text]), Parts([text, ""])):
            found = divided(source, fraction)
            assert [len(documents) for documents in found.values()] == [1, 1]
            assert found["train"][0] + found["validation"][0] == text
            assert found["train"][0]
            assert found["validation"][0]


def test_ends_are_marked_where_the_only_document_is_cut() -> None:
    pieces = list(
        split_pieces(Documents(["ab\ncd"]), quotas={"train": None, "validation": None}, validation_fraction=0.5)
    )
    assert pieces == [("train", Piece("ab\n", 0, True, True)), ("validation", Piece("cd", 0, True, True))]


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_no_text_is_an_error(texts: list[str]) -> None:
    with pytest.raises(DataError, match="a test's documents: there is no text in it"):
        divided(Documents(texts))


def test_single_character_is_an_error() -> None:
    with pytest.raises(DataError, match="its text is a single character"):
        divided(Documents(["a"]))


def test_quotas_take_the_first_documents_of_each_side() -> None:
    everything = divided(Documents(numbered(100)), 0.3)
    found = divided(Documents(numbered(100)), 0.3, train=5, validation=2)
    assert found == {"train": everything["train"][:5], "validation": everything["validation"][:2]}
    own = divided(Documents(["a", "", "b", "c"], ["d", "e"]), train=2, validation=1)
    assert own == {"train": ["a", "b"], "validation": ["d"]}


def test_training_text_is_the_training_split_without_the_validation_text() -> None:
    source = Documents(numbered(50))
    assert list(TrainingText(source, subset_size=7, validation_fraction=0.3)()) == divided(source, 0.3)["train"][:7]


def test_training_text_fingerprint_changes_with_everything_that_changes_the_text() -> None:
    source = Documents(numbered(50))
    fingerprints = [
        TrainingText(source).fingerprint,
        TrainingText(source, subset_size=3).fingerprint,
        TrainingText(source, validation_fraction=0.3).fingerprint,
        TrainingText(Documents(numbered(51))).fingerprint,
        TrainingText(Documents(numbered(50), ["own"])).fingerprint,
    ]
    assert len(set(fingerprints)) == 5
    assert TrainingText(Documents(numbered(50))).fingerprint == fingerprints[0]
