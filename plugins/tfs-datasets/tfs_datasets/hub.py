"""`hub`: any data set of the Hugging Face Hub, and those of them that have a name of their own here.

What was downloaded, by `tfs datasets download` or by an earlier run, is used without asking the network; then what
`datasets` has in its cache; only then is it downloaded.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tfs_core.data.documents import hash_of
from tfs_core.errors import DataError
from tfs_datasets.config import HubConfig, KnownHubConfig
from tfs_datasets.hub_cache import find_cached
from tfs_datasets.hub_connection import commit_of, refusals_explained, why_unreachable
from tfs_datasets.hub_download import download, listed
from tfs_datasets.hub_reading import columns_in, first_of, need_reader, read_documents
from tfs_datasets.hub_store import HubSet, Wanted, find_set, hub_folder, set_folder
from tfs_datasets.hub_stream import HubStream
from tfs_datasets.known_sets import KNOWN_SETS
from tfs_datasets.needed import need

log = logging.getLogger(__name__)


class HubDocuments:
    """The values of one column; `splits` says which split of the Hub's is `train` and which, if any, `validation`."""

    def __init__(self, hub_set: HubSet, splits: Mapping[str, str], columns: Sequence[str]) -> None:
        need_reader(hub_set)
        self._set = hub_set
        self._splits = splits
        self._column = first_of(columns, columns_in(hub_set, hub_set.files_of(splits["train"])), hub_set.path)
        self.description = f"{hub_set.path} ({hub_set.config}) at {hub_set.commit[:8]}"

    def splits(self) -> Sequence[str]:
        """Return `train`, and `validation` when a split was chosen for it."""
        return tuple(self._splits)

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over the documents, a row each; null is an empty document."""
        return read_documents(self._set, self._set.files_of(self._splits[split]), self._column)

    def fingerprint(self) -> str:
        """Return a hash of the commit, and of what is read of it."""
        return hash_of(["hub", self._set.path, self._set.config, self._set.commit, dict(self._splits), self._column])


def first_rows(wanted: Wanted, split: str) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of a split on the Hub, downloading no more than what is looked at."""
    with refusals_explained(wanted.path, revision=wanted.revision, config=wanted.config):
        commit = commit_of(wanted.path, wanted.revision)
        import datasets

        yield from datasets.load_dataset(wanted.path, wanted.config, split=split, revision=commit, streaming=True)


@dataclass(frozen=True)
class Request:
    """What a configuration asks of the Hub."""

    wanted: Wanted
    splits: Mapping[str, str]
    """Which of the Hub's splits is `train` and which, if any, `validation`."""
    columns: Sequence[str]
    root: Path
    ask_for: str
    """What one types after `tfs datasets download` to have it."""
    options: HubConfig | KnownHubConfig
    """All that was asked for."""

    @classmethod
    def of(cls, config: HubConfig, assets: Path) -> "Request":
        """Return what the options of `hub` ask for."""
        splits = {"train": config.split}
        if config.validation_split is not None:
            splits["validation"] = config.validation_split
        wanted = Wanted(config.path, config.config, config.revision)
        ask_for = config.path + (f" --config {config.config}" if config.config else "")
        return cls(wanted, splits, (config.column,), config.folder or hub_folder(assets), ask_for, config)

    @classmethod
    def of_known(cls, name: str, config: KnownHubConfig, assets: Path) -> "Request":
        """Return what the options of a data set with a name here ask for."""
        known = KNOWN_SETS[name]
        splits = {"train": "train"}
        if known.validation_split is not None:
            splits["validation"] = known.validation_split
        columns = (config.column,) if config.column else known.columns
        wanted = Wanted(known.path, known.config, config.revision)
        return cls(wanted, splits, columns, config.folder or hub_folder(assets), name, config)

    def find(self) -> HubSet | None:
        """Return what is here, whole: downloaded, or in the cache of `datasets`; None when something is missing.

        A stream is not read from that cache, which divides the rows into other files: a place in it would be another.
        """
        places: list[Callable[[Wanted], HubSet | None]] = [partial(find_set, self.root)]
        if not self.options.streaming:
            places.append(find_cached)
        for look_in in places:
            found = look_in(self.wanted)
            if found and not found.damage() and all(split in found.splits for split in self.splits.values()):
                return found
        return None

    def check_reachable(self, *, offline: bool) -> None:
        """Raise DataError, within a second, when the Hub cannot be asked: what is missing, and the ways out."""
        why = why_unreachable(offline=offline)
        if not why:
            return
        place = set_folder(self.root, self.wanted.path)
        what = f"it is not in {place}"
        if found := find_set(self.root, self.wanted):
            lacking = [split for split in self.splits.values() if split not in found.splits]
            what = f"its split '{lacking[0]}' is not in {place}" if lacking else found.damage() or f"it is in {place}"
        raise DataError(
            f"{self.wanted.path}: {what}, and {why}. Three ways out: where there is a network, type `tfs datasets "
            f"download {self.ask_for}` and bring that folder here; or take a file of your own: --set data.dataset=text "
            "--set data.dataset.path=FILE; or what every machine has: --set data.dataset=python-stdlib."
        )

    def documents(self, *, offline: bool) -> HubDocuments | HubStream:
        """Return the documents, downloaded, or streamed, if they are not here. Raises DataError."""
        if self.options.streaming:
            need("tfs_streaming", for_what="streaming: true", extra="streaming")
        hub_set = self.find()
        if hub_set is None:
            self.check_reachable(offline=offline)
        if self.options.streaming:
            return HubStream(hub_set or self._listed(), self.splits, self.columns, self.options)
        if hub_set is None:
            hub_set = download(self.wanted, tuple(self.splits.values()), root=self.root, report=log.warning)
        return HubDocuments(hub_set, self.splits, self.columns)

    def _listed(self) -> HubSet:
        with refusals_explained(self.wanted.path, revision=self.wanted.revision, config=self.wanted.config):
            return listed(self.wanted, tuple(self.splits.values()), set_folder(self.root, self.wanted.path))

    def preview(self, split: str, *, offline: bool) -> Iterator[str]:
        """Iterate over documents without downloading more than is looked at. Raises DataError."""
        if split not in self.splits:
            raise DataError(f"{self.wanted.path} has no {split} split here. There is: {', '.join(self.splits)}.")
        if hub_set := self.find():
            yield from HubDocuments(hub_set, self.splits, self.columns).documents(split)
            return
        self.check_reachable(offline=offline)
        for row in first_rows(self.wanted, self.splits[split]):
            yield str(row[first_of(self.columns, list(row), self.wanted.path)] or "")


def build(config: HubConfig, *, assets: Path, offline: bool) -> HubDocuments | HubStream:
    """Return the data set that the options name, downloaded if need be. Raises DataError when it cannot be had."""
    return Request.of(config, assets).documents(offline=offline)


def build_known(name: str, config: KnownHubConfig, *, assets: Path, offline: bool) -> HubDocuments | HubStream:
    """Return one of the data sets that have a name here, downloaded if need be. Raises DataError."""
    return Request.of_known(name, config, assets).documents(offline=offline)


tinystories = partial(build_known, "tinystories")
tiny_textbooks = partial(build_known, "tiny-textbooks")
tiny_strange_textbooks = partial(build_known, "tiny-strange-textbooks")
tiny_codes = partial(build_known, "tiny-codes")
fineweb_edu_10b = partial(build_known, "fineweb-edu-10b")
