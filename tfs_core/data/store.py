"""The token store: a folder of memory-mapped arrays, written as a stream and opened in no time, whatever its size.

tokens.json            what it was made from, counts, and the size of every file (docs/formats.md)
<split>.tokens.npy     uint16 (uint32 past 65,536 ids) [n_tokens]: every document's ids, then end of text
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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfs_core.errors import DataError

FORMAT_VERSION = 1
SPLITS = ("train", "validation")
INFO_FILE = "tokens.json"


@dataclass(frozen=True)
class TokenSplit:
    """One split of a store, on disk; reading an element reads its page."""

    tokens: NDArray[Any]  # uint16 or uint32 [n_tokens]
    offsets: NDArray[np.int64]  # [documents + 1]
    n_bytes: int  # UTF-8 bytes of the text that the tokens stand for

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return len(self.offsets) - 1

    @property
    def n_tokens(self) -> int:
        """How many tokens there are, the end of text of every document included."""
        return len(self.tokens)


def read_ahead(array: NDArray[Any], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
    """Ask the operating system for stretches of a memory-mapped array, to have them in memory when they are read.

    A page that is not there is otherwise read when it is touched, one after the other, and megabytes around each: what
    is read in random places needs it, from a disk that is slow, or a store that is larger than memory.
    """
    if sys.platform == "win32" or not isinstance(array, np.memmap) or not isinstance(array.base, mmap.mmap):
        return
    first = array.offset % mmap.ALLOCATIONGRANULARITY
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        page = (first + start * array.itemsize) // mmap.PAGESIZE * mmap.PAGESIZE
        with suppress(OSError):  # it is advice: what it does not bring is read when it is touched
            array.base.madvise(mmap.MADV_WILLNEED, page, first + stop * array.itemsize - page)


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest of uint16 and uint32 that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def open_splits(folder: Path, identity: dict[str, Any]) -> tuple[dict[str, TokenSplit], dict[str, Any]] | None:
    """Return the splits of a store by name, and the content of its tokens.json.

    None when there is no store, when it was made from something other than `identity` says, or when it is damaged:
    a file that is missing, cut short, or no such array.
    """
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        if {key: info[key] for key in identity} != identity:
            return None
        return {split: _open_split(folder, split, info["splits"][split]) for split in SPLITS}, info
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _open_split(folder: Path, split: str, counts: dict[str, Any]) -> TokenSplit:
    for name, size in counts["files"].items():
        if (folder / name).stat().st_size != size:
            raise ValueError(f"{folder / name} is not {size} bytes long")
    tokens = np.load(folder / f"{split}.tokens.npy", mmap_mode="r", allow_pickle=False)
    offsets = np.load(folder / f"{split}.offsets.npy", mmap_mode="r", allow_pickle=False)
    if len(tokens) != counts["tokens"] or len(offsets) != counts["documents"] + 1:
        raise ValueError(f"{folder / INFO_FILE} does not count what is in the arrays of '{split}'")
    return TokenSplit(tokens, offsets, counts["bytes"])


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write tokens.json, the last file of a store, and make it durable."""
    with (folder / INFO_FILE).open("w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(info, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def saying_why_not(folder: Path) -> Iterator[None]:
    """Turn what keeps a store from being written into a sentence."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: the tokens cannot be written there: {error.strerror or error}. "
            "Make room, change its permissions, or choose another place with --assets."
        ) from error


class SplitWriter:
    """Writes a split, document after document, in memory that does not depend on its size."""

    def __init__(self, folder: Path, split: str, *, dtype: np.dtype[Any], end_of_text_id: int) -> None:
        self.folder = folder
        self._tokens = _ArrayWriter(folder / f"{split}.tokens.npy", dtype)
        self._offsets = _ArrayWriter(folder / f"{split}.offsets.npy", np.dtype("<i8"))
        self._end_of_text = np.array([end_of_text_id], dtype=dtype)
        self._offsets.append(np.zeros(1, dtype=np.int64))
        self.documents = 0
        self.n_bytes = 0

    def add(self, ids: NDArray[Any], n_bytes: int) -> None:
        """Append ids, which stand for so many bytes of text, to the document being written."""
        self._tokens.append(ids)
        self.n_bytes += n_bytes

    def end_document(self) -> None:
        """End the document being written: end of text follows its ids."""
        self._tokens.append(self._end_of_text)
        self._offsets.append(np.array([self._tokens.length], dtype=np.int64))
        self.documents += 1

    def add_block(self, tokens: NDArray[Any], document_ends: NDArray[np.int64], n_bytes: int) -> None:
        """Append the tokens of many documents, end of text included: `document_ends` are the places behind those.

        What stands before the first end goes on with the document being written; so does what follows for the last.
        """
        self._offsets.append(document_ends + self._tokens.length)
        self._tokens.append(tokens)
        self.documents += len(document_ends)
        self.n_bytes += n_bytes

    def counts(self) -> dict[str, Any]:
        """Return what tokens.json says of the split, once it is closed."""
        return {
            "documents": self.documents,
            "tokens": self._tokens.length,
            "bytes": self.n_bytes,
            "files": {array.path.name: array.path.stat().st_size for array in (self._tokens, self._offsets)},
        }

    def close(self) -> None:
        """Make the split durable."""
        self._tokens.close()
        self._offsets.close()

    def abandon(self) -> None:
        """Let the files go, so that they can be deleted."""
        self._tokens.abandon()
        self._offsets.abandon()


class _ArrayWriter:
    """A one-dimensional .npy file that grows: the header is written again, with the length, at the end.

    NumPy leaves room in a header for any length, for this purpose.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.length = 0
        self._dtype = dtype
        self._file = path.open("wb", buffering=1 << 20)
        self._write_header()

    def append(self, values: NDArray[Any]) -> None:
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self.length += len(values)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        with suppress(OSError):  # what cannot be written any more (the disk is full) is not wanted either
            self._file.close()

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, header)
