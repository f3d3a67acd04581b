"""The token store: a folder of memory-mapped arrays, written in constant memory and opened in constant time.

tokens.json            its inputs, counts, and the size of every file (docs/formats.md)
<split>.tokens.npy     uint16 (uint32 above 65,536 ids) [n_tokens]: the ids of each document, followed by end of text
<split>.offsets.npy    int64 [documents + 1]: document i is tokens[offsets[i] : offsets[i + 1]]
"""

import json
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tfs_core.data.documents import hash_of
from tfs_core.durable import sha256_of, write_durably
from tfs_core.errors import CheckpointError, DataError, NewerFormatError
from tfs_core.plugins import describe
from tfs_core.progress import progress
from tfs_core.stored_json import read_json


class DamagedStoreError(DataError):
    """A token store is not what tfs wrote. It is made again from the data set."""


FORMAT_VERSION = 1
SPLITS = ("train", "validation")
INFO_FILE = "tokens.json"

SPLIT = {"documents": int, "tokens": int, "bytes": int, "files": {str: int}, "sha256?": {str: str}}
INFO = {
    "vocab_size": range(1, 1 << 31),
    "left_out?": [str],
    "checksum?": str,
    "splits": {"train": SPLIT, "validation": SPLIT},
}
"""The shape of `tokens.json` (see `tfs_core.stored_json`)."""


@dataclass(frozen=True)
class TokenSplit:
    """One split of a store, memory-mapped: reading an element loads its page."""

    tokens: NDArray[Any]  # uint16 or uint32 [n_tokens]
    offsets: NDArray[np.int64]  # [documents + 1]
    n_bytes: int  # UTF-8 bytes of the text that the tokens stand for

    @property
    def documents(self) -> int:
        """The number of documents."""
        return len(self.offsets) - 1

    @property
    def n_tokens(self) -> int:
        """The number of tokens, including the end of text of each document."""
        return len(self.tokens)


def read_ahead(array: NDArray[Any], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
    """Prefetch ranges of a memory-mapped array asynchronously (madvise with MADV_WILLNEED).

    The array has one dimension [length]; `starts` and `stops` are indices in it, int64 [ranges].

    Without it, each missing page is a blocking page fault that also reads megabytes around it: slow for random access,
    on a slow disk or with a store larger than memory. A no-op on Windows and for arrays in memory.
    """
    if sys.platform == "win32" or not isinstance(array, np.memmap) or not isinstance(array.base, mmap.mmap):
        return
    first = array.offset % mmap.ALLOCATIONGRANULARITY
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        page = (first + start * array.itemsize) // mmap.PAGESIZE * mmap.PAGESIZE
        with suppress(OSError):  # only a hint: missing pages are loaded on access
            array.base.madvise(mmap.MADV_WILLNEED, page, first + stop * array.itemsize - page)


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return uint16 if it holds every id, else uint32 (little-endian)."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@dataclass(frozen=True)
class TokenStore:
    """An open token store."""

    train: TokenSplit
    validation: TokenSplit
    folder: Path
    info: dict[str, Any]  # the content of tokens.json


def open_store(folder: Path, identity: dict[str, Any]) -> TokenStore | None:
    """Open the store in a folder. Return None when there is none, or when its inputs differ from `identity`.

    Raises DamagedStoreError when it is damaged, NewerFormatError when a newer tfs wrote it, and DataError when it
    cannot be read. A file is read completely when it is opened for the first time, and when its size or its time has
    changed since then: its ids are within the vocabulary, and its checksum is the one recorded when it was written (or,
    for a store of an older tfs, first read).
    """
    if not (folder / INFO_FILE).exists():
        return None
    try:
        info = read_json(folder / INFO_FILE, INFO, version=FORMAT_VERSION)
        if {key: info.get(key) for key in identity} != identity:
            return None
        if "checksum" in info and info["checksum"] != checksum_of(info):
            raise CheckpointError(f"{folder / INFO_FILE} is damaged: it is not what tfs wrote")
        verified = _Verified(folder, info)
        train, validation = (_open_split(folder, split, info, verified) for split in SPLITS)
    except NewerFormatError:
        raise
    except CheckpointError as error:
        raise DamagedStoreError(str(error)) from error
    except OSError as error:
        raise DataError(f"{folder}: the tokens cannot be read: {error}") from error
    verified.save()
    return TokenStore(train, validation, folder, info)


def checksum_of(info: dict[str, Any]) -> str:
    """Return the hash of all entries of a JSON object but `checksum`, which keeps it."""
    return hash_of({key: value for key, value in info.items() if key != "checksum"})


def _open_split(folder: Path, split: str, info: dict[str, Any], verified: "_Verified") -> TokenSplit:
    counts, vocab_size = info["splits"][split], info["vocab_size"]
    tokens = open_array(folder / f"{split}.tokens.npy", counts["tokens"], token_dtype(vocab_size))
    offsets = open_array(folder / f"{split}.offsets.npy", counts["documents"] + 1, np.dtype("<i8"))
    if not verified.knows(f"{split}.tokens.npy"):
        check_ids(tokens, vocab_size, folder / f"{split}.tokens.npy")
    if not verified.knows(f"{split}.offsets.npy"):
        grows = all((np.diff(offsets[start : start + _PART + 1]) > 0).all() for start in range(0, len(offsets), _PART))
        if not grows or offsets[0] != 0 or offsets[-1] != len(tokens):
            raise CheckpointError(f"{folder}: the offsets of its documents do not divide its tokens")
    return TokenSplit(tokens, offsets, counts["bytes"])


def open_array(path: Path, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a memory-mapped array [length] of this type. Raises CheckpointError for any other file."""
    if not path.is_file():  # a named pipe, for example
        raise CheckpointError(f"{path} is missing, or no regular file")
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # from NumPy's parser of the header
        raise CheckpointError(f"{path} cannot be read: {describe(error)}") from None
    expected_bytes = length * dtype.itemsize + getattr(array, "offset", 0)
    if (array.dtype, array.shape, path.stat().st_size) != (dtype, (length,), expected_bytes):
        raise CheckpointError(f"{path} is damaged: it is no array of {length} numbers of the type {dtype}")
    return array


def check_ids(tokens: NDArray[Any], vocab_size: int, path: Path) -> None:
    """Raise CheckpointError unless all ids of an array [n_tokens], from the file `path`, are in the vocabulary.

    It is read in parts, in constant memory.
    """
    for start in range(0, len(tokens), _PART):
        if (largest := int(tokens[start : start + _PART].max())) >= vocab_size:
            raise CheckpointError(f"{path} is damaged: its id {largest} is not in the vocabulary of {vocab_size} ids")


_PART = 1 << 22


class _Verified:
    """The files of a store that this machine has read completely: `verified.json`, by size, time and inode."""

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self._file = folder / "verified.json"
        self._known: dict[str, Any] = {}
        with suppress(CheckpointError):  # it is made again
            self._known = read_json(self._file, {str: {"state": [int], "sha256": str}})
        self._now: dict[str, Any] = {}
        for split in SPLITS:
            for name in (f"{split}.tokens.npy", f"{split}.offsets.npy"):
                self._now[name] = self._verify(folder / name, info["splits"][split].get("sha256", {}).get(name))

    def _verify(self, path: Path, recorded: str | None) -> dict[str, Any]:
        """Return the entry of a file, read completely if it has changed. Raises CheckpointError for another content."""
        known: dict[str, Any] | None = self._known.get(path.name)
        if not path.is_file():  # a named pipe, for example
            raise CheckpointError(f"{path} is missing, or no regular file")
        status = path.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ino]
        if known and known["state"] == state:
            return known
        with progress(f"checking {path.name}", total=status.st_size, unit="B") as advance:
            sha256 = sha256_of(path, advance)
        if sha256 != (recorded or (known["sha256"] if known else sha256)):
            raise CheckpointError(f"{path} is damaged: its content is not what tfs wrote")
        return {"state": state, "sha256": sha256}

    def knows(self, name: str) -> bool:
        """Return whether a file is the same as when it was last read completely."""
        return bool(self._now[name] == self._known.get(name))

    def save(self) -> None:
        """Write `verified.json` if something has changed. Where that is not possible, files are read every time.

        Nothing is written through a folder that is a link.
        """
        if self._now != self._known and not self._file.parent.is_symlink():
            with suppress(OSError):
                for leftover in self._file.parent.glob(f".{self._file.name}.*"):  # of a process that was killed
                    leftover.unlink(missing_ok=True)
                write_durably(self._file, (json.dumps(self._now, indent=2) + "\n").encode())


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write tokens.json, the last file of a store, atomically and durably."""
    info = {**info, "checksum": checksum_of(info)}
    write_durably(folder / INFO_FILE, (json.dumps(info, indent=2) + "\n").encode())


@contextmanager
def as_data_error(folder: Path) -> Iterator[None]:
    """Convert an OSError while writing a store to a DataError (context manager)."""
    try:
        yield
    except (OSError, RecursionError) as error:  # RecursionError: folders too deep for shutil.rmtree
        raise DataError(
            f"{folder}: the tokens cannot be written there: {getattr(error, 'strerror', None) or error}. "
            "Make room, change its permissions, or choose another place with --assets."
        ) from error


class SplitWriter:
    """Writes a split block by block, in constant memory."""

    def __init__(self, folder: Path, split: str, *, dtype: np.dtype[Any]) -> None:
        self._tokens = _ArrayWriter(folder / f"{split}.tokens.npy", dtype)
        self._offsets = _ArrayWriter(folder / f"{split}.offsets.npy", np.dtype("<i8"))
        self._offsets.append(np.zeros(1, dtype=np.int64))
        self.n_bytes = 0

    @property
    def documents(self) -> int:
        """The number of complete documents."""
        return self._offsets.length - 1

    def add(self, tokens: NDArray[Any], document_ends: NDArray[np.int64], n_bytes: int) -> None:
        """Append tokens [n_tokens], end of text included, that encode `n_bytes` bytes of text.

        `document_ends` [documents] are the indices in `tokens` after each end of text. Tokens after the last one belong
        to a document that continues in the next block.
        """
        self._offsets.append(document_ends + self._tokens.length)
        self._tokens.append(tokens)
        self.n_bytes += n_bytes

    def close(self) -> dict[str, Any]:
        """Make the split durable, and return its entry in tokens.json."""
        arrays = (self._tokens, self._offsets)
        return {
            "documents": self.documents,
            "tokens": self._tokens.length,
            "bytes": self.n_bytes,
            "files": {array.path.name: array.close() for array in arrays},
            "sha256": {array.path.name: sha256_of(array.path) for array in arrays},
        }


class _ArrayWriter:
    """An appendable one-dimensional .npy file. `close` rewrites the header with the final length.

    NumPy pads the header, so that the length can grow in place. The file is open only during a write.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.length = 0
        self._dtype = dtype
        with path.open("wb") as file:
            self._write_header(file)

    def append(self, values: NDArray[Any]) -> None:
        with self.path.open("ab") as file:
            file.write(values.astype(self._dtype, copy=False).tobytes())
        self.length += len(values)

    def close(self) -> int:
        """Write the final header, make the file durable, and return its size in bytes."""
        with self.path.open("r+b") as file:
            self._write_header(file)
            file.flush()
            os.fsync(file.fileno())
        return self.path.stat().st_size

    def _write_header(self, file: BinaryIO) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(file, header)
