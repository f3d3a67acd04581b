"""Base classes of the data sets from local files: splits, fingerprint, and reports of input that is left out."""

import codecs
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tfs_core.errors import DataError
from tfs_core.progress import progress
from tfs_datasets import kinds
from tfs_datasets.bad_input import BadInput
from tfs_datasets.config import EncodedConfig, LocalConfig
from tfs_datasets.kinds import Kind
from tfs_datasets.local_files import LocalFiles
from tfs_datasets.members import Member, as_data_error, members, opened

ReadMember = Callable[[Member, BadInput], Iterator[str]]
"""Iterates over the documents of a member, and passes invalid input to the `BadInput`."""


class LocalSource:
    """The local files of a data set, of the kinds `reads`: all of a data set but its documents.

    A file of another kind is an error if the user has named it; found in a folder, glob or archive, it is left out and
    counted. `options` are the options that affect the documents; they are part of the fingerprint. Raises DataError
    when no file is found.
    """

    def __init__(
        self,
        name: str,
        config: LocalConfig,
        *options: object,
        assets: Path,
        reads: Sequence[Kind] = (kinds.TEXT,),
    ) -> None:
        self.files = LocalFiles(name, config.path, config.validation_path, assets=assets)
        self.description = self.files.description
        self.encoding = config.encoding if isinstance(config, EncodedConfig) else None
        self._options = [name, *options]
        if self.encoding is not None:
            self._options.append(["encoding", codecs.lookup(self.encoding).name])
        self._reads = reads
        self.bad = {split: BadInput(config.on_error) for split in self.files.splits()}

    def splits(self) -> Sequence[str]:
        """Return the splits that have files."""
        return self.files.splits()

    def members(self, file: Path, bad: BadInput) -> Iterator[Member]:
        """Iterate over the members of a file that are of a kind to read.

        Raises DataError for a named file of another kind, and for a damaged file.
        """
        for member in members(file, bad, named=self.files.is_named(file), encoding=self.encoding):
            with as_data_error(member.name):
                kind = member.kind
            if kind in self._reads:
                if kind == kinds.TEXT and member.seems_utf8:
                    bad.in_doubt(member.name, f"valid UTF-8, but read as {member.encoding}: compare the text")
                yield member
            else:
                self.leave_out(member, kind, bad)

    def leave_out(self, member: Member, kind: Kind, bad: BadInput) -> None:
        """Count a file that is not read. Raises DataError if the user has named it."""
        if member.named:
            wanted = self._reads[0].name.rpartition(" ")[0]  # "text" or "Parquet"
            raise DataError(f"{member.name} cannot be read as {wanted}: it is {kind.described()}. {kind.advice}")
        bad.left_out_file(kind)

    def refuse_nothing(self, bad: BadInput) -> None:
        """Raise DataError if nothing was read because all of it was left out."""
        if report := bad.report():
            raise DataError(f"{self.description}: no document could be read. {report[0]}")

    def left_out(self) -> Sequence[str]:
        """Return a line of text for each reason for which the last pass left something out, with counts."""
        return [line for bad in self.bad.values() for line in bad.report()]

    def fingerprint(self) -> str:
        """Return a hash of all files, in order, and of all that decides which documents are read from them."""
        files = [file for split in self.splits() for file in self.files.of(split)]
        readings: set[str] = set()
        with progress("opening files", total=len(files), unit="files") as advance:
            for file in files:
                readings.update(self._readings(file))
                advance(1)
        return self.files.fingerprint(*self._options, *([sorted(readings)] if readings else []))

    def _readings(self, file: Path) -> Sequence[str]:
        """Return names of the transformations by which the file is read, if it is not simply read as text."""
        with opened(file, named=False, encoding=self.encoding) as member:
            return ["archive"] if member.kind in (kinds.ZIP, kinds.TAR) else []


class LocalDocuments(LocalSource):
    """The documents of local files; `read_member` iterates over those of one file, or of one file in an archive."""

    def __init__(
        self,
        name: str,
        config: LocalConfig,
        *options: object,
        assets: Path,
        read_member: ReadMember,
        reads: Sequence[Kind] = (kinds.TEXT,),
    ) -> None:
        skipping = ["skip"] if config.on_error == "skip" else []
        super().__init__(name, config, *options, *skipping, assets=assets, reads=reads)
        self._read_member = read_member

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over the documents.

        Raises DataError, with file and line, for invalid input if `on_error` is `refuse`; for a named file of another
        kind; and when no document could be read because all input was invalid.
        """
        bad, empty = self.bad[split], True
        bad.clear()
        for file in self.files.of(split):
            for member in self.members(file, bad):
                with as_data_error(member.name):
                    for document in self._read_member(member, bad):
                        empty = False
                        yield document
        if empty:
            self.refuse_nothing(bad)
