"""The data set `hub` (any data set of the Hugging Face Hub), and the named ones of `KNOWN_SETS`.

The lookup order: downloads of `tfs datasets download` or earlier runs, then the cache of `datasets`, then the network.
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
from tfs_datasets.hub_connection import (
    commit_of,
    hub_errors_explained,
    import_datasets,
    waiting_for,
    why_unreachable,
)
from tfs_datasets.hub_download import download, listed
from tfs_datasets.hub_reading import columns_in, first_present, need_reader, read_documents
from tfs_datasets.hub_store import (
    LISTED,
    HubSet,
    Wanted,
    find_set,
    hub_folder,
    set_folder,
    unreadable_manifests,
    write_manifest,
    writing_explained,
)
from tfs_datasets.hub_stream import HubStream
from tfs_datasets.known_sets import KNOWN_SETS
from tfs_datasets.needed import need

log = logging.getLogger(__name__)


class HubDocuments:
    """The values of one column. `splits` maps `train` and, optionally, `validation` to splits of the Hub."""

    def __init__(self, hub_set: HubSet, splits: Mapping[str, str], columns: Sequence[str]) -> None:
        need_reader(hub_set)
        self._set = hub_set
        self._splits = splits
        self._column = first_present(columns, columns_in(hub_set, hub_set.files_of(splits["train"])), hub_set.path)
        self.description = f"{hub_set.path} ({hub_set.config}) at {hub_set.commit[:8]}"

    def splits(self) -> Sequence[str]:
        """Return `train`, and `validation` when a split was chosen for it."""
        return tuple(self._splits)

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over the documents, one per row; null is an empty document."""
        return read_documents(self._set, self._set.files_of(self._splits[split]), self._column)

    def fingerprint(self) -> str:
        """Return a hash of the commit and of the options that affect the documents."""
        return hash_of(
            ["hub", self._set.path, self._set.config, self._set.text_commit, dict(self._splits), self._column]
        )


def first_rows(wanted: Wanted, split: str) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of a split on the Hub. Downloads only the data that is read."""
    with hub_errors_explained(wanted.path, revision=wanted.revision, config=wanted.config):
        commit = commit_of(wanted.path, wanted.revision)
        options = {"split": split, "revision": commit, "streaming": True}
        yield from waiting_for(
            f"listing {wanted.path}",
            lambda: import_datasets().load_dataset(wanted.path, wanted.config, **options),
        )


@dataclass(frozen=True)
class Request:
    """The data set that a configuration requests from the Hub, and the local folder to look in."""

    wanted: Wanted
    splits: Mapping[str, str]
    """Maps `train` and, optionally, `validation` to splits of the Hub."""
    columns: Sequence[str]
    root: Path
    download_arguments: str
    """Arguments of `tfs datasets download` for this data set."""
    options: HubConfig | KnownHubConfig
    """The options of the component."""

    @classmethod
    def of(cls, config: HubConfig, assets: Path) -> "Request":
        """Return the request for the data set that the options of `hub` describe."""
        splits = {"train": config.split}
        if config.validation_split is not None:
            splits["validation"] = config.validation_split
        wanted = Wanted(config.path, config.config, config.revision)
        name = config.path + (f" --config {config.config}" if config.config else "")
        return cls(
            wanted, splits, (config.column,), config.folder or hub_folder(assets), _download(name, wanted), config
        )

    @classmethod
    def of_known(cls, name: str, config: KnownHubConfig, assets: Path) -> "Request":
        """Return the request for the data set `name` of `KNOWN_SETS`, with these options."""
        known = KNOWN_SETS[name]
        splits = {"train": "train"}
        if known.validation_split is not None:
            splits["validation"] = known.validation_split
        columns = (config.column,) if config.column else known.columns
        wanted = Wanted(known.path, known.config, config.revision)
        return cls(wanted, splits, columns, config.folder or hub_folder(assets), _download(name, wanted), config)

    def find(self) -> HubSet | None:
        """Return the data set if it is complete on this machine: downloaded, or in the cache of `datasets`; else None.

        Streams do not use that cache: its files are not those of the repository, so stream positions would differ.
        """
        lookups: list[Callable[[Wanted], HubSet | None]] = [partial(find_set, self.root)]
        if not self.options.streaming:
            lookups.append(find_cached)
        for lookup in lookups:
            found = lookup(self.wanted)
            if found and not found.damage() and all(split in found.splits for split in self.splits.values()):
                return found
        return None

    def check_reachable(self, *, offline: bool) -> None:
        """Raise DataError, with the alternatives, when the Hub is unreachable. Takes less than a second."""
        why = why_unreachable(offline=offline)
        if not why:
            return
        folder = set_folder(self.root, self.wanted.path)
        what = f"it is not in {folder}"
        if unreadable := unreadable_manifests(folder):
            what = unreadable[0]
        if found := find_set(self.root, self.wanted):
            lacking = [split for split in self.splits.values() if split not in found.splits]
            what = f"its split '{lacking[0]}' is not in {folder}" if lacking else found.damage() or f"it is in {folder}"
        download_it = f"`tfs datasets download {self.download_arguments}` on a machine with a network"
        if self.wanted.is_pinned:  # by a run, for example: other text would not be the same run
            raise DataError(
                f"{self.wanted.path}: {what}, and {why}. Go on with a network; or run {download_it}, and copy that "
                "folder here."
            )
        raise DataError(
            f"{self.wanted.path}: {what}, and {why}. Three ways out: run {download_it} and copy that folder here; or "
            "use a file of your own: --set data.dataset=text --set data.dataset.path=FILE; or use data that needs no "
            "download: --set data.dataset=python-stdlib."
        )

    def documents(self, *, offline: bool) -> HubDocuments | HubStream:
        """Return the documents, downloaded or streamed if necessary. Raises DataError."""
        if self.options.streaming:
            need("tfs_streaming", for_what="streaming: true", extra="streaming")
        hub_set = self.find()
        if self.options.streaming:
            return HubStream(hub_set or self._listing(offline=offline), self.splits, self.columns, self.options)
        if hub_set is None:
            self.check_reachable(offline=offline)
            hub_set = download(self.wanted, tuple(self.splits.values()), root=self.root, report=log.warning)
        return HubDocuments(hub_set, self.splits, self.columns)

    def _listing(self, *, offline: bool) -> HubSet:
        """Return the files of a stream as the Hub lists them, and store the listing: a resume then needs no network.

        The stored listing of a commit never changes. That of a branch is used only while the Hub cannot be reached.
        """
        stored = find_set(self.root, self.wanted, LISTED)
        has_splits = stored is not None and all(split in stored.splits for split in self.splits.values())
        if stored and has_splits and (self.wanted.is_pinned or why_unreachable(offline=offline)):
            return stored
        self.check_reachable(offline=offline)
        path, folder, splits = self.wanted.path, set_folder(self.root, self.wanted.path), tuple(self.splits.values())
        with hub_errors_explained(path, revision=self.wanted.revision, config=self.wanted.config):
            hub_set = waiting_for(f"listing {path}", lambda: listed(self.wanted, splits, folder))
        with writing_explained(folder):
            hub_set.files.parent.mkdir(parents=True, exist_ok=True)
            return write_manifest(hub_set, self.wanted, LISTED)

    def preview(self, split: str, *, offline: bool) -> Iterator[str]:
        """Iterate over the documents of a split. Downloads only the data that is read. Raises DataError."""
        if split not in self.splits:
            raise DataError(f"{self.wanted.path} has no {split} split here. Splits: {', '.join(self.splits)}.")
        if hub_set := self.find():
            yield from HubDocuments(hub_set, self.splits, self.columns).documents(split)
            return
        self.check_reachable(offline=offline)
        for row in first_rows(self.wanted, self.splits[split]):
            yield str(row[first_present(self.columns, list(row), self.wanted.path)] or "")


def _download(name: str, wanted: Wanted) -> str:
    """Return the arguments of `tfs datasets download` for a data set; `name` is the first of them."""
    return name + (f" --revision {wanted.revision}" if wanted.revision != "main" else "")


def build(config: HubConfig, *, assets: Path, offline: bool) -> HubDocuments | HubStream:
    """Return the data set of `config`, downloaded or streamed if necessary. Raises DataError if it is unavailable."""
    return Request.of(config, assets).documents(offline=offline)


def build_known(name: str, config: KnownHubConfig, *, assets: Path, offline: bool) -> HubDocuments | HubStream:
    """Return a named data set, downloaded or streamed if necessary. Raises DataError when it is not available."""
    return Request.of_known(name, config, assets).documents(offline=offline)


tinystories = partial(build_known, "tinystories")
tiny_textbooks = partial(build_known, "tiny-textbooks")
tiny_strange_textbooks = partial(build_known, "tiny-strange-textbooks")
tiny_codes = partial(build_known, "tiny-codes")
fineweb_edu_10b = partial(build_known, "fineweb-edu-10b")
