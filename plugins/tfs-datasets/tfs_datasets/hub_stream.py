"""A data set of the Hub that is read without being kept: file after file, each here only as long as it is read.

datasets/hub/<owner>--<name>/<commit>/passing/0/<split>/...    the file that a process reads, of each split
                                              0.lock           held by that process; another one takes 1, and so on

A file comes as a download does: gone on with where it broke off, and verified before it is read. What a killed process
left is taken over by the next one.
"""

import itertools
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from tfs_core.data.documents import hash_of
from tfs_core.errors import DataError
from tfs_datasets.config import HubConfig, KnownHubConfig
from tfs_datasets.hub_download import fetch, is_whole
from tfs_datasets.hub_reading import columns_in, first_of, need_reader, read_documents
from tfs_datasets.hub_store import HubFile, HubSet


class HubStream:
    """The values of one column. A place in it is (which file of the split, which row of it)."""

    batching = "streaming"

    def __init__(
        self, hub_set: HubSet, splits: Mapping[str, str], columns: Sequence[str], options: HubConfig | KnownHubConfig
    ) -> None:
        """`hub_set` is what the repository lists; of its files, those that are here already are read where they are."""
        need_reader(hub_set)
        self._set = hub_set
        self._splits = splits
        self._columns = columns
        self._options = options
        self._passing: Path | None = None
        self._leave: Callable[[], object] = lambda: None
        self.description = f"{hub_set.path} ({hub_set.config}) at {hub_set.commit[:8]}, streamed"

    def splits(self) -> Sequence[str]:
        """Return `train`, and `validation` when a split was chosen for it."""
        return tuple(self._splits)

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over the documents, a row each; null is an empty document."""
        for _, document in self.stream(split, ()):
            yield document

    def stream(self, split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], str]]:
        """Iterate over (place, document) from a place on."""
        first_file, first_row = start or (0, 0)
        files = self._set.splits[self._splits[split]]
        for number in range(first_file, len(files)):
            here = [self._here(split, files[number])] if files[number].size else []
            if here and (there_are := columns_in(self._set, here)):  # else it has no rows
                column = first_of(self._columns, there_are, self._set.path)
                rows = enumerate(read_documents(self._set, here, column))
                for row, document in itertools.islice(rows, first_row, None):
                    yield (number, row), document
            first_row = 0

    def fingerprint(self) -> str:
        """Return the commit, so that a message shows it, and a hash of what is read of it."""
        read = ["stream", self._set.path, self._set.config, dict(self._splits), list(self._columns)]
        return f"{self._set.commit}-{hash_of(read)}"

    def pinned_options(self) -> HubConfig | KnownHubConfig:
        """Return the options with the commit in the place of a branch, which moves on."""
        return replace(self._options, revision=self._set.commit)

    def close(self) -> None:
        """Delete the files that were passed through; who reads again fetches them again."""
        self._leave()
        self._passing = None

    def _here(self, split: str, file: HubFile) -> Path:
        """Return a file, brought here if need be, in place of the one of the split that was here before."""
        kept = self._set.files / file.path
        if kept.is_file() and kept.stat().st_size == file.size:
            return kept
        try:
            folder = self._passing_folder() / split
            passing = folder / file.path
            if not is_whole(file, passing):
                for other in folder.rglob("*"):
                    if other.is_file() and other.name != f"{passing.name}.part":
                        other.unlink()
                fetch(replace(self._set, files=folder), file, cache_dir=None)
        except OSError as error:
            raise DataError(
                f"{self._set.files.parent}: it cannot be written there: {error.strerror or error}. "
                "Make room, or choose another place with --assets."
            ) from error
        return passing

    def _passing_folder(self) -> Path:
        """Return a folder that nobody else uses until this source is closed."""
        if self._passing is None:
            folder = self._set.files.parent / "passing"
            folder.mkdir(parents=True, exist_ok=True)
            lock = next(lock for number in itertools.count() if (lock := _acquired(folder / f"{number}.lock")))
            self._passing = Path(lock.lock_file).with_suffix("")
            self._leave = weakref.finalize(self, _leave, self._passing, lock)  # at the latest when the process ends
        return self._passing


def _acquired(path: Path) -> FileLock | None:
    """Return the lock of a file, acquired; None while another process has it."""
    lock = FileLock(path, thread_local=False)  # a garbage collection in any thread may release it
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def _leave(passing: Path, lock: FileLock) -> None:
    shutil.rmtree(passing, ignore_errors=True)
    lock.release()
