"""The members of a file: the file itself, or the files in a zip or tar archive, decompressed and read as streams.

Archives are recognized by their first bytes, under any name, and nothing is unpacked to the disk. Hidden files and what
macOS adds (`__MACOSX`, `.DS_Store`) are skipped, as in a folder.
"""

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, TextIO

from tfs_core.errors import DataError
from tfs_datasets import kinds
from tfs_datasets.bad_input import BadInput
from tfs_datasets.compressed import BLOCK_BYTES, decompressed, is_compressed
from tfs_datasets.encodings import MARK_ERRORS, encoding_at, invalid_byte
from tfs_datasets.kinds import Kind, kind_of

ENCRYPTED_FLAG = 1


@dataclass(frozen=True)
class Member:
    """A file, or a file in an archive, decompressed, open at its beginning."""

    name: str
    """The name to show: `notes.zip/2024/a.txt`."""

    stream: io.BufferedReader

    chosen_encoding: str | None
    """The option `encoding`."""

    named: bool
    """The user has named this file, instead of a folder, a glob or an archive that it is in."""

    path: Path | None
    """The file on the disk; None if it is compressed or in an archive."""

    @cached_property
    def start(self) -> bytes:
        """The first bytes, up to `BLOCK_BYTES`. Raises OSError."""
        return self.stream.peek()[:BLOCK_BYTES]

    @property
    def encoding(self) -> str:
        """The encoding: as a byte-order mark says, else the option `encoding`, else UTF-8."""
        return encoding_at(self.start, self.chosen_encoding)[0]

    @cached_property
    def kind(self) -> Kind:
        """The kind of file, by its first bytes."""
        return kind_of(self.start, self.start.decode(self.encoding, MARK_ERRORS))

    def text(self) -> TextIO:
        r"""Return the text as a stream, without a byte-order mark; line ends stay as they are.

        An invalid byte becomes the lone surrogate U+DC00 + byte: see `invalid_byte`. A line ends at "\n", "\r\n" or
        "\r". Reading raises the errors that `as_data_error` converts.
        """
        encoding, mark_bytes = encoding_at(self.start, self.chosen_encoding)
        self.stream.read(mark_bytes)
        return io.TextIOWrapper(self.stream, encoding, errors=MARK_ERRORS, newline="")

    def invalid_byte(self, text: str) -> str | None:
        """Return the message of the first invalid byte in a part of the text, None if there is none.

        It is such as "byte 0xe9 is not UTF-8. It may be cp1252: set encoding: cp1252".
        """
        return invalid_byte(text, self.encoding)


def members(file: Path, bad: BadInput, *, named: bool, encoding: str | None = None) -> Iterator[Member]:
    """Iterate over the members of a file, each of which must be read before the next one.

    The members of a zip archive are sorted by path, those of a tar archive come in its order. Members that cannot be
    read, such as encrypted ones and archives, are passed to `bad`. Raises DataError for a damaged file.
    """
    with as_data_error(file), file.open("rb", buffering=0) as raw:
        on_disk = io.BufferedReader(raw, BLOCK_BYTES)
        plain = not is_compressed(on_disk.peek())
        member = Member(str(file), decompressed(on_disk, str(file)), encoding, named, file if plain else None)
        if plain and member.kind == kinds.ZIP:
            inside = _in_zip(member.stream, bad, str(file))
        elif member.kind == kinds.TAR:
            inside = _in_tar(member.stream, bad, str(file))
        else:
            yield member
            return
        for name, stream in inside:
            yield from _inner(name, stream, bad, encoding)


def _inner(name: str, stream: IO[bytes], bad: BadInput, encoding: str | None) -> Iterator[Member]:
    """Iterate over the one member that a file in an archive is, or none if that cannot be read."""
    with as_data_error(name):
        buffered = io.BufferedReader(stream, BLOCK_BYTES)  # type: ignore[arg-type]  # it has all that is used of RawIOBase
        member = Member(name, decompressed(buffered, name), encoding, named=False, path=None)
        if member.kind in (kinds.ZIP, kinds.TAR):
            bad.left_out_file(name, kinds.NESTED_ARCHIVE)
        else:
            yield member


def _in_zip(stream: IO[bytes], bad: BadInput, shown: str) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(stream) as archive:
        files = {entry.filename: entry for entry in archive.infolist() if not entry.is_dir()}  # the last of equal names
        for name in sorted(filter(is_visible, files), key=lambda name: PurePosixPath(name).parts):
            if files[name].flag_bits & ENCRYPTED_FLAG:
                bad.left_out_file(f"{shown}/{name}", kinds.ENCRYPTED)
            else:
                with as_data_error(f"{shown}/{name}"), archive.open(files[name]) as opened:
                    yield f"{shown}/{name}", opened


def _in_tar(stream: IO[bytes], bad: BadInput, shown: str) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(fileobj=stream, mode="r|", bufsize=BLOCK_BYTES) as archive:
        for entry in archive:
            if not is_visible(entry.name):
                continue
            if entry.issym() or entry.islnk():
                bad.left_out_file(f"{shown}/{entry.name}", kinds.LINK)
            elif entry.isreg() and (opened := archive.extractfile(entry)) is not None:
                with opened:
                    yield f"{shown}/{entry.name}", opened
            archive.members.clear()  # type: ignore[attr-defined]  # otherwise it keeps all entries in memory


def is_visible(name: str) -> bool:
    """Return whether a path within a folder or an archive is read: no part of it is hidden or added by macOS."""
    return not any(part[0] == "." or part == "__MACOSX" for part in PurePosixPath(name).parts if part != ".")


@contextmanager
def as_data_error(name: Path | str) -> Iterator[None]:
    """Convert the errors of reading files, archives and compressed data to a DataError (context manager)."""
    try:
        yield
    except EOFError as error:
        raise DataError(f"{name} is truncated: its compressed data has no end. Copy or download it again.") from error
    except NotImplementedError as error:  # of zipfile
        message = f"{name} is compressed in a way that Python cannot read. Unpack the archive and name the folder."
        raise DataError(message) from error
    except (OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
