"""Incremental reader of a JSON Lines log as numeric columns: each read decodes only the lines added since the last.

Only requested columns are decoded (a chart of a million steps needs two columns of ten); a column that is requested
later is decoded from the beginning. Lines that are not JSON objects are skipped and counted. The columns of a long log
are cached on disk (column_cache.py).
"""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tfs_dash.column_cache import MIN_CACHED_LOG_BYTES, ColumnCache, Extent, extent_of

BLOCK_BYTES = 256 << 10
"""Read buffer size. A block that fits the processor's cache is decoded a quarter faster than one of 4 MiB."""

LONGEST_LINE_BYTES = 16 << 20
"""Longer lines count as damaged, so that a file without newlines cannot exhaust the memory."""

HEAD_BYTES = 256
"""Bytes at the beginning of a file that are compared to detect a replaced file with the same inode."""


class LogColumns:
    """The columns of a `.jsonl` file: float64 [rows], NaN for null and non-numbers. Not thread-safe."""

    def __init__(self, path: Path, cache: ColumnCache | None = None) -> None:
        self.path = path
        self.cache = cache
        self._start_over()

    def _start_over(self) -> None:
        self.bad_lines = 0
        self.rows = 0
        self.offset = 0
        self._inode = -1
        self._head = b""
        self._columns: dict[str, np.ndarray] = {}
        self._cached: dict[str, Extent] = {}  # extent of each column in the cache

    @property
    def n_bytes(self) -> int:
        """Memory used by the columns, in bytes."""
        return sum(column.nbytes for column in self._columns.values())

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the columns of all complete lines, float64 [rows] each. They are views: do not write to them.

        A missing or unreadable file has no rows. A file that was replaced or truncated (by a resume) is read again.
        """
        try:
            with self.path.open("rb") as file:
                self._start_over_if_replaced(file.fileno())
                new = [name for name in dict.fromkeys(names) if name not in self._columns]
                if self.cache and (new or self._is_cache_outdated()):
                    self._read_with_cache(file.fileno(), new, self.cache)
                else:
                    self._read_new_columns(file.fileno(), new)
                    self._read_new_lines(file.fileno())
        except OSError:
            self._start_over()
        return {name: self._columns.get(name, np.empty(0))[: self.rows] for name in names}

    def _start_over_if_replaced(self, descriptor: int) -> None:
        state = os.fstat(descriptor)
        head = _read_at(descriptor, 0, min(HEAD_BYTES, self.offset))
        if state.st_ino != self._inode or state.st_size < self.offset or head != self._head:
            self._start_over()
        self._inode = state.st_ino

    def _is_cache_outdated(self) -> bool:
        return any(self.offset > 1.25 * extent.offset for extent in self._cached.values())

    def _read_with_cache(self, descriptor: int, new: list[str], cache: ColumnCache) -> None:
        """Load cached columns, decode the rest from the log, then write missing or outdated columns to the cache."""
        state = os.fstat(descriptor)
        if state.st_size < MIN_CACHED_LOG_BYTES:
            self._read_new_columns(descriptor, new)
            self._read_new_lines(descriptor)
            return
        with cache.decoding(self.path):
            self._read_new_columns(descriptor, [name for name in new if not self._load_cached(descriptor, name, cache)])
            self._read_new_lines(descriptor)
            extent = extent_of(descriptor, state, offset=self.offset, rows=self.rows, bad_lines=self.bad_lines)
            if self._columns.keys() - self._cached or self._is_cache_outdated():
                for name, column in self._columns.items():  # all: they are used together only with equal extents
                    if self._cached.get(name) != extent:
                        cache.keep(self.path, extent, name, column[: self.rows])
                        self._cached[name] = extent
                cache.shrink()

    def _load_cached(self, descriptor: int, name: str, cache: ColumnCache) -> bool:
        """Load a column from the cache; return False on a miss, or if its extent differs from the columns in memory."""
        found = cache.load(self.path, descriptor, name)
        if found is None:
            return False
        extent, values = found
        if not self._columns:
            self.rows, self.bad_lines, self.offset = extent.rows, extent.bad_lines, extent.offset
            self._head = _read_at(descriptor, 0, min(HEAD_BYTES, self.offset))
        if (extent.rows, extent.offset) != (self.rows, self.offset):
            return False
        self._columns[name], self._cached[name] = values, extent
        return True

    def _read_new_columns(self, descriptor: int, new: list[str]) -> None:
        """Decode new columns for the lines that were read already."""
        if not new:
            return
        rows, bad, offset = self.rows, self.bad_lines, self.offset
        for name in new:
            self._columns[name] = np.empty(max(rows, 1))
        if rows:
            self.rows = self.bad_lines = self.offset = 0
            self._append(descriptor, new, end=offset)
            if (self.rows, self.bad_lines) != (rows, bad):  # the file changed meanwhile: decode all columns again
                known, inode = list(self._columns), self._inode
                self._start_over()
                self._columns, self._inode = {name: np.empty(1) for name in known}, inode

    def _read_new_lines(self, descriptor: int) -> None:
        self._append(descriptor, list(self._columns), end=os.fstat(descriptor).st_size)
        if len(self._head) < HEAD_BYTES:
            self._head = _read_at(descriptor, 0, min(HEAD_BYTES, self.offset))

    def _append(self, descriptor: int, names: list[str], end: int) -> None:
        decoder = _decoder(tuple(names))
        for block in _whole_lines(descriptor, self.offset, end):
            lines, bad = _decode(decoder, block)
            if lines:  # else no write: cached columns are read-only until `_reserve` copies them
                self._reserve(names, self.rows + len(lines), len(block), end)
                for name in names:
                    self._columns[name][self.rows : self.rows + len(lines)] = _numbers(lines, name)
                self.rows += len(lines)
            self.bad_lines += bad
            self.offset += len(block)

    def _reserve(self, names: list[str], rows: int, block_bytes: int, end: int) -> None:
        """Grow the columns: first to the estimated rows of the whole file, later to 1.5 times the rows needed."""
        for name in names:
            column = self._columns[name]
            if len(column) < rows:
                expected = int(rows * max(1.0, (end - self.offset) / block_bytes) * 1.05) if self.rows == 0 else 0
                grown = np.empty(max(rows + rows // 2, expected, 64))
                grown[: self.rows] = column[: self.rows]
                self._columns[name] = grown


def _read_at(descriptor: int, offset: int, size: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size)


def _whole_lines(descriptor: int, offset: int, end: int) -> Iterator[memoryview]:
    """Yield blocks of complete lines. A last line without a newline is still being written and is skipped.

    All blocks use the same buffer: a block is overwritten when the next one is read. A new buffer per block would cost
    a third of the decoding time.
    """
    buffer = bytearray(BLOCK_BYTES)
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        while offset < end:
            file.seek(offset)
            size = file.readinto(memoryview(buffer)[: end - offset])
            length = buffer.rfind(b"\n", 0, size) + 1
            if length:
                yield memoryview(buffer)[:length]
                offset += length
            elif offset + size >= end or not size:
                return
            elif len(buffer) < LONGEST_LINE_BYTES:
                buffer = bytearray(2 * len(buffer))  # a line longer than a block
            else:
                yield memoryview(buffer)  # too long: damage, to be counted
                offset += size


@lru_cache(maxsize=64)
def _decoder(names: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    fields = [(f"c{position}", Any, msgspec.field(name=name, default=None)) for position, name in enumerate(names)]
    line = msgspec.defstruct("Line", fields, gc=False)
    line.__positions__ = {name: f"c{position}" for position, name in enumerate(names)}  # type: ignore[attr-defined]
    return msgspec.json.Decoder(line)


def _decode(decoder: Any, block: memoryview) -> tuple[list[Any], int]:
    """Return the decoded lines of a block, and the number of lines that are not JSON objects."""
    try:
        return decoder.decode_lines(block), 0
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    lines, bad = [], 0
    for line in bytes(block).splitlines():
        try:
            lines.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            bad += 1
    return lines, bad


def _numbers(lines: list[Any], name: str) -> np.ndarray:
    if not lines:
        return np.empty(0)
    values = map(attrgetter(type(lines[0]).__positions__[name]), lines)
    try:
        return np.fromiter(values, dtype=np.float64, count=len(lines))
    except (TypeError, ValueError, OverflowError):  # a null or a non-number
        values = map(attrgetter(type(lines[0]).__positions__[name]), lines)
        return np.array([_number(value) for value in values])


def _number(value: Any) -> float:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308
        else np.nan
    )
