"""Does a data set keep the contract? The same documents in the same order, offline, one at a time."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfs_core.contracts import DatasetSource, SupportsStreaming
from tfs_lab.testing.chosen import chosen
from tfs_lab.testing.results import Check, Finding, NotApplicable, check, expect

DOCUMENTS = 100
"""How many documents of a split are looked at."""


@dataclass(frozen=True)
class DatasetUnderCheck:
    """A data set by its name and options."""

    name: str
    options: Mapping[str, Any]

    def build(self, assets: Path) -> DatasetSource:
        """Return the data set, built offline."""
        component = chosen("dataset", self.name, self.options)
        source: DatasetSource = component.factory(component.config, assets=assets, offline=True)
        return source


@check("documents")
def documents_are_text_in_a_fixed_order(subject: DatasetUnderCheck) -> Finding:
    """There is a `train` split, and each split's documents are the same texts in the same order each time."""
    with tempfile.TemporaryDirectory() as assets:
        source, again = subject.build(Path(assets)), subject.build(Path(assets))
        splits = list(source.splits())
        expect("train" in splits, f"the splits are {splits}: there must be 'train'")
        for split in splits:
            documents = list(itertools.islice(source.documents(split), DOCUMENTS))
            expect(bool(documents), f"the split '{split}' has no documents")
            kinds = {type(document).__name__ for document in documents}
            expect(kinds == {"str"}, f"the documents of '{split}' are {', '.join(sorted(kinds))}, not str")
            for other, what in ((source, "asked a second time"), (again, "built a second time")):
                repeated = list(itertools.islice(other.documents(split), DOCUMENTS))
                expect(repeated == documents, f"the documents of '{split}' are others when {what}")
    return f"{', '.join(splits)}: the first {DOCUMENTS} documents of each"


@check("stream")
def documents_come_one_at_a_time(subject: DatasetUnderCheck) -> Finding:
    """`documents` is an iterator, so that a corpus larger than the memory can be read."""
    with tempfile.TemporaryDirectory() as assets:
        documents = subject.build(Path(assets)).documents("train")
        expect(hasattr(documents, "__next__"), f"documents() returned a {type(documents).__name__}, not an iterator")
    return "an iterator"


@check("fingerprint")
def the_fingerprint_is_stable(subject: DatasetUnderCheck) -> Finding:
    """The fingerprint of the same data is the same each time: a token store is kept under it."""
    with tempfile.TemporaryDirectory() as assets:
        source = subject.build(Path(assets))
        first = source.fingerprint()
        list(itertools.islice(source.documents("train"), DOCUMENTS))
        expect(source.fingerprint() == first, "reading documents changed the fingerprint")
        expect(subject.build(Path(assets)).fingerprint() == first, "built a second time it has another fingerprint")
        expect(isinstance(first, str) and 0 < len(first) <= 200, f"the fingerprint is {first!r}, no short string")
    return first


@check("places")
def a_stream_goes_on_from_any_place(subject: DatasetUnderCheck) -> Finding:
    """A source that streams gives the documents of `documents`, from the place of each on, also when built again."""
    with tempfile.TemporaryDirectory() as assets:
        source, again = subject.build(Path(assets)), subject.build(Path(assets))
        if not isinstance(source, SupportsStreaming) or not isinstance(again, SupportsStreaming):
            raise NotApplicable("it does not stream")
        for split in source.splits():
            documents = list(itertools.islice(source.documents(split), DOCUMENTS))
            streamed = list(itertools.islice(source.stream(split, ()), DOCUMENTS))
            expect([text for _, text in streamed] == documents, f"stream and documents of '{split}' differ")
            for number, (place, _) in enumerate(streamed):
                known = json.loads(json.dumps(list(place)))  # as a checkpoint keeps it
                rest = [text for _, text in itertools.islice(again.stream(split, known), len(documents) - number)]
                expect(rest == documents[number:], f"'{split}' goes on with other documents from place {known}")
    return f"from each of the first {DOCUMENTS} documents"


DATASET_CHECKS: tuple[Check[DatasetUnderCheck], ...] = (
    documents_are_text_in_a_fixed_order,
    documents_come_one_at_a_time,
    the_fingerprint_is_stable,
    a_stream_goes_on_from_any_place,
)
