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

from tfs_core.durable import write_durably
from tfs_core.errors import DataError

FORMAT_VERSION = 1
SPLITS = ("train", "validation")
INFO_FILE = "tokens.json"


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
    """Open the store in a folder.

    Return None when there is none, when its inputs differ from `identity`, or when it is damaged: a file is missing,
    truncated, or not the expected array.
    """
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        if {key: info[key] for key in identity} != identity:
            return None
        train, validation = (_open_split(folder, split, info["splits"][split]) for split in SPLITS)
        return TokenStore(train, validation, folder, info)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _open_split(folder: Path, split: str, counts: dict[str, Any]) -> TokenSplit:
    for name, size in counts["files"].items():
        if (folder / name).stat().st_size != size:
            raise ValueError(f"{folder / name} is not {size} bytes long")
    tokens = np.load(folder / f"{split}.tokens.npy", mmap_mode="r", allow_pickle=False)
    offsets = np.load(folder / f"{split}.offsets.npy", mmap_mode="r", allow_pickle=False)
    if len(tokens) != counts["tokens"] or len(offsets) != counts["documents"] + 1:
        raise ValueError(f"{folder / INFO_FILE} does not match the lengths of the arrays of '{split}'")
    return TokenSplit(tokens, offsets, counts["bytes"])


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write tokens.json, the last file of a store, atomically and durably."""
    write_durably(folder / INFO_FILE, (json.dumps(info, indent=2) + "\n").encode())


@contextmanager
def as_data_error(folder: Path) -> Iterator[None]:
    """Convert an OSError while writing a store to a DataError (context manager)."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: the tokens cannot be written there: {error.strerror or error}. "
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
        return {
            "documents": self.documents,
            "tokens": self._tokens.length,
            "bytes": self.n_bytes,
            "files": {array.path.name: array.close() for array in (self._tokens, self._offsets)},
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
