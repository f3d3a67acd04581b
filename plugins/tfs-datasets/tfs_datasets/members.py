"""The members of a file: the file itself, or the files in a zip or tar archive, decompressed and read as streams.

Archives are recognized by their first bytes, under any name, and nothing is unpacked to the disk. Hidden files and
those of file managers (`.DS_Store`, `__MACOSX`, `Thumbs.db`) are skipped, as in a folder.
"""

import codecs
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self, TextIO

from tfs_core.errors import DataError, short_message
from tfs_datasets import kinds
from tfs_datasets.bad_input import BadInput
from tfs_datasets.compressed import BLOCK_BYTES, decompressed, is_compressed
from tfs_datasets.encodings import MARK_ERRORS, encoding_advice, encoding_at, find_invalid
from tfs_datasets.kinds import Kind, kind_of

OF_FILE_MANAGERS = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
"""Names that macOS and Windows add to archives and folders, besides hidden ones such as `.DS_Store`."""

ENCRYPTED_FLAG = 1

DECLARATION_BYTES = 2048
"""The beginning of a file in which it may name its encoding."""


@dataclass
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

    _advice: str | None = field(default=None, init=False)  # about its encoding, the same for all invalid bytes

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

    @property
    def seems_utf8(self) -> bool:
        """Whether the first bytes are valid UTF-8, beyond ASCII, but are read in another encoding."""
        if self.start.isascii() or self.encoding == "utf-8":
            return False
        with suppress(UnicodeDecodeError):
            return bool(codecs.utf_8_decode(self.start, "strict", False))
        return False

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

        It is such as "byte 0xe9 is not UTF-8. It may be cp1252: set encoding: cp1252 (...)".
        """
        if (found := find_invalid(text)) is None:
            return None
        if self._advice is None:
            self._advice = encoding_advice(text, self.encoding, self.start[:DECLARATION_BYTES])
        return f"byte 0x{ord(found[0]) & 0xFF:02x} is not {self.encoding.upper()}. {self._advice}"


@contextmanager
def opened(file: Path, *, named: bool, encoding: str | None = None) -> Iterator[Member]:
    """Open a file, decompressed if need be; it may be an archive. Raises DataError for a damaged file.

    `named` says that the user has named this file, and `encoding` is the option (see `Member`).
    """
    with as_data_error(file), file.open("rb", buffering=0) as raw:
        on_disk: Any = io.BufferedReader(raw, BLOCK_BYTES)
        path = None if is_compressed(on_disk.peek()) else file
        yield Member(str(file), decompressed(on_disk, str(file)), encoding, named, path)


def members(file: Path, bad: BadInput, *, named: bool, encoding: str | None = None) -> Iterator[Member]:
    """Iterate over the members of a file, each of which must be read before the next one.

    The members of a zip archive are sorted by path, those of a tar archive come in its order. Members that cannot be
    read, such as encrypted ones and archives, are passed to `bad`. Raises DataError for a damaged file. The caller
    converts the errors of reading a member: see `as_data_error`.
    """
    with opened(file, named=named, encoding=encoding) as outer:
        if outer.kind == kinds.ZIP and outer.path is not None:  # a compressed stream cannot be read from its end
            inside = _in_zip(outer.stream, bad, outer.name)
        elif outer.kind == kinds.TAR:
            inside = _in_tar(outer.stream, bad, outer.name)
        else:
            yield outer
            return
        for name, stream in inside:
            with as_data_error(name):
                raw: Any = io.BufferedReader(_Forward(stream), BLOCK_BYTES)
                inner = Member(name, decompressed(raw, name), encoding, named=False, path=None)
                kind = inner.kind
            if kind in (kinds.ZIP, kinds.TAR):
                bad.left_out_file(kinds.NESTED_ARCHIVE)
            else:
                yield inner


class _Forward(io.RawIOBase):
    """A file in an archive, as a raw stream that is read forward only."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        """Return True: the stream can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into the buffer and return the number of bytes, 0 at the end. Raises what the archive's library does."""
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _in_zip(stream: IO[bytes], bad: BadInput, shown: str) -> Iterator[tuple[str, IO[bytes]]]:
    with _damage_as_bad_zip():
        archive = zipfile.ZipFile(stream)
    with archive:
        first = min((entry.header_offset for entry in archive.infolist()), default=0)
        if first > 0:  # the list is that of an inner archive
            raise zipfile.BadZipFile("the archive is truncated. Copy or download it again")
        entries = [entry for entry in archive.infolist() if entry.filename and not entry.is_dir()]
        files = {entry.filename: entry for entry in entries}  # the last of several with the same name
        for name in sorted(filter(is_visible, files), key=lambda name: PurePosixPath(name).parts):
            if files[name].flag_bits & ENCRYPTED_FLAG:
                bad.left_out_file(kinds.ENCRYPTED)
            else:
                with as_data_error(f"{shown}/{name}"):
                    with _damage_as_bad_zip():
                        opened = archive.open(files[name])
                    with opened:
                        yield f"{shown}/{name}", opened


@contextmanager
def _damage_as_bad_zip() -> Iterator[None]:
    """Convert the errors that a damaged archive leads to within `zipfile`: a name that is not UTF-8, for example."""
    try:
        yield
    except (ValueError, OverflowError, struct.error) as error:
        raise zipfile.BadZipFile(f"its list of files is damaged ({error})") from error


def _in_tar(stream: IO[bytes], bad: BadInput, shown: str) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(fileobj=stream, mode="r|", bufsize=BLOCK_BYTES, tarinfo=_TarEntry) as archive:
        for entry in archive:
            if not is_visible(entry.name):
                continue
            if entry.issym() or entry.islnk():
                bad.left_out_file(kinds.LINK)
            elif entry.isreg() and (opened := archive.extractfile(entry)) is not None:
                with opened:
                    yield f"{shown}/{entry.name}", opened
            archive.members.clear()  # type: ignore[attr-defined]  # otherwise it keeps all entries in memory


class _TarEntry(tarfile.TarInfo):
    """An entry of a tar archive. `tarfile` takes a damaged one for the end, or raises whatever it leads to."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:  # type: ignore[override]
        """Return the next entry. Raises ReadError when it is damaged."""
        try:
            return super().fromtarfile(archive)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            raise  # the end
        except (tarfile.HeaderError, ValueError, LookupError, RecursionError) as error:
            raise tarfile.ReadError(f"the header of an entry is damaged ({error})") from error


def is_visible(name: str) -> bool:
    """Return whether a path within a folder or an archive is read: no part of it is hidden or of a file manager."""
    parts = set(PurePosixPath(name).parts) - {".."}
    return not parts & OF_FILE_MANAGERS and not any(part.startswith(".") for part in parts)


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
        reason = getattr(error, "strerror", None) or short_message(error).partition(": ")[2]
        raise DataError(f"{name} cannot be read: {reason}") from error
