"""Conformance checks for data sets: the same documents in the same order, offline, one at a time."""

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
"""The number of documents of a split that are checked."""


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
def documents_are_deterministic(subject: DatasetUnderCheck) -> Finding:
    """There is a `train` split, and each split has the same documents in the same order every time."""
    with tempfile.TemporaryDirectory() as assets:
        source, again = subject.build(Path(assets)), subject.build(Path(assets))
        splits = list(source.splits())
        expect("train" in splits, f"the splits are {splits}: there must be 'train'")
        for split in splits:
            documents = list(itertools.islice(source.documents(split), DOCUMENTS))
            expect(bool(documents), f"the split '{split}' has no documents")
            kinds = {type(document).__name__ for document in documents}
            expect(kinds == {"str"}, f"the documents of '{split}' are {', '.join(sorted(kinds))}, not str")
            for other, what in ((source, "read a second time"), (again, "built a second time")):
                repeated = list(itertools.islice(other.documents(split), DOCUMENTS))
                expect(repeated == documents, f"the documents of '{split}' differ when {what}")
    return f"{', '.join(splits)}: the first {DOCUMENTS} documents of each"


@check("stream")
def documents_are_an_iterator(subject: DatasetUnderCheck) -> Finding:
    """`documents` returns an iterator, so that a corpus larger than memory can be read."""
    with tempfile.TemporaryDirectory() as assets:
        documents = subject.build(Path(assets)).documents("train")
        expect(hasattr(documents, "__next__"), f"documents() returned a {type(documents).__name__}, not an iterator")
    return "an iterator"


@check("fingerprint")
def the_fingerprint_is_stable(subject: DatasetUnderCheck) -> Finding:
    """The fingerprint of the same data is always the same: it is the cache key of the token store."""
    with tempfile.TemporaryDirectory() as assets:
        source = subject.build(Path(assets))
        first = source.fingerprint()
        list(itertools.islice(source.documents("train"), DOCUMENTS))
        expect(source.fingerprint() == first, "reading documents changed the fingerprint")
        expect(subject.build(Path(assets)).fingerprint() == first, "a second instance has another fingerprint")
        short = isinstance(first, str) and 0 < len(first) <= 200
        expect(short, f"the fingerprint is {first!r}, not a string of 1 to 200 characters")
    return first


@check("places")
def streams_continue_from_any_place(subject: DatasetUnderCheck) -> Finding:
    """`stream` yields the same documents as `documents`, and another instance can continue from any place."""
    with tempfile.TemporaryDirectory() as assets:
        source, again = subject.build(Path(assets)), subject.build(Path(assets))
        if not isinstance(source, SupportsStreaming) or not isinstance(again, SupportsStreaming):
            raise NotApplicable("it does not support streaming")
        for split in source.splits():
            documents = list(itertools.islice(source.documents(split), DOCUMENTS))
            streamed = list(itertools.islice(source.stream(split, ()), DOCUMENTS))
            expect([text for _, text in streamed] == documents, f"stream and documents of '{split}' differ")
            for number, (place, _) in enumerate(streamed):
                known = json.loads(json.dumps(list(place)))  # as serialized in a checkpoint
                rest = [text for _, text in itertools.islice(again.stream(split, known), len(documents) - number)]
                expect(rest == documents[number:], f"'{split}' continues with other documents from place {known}")
    return f"from each of the first {DOCUMENTS} documents"


DATASET_CHECKS: tuple[Check[DatasetUnderCheck], ...] = (
    documents_are_deterministic,
    documents_are_an_iterator,
    the_fingerprint_is_stable,
    streams_continue_from_any_place,
)
