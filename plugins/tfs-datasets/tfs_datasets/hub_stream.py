"""Streaming of a data set of the Hub: each file is downloaded, read and deleted before the next.

datasets/hub/<owner>--<name>/<commit>/passing/0/<split>/...    the file of each split that a process reads
                                              0.lock           lock held by that process; others use 1, 2, ...

Interrupted downloads are resumed, as in `hub_download`, and every file is verified before it is read.
The files of a killed process are reused by the next one.
"""

import itertools
import logging
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from tfs_core.data.documents import hash_of
from tfs_core.errors import DataError
from tfs_datasets.config import HubConfig, KnownHubConfig
from tfs_datasets.hub_download import fetch, is_whole
from tfs_datasets.hub_reading import columns_in, first_present, need_reader, read_documents
from tfs_datasets.hub_store import HubFile, HubSet, size_of, writing_explained

log = logging.getLogger(__name__)


class HubStream:
    """The values of one column. A position is (index of the file in the split, index of the row in the file)."""

    batching = "streaming"

    def __init__(
        self, hub_set: HubSet, splits: Mapping[str, str], columns: Sequence[str], options: HubConfig | KnownHubConfig
    ) -> None:
        """`hub_set` is the listing of the repository. Files that are already downloaded are read in place."""
        need_reader(hub_set)
        self._set = hub_set
        self._splits = splits
        self._columns = columns
        self._options = options
        self._passing: Path | None = None
        self._reported: set[str] = set()
        self._release: Callable[[], object] = lambda: None
        self.description = f"{hub_set.path} ({hub_set.config}) at {hub_set.commit[:8]}, streamed"

    def splits(self) -> Sequence[str]:
        """Return `train`, and `validation` when a split was chosen for it."""
        return tuple(self._splits)

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over the documents, one per row; null is an empty document."""
        for _, document in self.stream(split, ()):
            yield document

    def stream(self, split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], str]]:
        """Iterate over (position, document) from position `start` on; an empty `start` means the beginning."""
        if len(start) not in (0, 2):
            raise DataError(f"{self.description}: {start} is no position in it. Start a new run.")
        first_file, first_row = start or (0, 0)
        files = self._set.splits[self._splits[split]]
        for number in range(first_file, len(files)):
            local = [self._local_file(split, files[number])] if files[number].size else []
            if local and (available := columns_in(self._set, local)):  # else the file has no rows
                column = first_present(self._columns, available, self._set.path)
                rows = enumerate(read_documents(self._set, local, column))
                for row, document in itertools.islice(rows, first_row, None):
                    yield (number, row), document
            first_row = 0

    def fingerprint(self) -> str:
        """Return the commit of the text, unhashed for error messages, and a hash of the options that affect it."""
        read = ["stream", self._set.path, self._set.config, dict(self._splits), list(self._columns)]
        return f"{self._set.text_commit}-{hash_of(read)}"

    def pinned_options(self) -> HubConfig | KnownHubConfig:
        """Return the options with the commit of the text as revision, since a branch may change."""
        return replace(self._options, revision=self._set.text_commit)

    def close(self) -> None:
        """Delete the temporary files and release the lock. A later read downloads them again."""
        self._release()
        self._passing = None

    def _local_file(self, split: str, file: HubFile) -> Path:
        """Return the local path of a file. Downloads it if necessary, and deletes the previous file of the split."""
        kept = self._set.files / file.path
        if size_of(kept) == file.size:
            return kept
        with writing_explained(self._set.files.parent):
            folder = self._passing_folder() / split
            passing = folder / file.path
            if not is_whole(file, passing):
                for other in folder.rglob("*"):
                    if other.is_file() and other.name != f"{passing.name}.part":
                        other.unlink()
                if threading.current_thread() is threading.main_thread():  # the run waits for it
                    self._report(f"downloading {file.path} of {self._set.path}, {file.size / 1e6:,.1f} MB")
                fetch(replace(self._set, files=folder), file, cache_dir=None, report=self._report)
                self._reported.clear()
        return passing

    def _report(self, line: str) -> None:
        """Log a line about a download; once, although reading ahead repeats a failed download again and again.

        At the end of the process, when the connections of a reading thread are closed, nothing is logged.
        """
        if line not in self._reported and threading.main_thread().is_alive():
            self._reported.add(line)
            log.warning(line)

    def _passing_folder(self) -> Path:
        """Return the folder for temporary files, locked for this source until `close`."""
        if self._passing is None:
            folder = self._set.files.parent / "passing"
            folder.mkdir(parents=True, exist_ok=True)
            lock = next(lock for number in itertools.count() if (lock := _acquired(folder / f"{number}.lock")))
            self._passing = Path(lock.lock_file).with_suffix("")
            self._release = weakref.finalize(self, _release, self._passing, lock)  # also runs when the process ends
        return self._passing


def _acquired(path: Path) -> FileLock | None:
    """Acquire and return the lock of a file; None while another process holds it."""
    lock = FileLock(path, thread_local=False)  # garbage collection may release it in another thread
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def _release(passing: Path, lock: FileLock) -> None:
    shutil.rmtree(passing, ignore_errors=True)
    lock.release()
