"""Base class of the data sets from local files: splits, fingerprint, and reports of invalid input."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tfs_core.errors import DataError
from tfs_datasets.bad_input import BadInput
from tfs_datasets.config import LocalConfig
from tfs_datasets.local_files import LocalFiles

Read = Callable[[Path, BadInput], Iterator[str]]
"""Iterates over the documents of a file, and passes invalid input to the `BadInput`."""


class LocalDocuments:
    """The documents of local files; `read` iterates over those of one file.

    `options` are the options that affect the documents; they are part of the fingerprint. Raises DataError when no file
    is found.
    """

    def __init__(self, name: str, config: LocalConfig, *options: object, assets: Path, read: Read) -> None:
        self.files = LocalFiles(name, config.path, config.validation_path, assets=assets)
        self.description = self.files.description
        self._options = (name, *options, *(["skip"] if config.on_error == "skip" else []))
        self._read = read
        self.bad = {split: BadInput(config.on_error) for split in self.files.splits()}

    def splits(self) -> Sequence[str]:
        """Return the splits that have files."""
        return self.files.splits()

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over the documents.

        Raises DataError, with file and line, for invalid input if `on_error` is `refuse`; and when no document could
        be read because all input was invalid.
        """
        bad, empty = self.bad[split], True
        bad.clear()
        for file in self.files.of(split):
            for document in self._read(file, bad):
                empty = False
                yield document
        if empty and (report := bad.report()):
            raise DataError(f"{self.description}: no document could be read. {report[0]}")

    def left_out(self) -> Sequence[str]:
        """Return a line of text for each file with input that the last pass skipped."""
        return [line for bad in self.bad.values() for line in bad.report()]

    def fingerprint(self) -> str:
        """Return a hash of all files, in order, and of the options that affect the documents."""
        return self.files.fingerprint(*self._options)
