"""Base class of the data sets from local files: splits, fingerprint, and reports of input that is left out."""

import codecs
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tfs_core.errors import DataError
from tfs_datasets import kinds
from tfs_datasets.bad_input import BadInput
from tfs_datasets.config import EncodedConfig, LocalConfig
from tfs_datasets.kinds import Kind
from tfs_datasets.local_files import LocalFiles
from tfs_datasets.members import Member, as_data_error, members

Read = Callable[[Path, BadInput], Iterator[str]]
"""Iterates over the documents of a file, and passes invalid input to the `BadInput`."""

ReadMember = Callable[[Member, BadInput], Iterator[str]]
"""Iterates over the documents of a member, and passes invalid input to the `BadInput`."""


class LocalDocuments:
    """The documents of local files; `read_member` iterates over those of one file, or of one file in an archive.

    It gets only files of the kinds `reads`. A file of another kind is an error if the user has named it; found in a
    folder, glob or archive, it is left out and counted.

    `options` are the options that affect the documents; they are part of the fingerprint. Raises DataError when no file
    is found.
    """

    def __init__(
        self,
        name: str,
        config: LocalConfig,
        *options: object,
        assets: Path,
        read: Read | None = None,
        read_member: ReadMember | None = None,
        reads: Sequence[Kind] = (kinds.TEXT,),
    ) -> None:
        self.files = LocalFiles(name, config.path, config.validation_path, assets=assets)
        self.description = self.files.description
        self.encoding = config.encoding if isinstance(config, EncodedConfig) else None
        encoding = [["encoding", codecs.lookup(self.encoding).name]] if self.encoding else []
        self._options = (name, *options, *(["skip"] if config.on_error == "skip" else []), *encoding)
        self._read = read
        self._read_member = read_member
        self._reads = reads
        self.bad = {split: BadInput(config.on_error) for split in self.files.splits()}

    def splits(self) -> Sequence[str]:
        """Return the splits that have files."""
        return self.files.splits()

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over the documents.

        Raises DataError, with file and line, for invalid input if `on_error` is `refuse`; for a named file of another
        kind; and when no document could be read because all input was invalid.
        """
        bad, empty = self.bad[split], True
        bad.clear()
        for document in self._documents(split, bad):
            empty = False
            bad.empty_documents += not document
            yield document
        if empty:
            self.refuse_nothing(bad)

    def _documents(self, split: str, bad: BadInput) -> Iterator[str]:
        if self._read is not None:
            for file in self.files.of(split):
                yield from self._read(file, bad)
        elif self._read_member is not None:
            for member in self.members(split, bad):
                with as_data_error(member.name):
                    yield from self._read_member(member, bad)

    def refuse_nothing(self, bad: BadInput) -> None:
        """Raise DataError if nothing was read because all of it was left out."""
        if report := bad.report():
            raise DataError(f"{self.description}: no document could be read. {report[0]}")

    def members(self, split: str, bad: BadInput) -> Iterator[Member]:
        """Iterate over the members of the files that are of a kind to read. Raises DataError for a named other one."""
        for file in self.files.of(split):
            for member in members(file, bad, named=self.files.is_named(file), encoding=self.encoding):
                with as_data_error(member.name):
                    kind = member.kind
                if kind in self._reads:
                    yield member
                elif member.named:
                    (*_, wanted) = (kind.name.rpartition(" ")[0] for kind in self._reads)
                    raise DataError(
                        f"{member.name} cannot be read as {wanted}: it is {kind.described()}. {kind.advice}"
                    )
                else:
                    bad.left_out_file(member.name, kind)

    def left_out(self) -> Sequence[str]:
        """Return a line of text for each reason for which the last pass left something out, with counts."""
        return [line for bad in self.bad.values() for line in bad.report()]

    def fingerprint(self) -> str:
        """Return a hash of all files, in order, and of the options that affect the documents."""
        return self.files.fingerprint(*self._options)
