"""One log file as columns of numbers that grow: read once, then only what was added.

Only the columns that were asked for are decoded, and a column that is asked for later is read for the lines so far:
a chart of a million steps needs two of ten. A line that is no JSON object is damage: skipped, and counted. The columns
of a long log are kept on the disk for the next start (column_cache.py).
"""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tfs_dash.column_cache import WORTH_KEEPING_BYTES, ColumnCache, Extent, extent_of

BLOCK_BYTES = 256 << 10
"""How much of a file is in memory at a time: what fits the processor's cache is decoded a quarter faster than 4 MiB."""

LONGEST_LINE_BYTES = 16 << 20
"""What is longer without a newline is no line of a log, and must not fill the memory."""

HEAD_BYTES = 256
"""The beginning of a file, by which a file that was replaced without a change of size or inode is recognized."""


class LogColumns:
    """The columns of a `.jsonl` file, float64, NaN for null and for what is no number. Not safe for two threads."""

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
        self._kept: dict[str, Extent] = {}  # how far each column is in the cache

    @property
    def n_bytes(self) -> int:
        """Memory that the columns take."""
        return sum(column.nbytes for column in self._columns.values())

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the columns so far, as views that must not be written to: float64 [rows] each.

        A file that is missing, or cannot be read, has no rows. One that was replaced or cut (by a resume) is read anew.
        """
        try:
            with self.path.open("rb") as file:
                self._start_over_if_replaced(file.fileno())
                new = [name for name in dict.fromkeys(names) if name not in self._columns]
                if self.cache and (new or self._is_far_ahead_of_the_cache()):
                    self._read_and_keep(file.fileno(), new, self.cache)
                else:
                    self._read_again(file.fileno(), new)
                    self._read_on(file.fileno())
        except OSError:
            self._start_over()
        return {name: self._columns.get(name, np.empty(0))[: self.rows] for name in names}

    def _start_over_if_replaced(self, descriptor: int) -> None:
        state = os.fstat(descriptor)
        head = _read_at(descriptor, 0, min(HEAD_BYTES, self.offset))
        if state.st_ino != self._inode or state.st_size < self.offset or head != self._head:
            self._start_over()
        self._inode = state.st_ino

    def _is_far_ahead_of_the_cache(self) -> bool:
        return any(self.offset > 1.25 * extent.offset for extent in self._kept.values())

    def _read_and_keep(self, descriptor: int, new: list[str], cache: ColumnCache) -> None:
        """Read what is in the cache from there and the rest from the log; then keep all that the cache lacks."""
        state = os.fstat(descriptor)
        if state.st_size < WORTH_KEEPING_BYTES:
            self._read_again(descriptor, new)
            self._read_on(descriptor)
            return
        with cache.decoding(self.path):
            self._read_again(descriptor, [name for name in new if not self._take(descriptor, name, cache)])
            self._read_on(descriptor)
            extent = extent_of(descriptor, state, offset=self.offset, rows=self.rows, bad_lines=self.bad_lines)
            if self._columns.keys() - self._kept or self._is_far_ahead_of_the_cache():
                for name, column in self._columns.items():  # all: columns that end at one place are of use together
                    if self._kept.get(name) != extent:
                        cache.keep(self.path, extent, name, column[: self.rows])
                        self._kept[name] = extent
                cache.shrink()

    def _take(self, descriptor: int, name: str, cache: ColumnCache) -> bool:
        """Take a column from the cache, if it is as long as those that are here; the first one says how long."""
        found = cache.load(self.path, descriptor, name)
        if found is None:
            return False
        extent, values = found
        if not self._columns:
            self.rows, self.bad_lines, self.offset = extent.rows, extent.bad_lines, extent.offset
            self._head = _read_at(descriptor, 0, min(HEAD_BYTES, self.offset))
        if (extent.rows, extent.offset) != (self.rows, self.offset):
            return False
        self._columns[name], self._kept[name] = values, extent
        return True

    def _read_again(self, descriptor: int, new: list[str]) -> None:
        """Add columns for the lines that were read already."""
        if not new:
            return
        rows, bad, offset = self.rows, self.bad_lines, self.offset
        for name in new:
            self._columns[name] = np.empty(max(rows, 1))
        if rows:
            self.rows = self.bad_lines = self.offset = 0
            self._append(descriptor, new, end=offset)
            if (self.rows, self.bad_lines) != (rows, bad):  # it changed under our hands: all columns must agree
                known, inode = list(self._columns), self._inode
                self._start_over()
                self._columns, self._inode = {name: np.empty(1) for name in known}, inode

    def _read_on(self, descriptor: int) -> None:
        self._append(descriptor, list(self._columns), end=os.fstat(descriptor).st_size)
        if len(self._head) < HEAD_BYTES:
            self._head = _read_at(descriptor, 0, min(HEAD_BYTES, self.offset))

    def _append(self, descriptor: int, names: list[str], end: int) -> None:
        decoder = _decoder(tuple(names))
        for block in _whole_lines(descriptor, self.offset, end):
            lines, bad = _decode(decoder, block)
            if lines:  # a column from the cache cannot be written to: it is copied to where there is room for more
                self._reserve(names, self.rows + len(lines), len(block), end)
                for name in names:
                    self._columns[name][self.rows : self.rows + len(lines)] = _numbers(lines, name)
                self.rows += len(lines)
            self.bad_lines += bad
            self.offset += len(block)

    def _reserve(self, names: list[str], rows: int, block_bytes: int, end: int) -> None:
        """Make room: at the first block for the whole file, as far as its lines tell, later for half as much more."""
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
    """Iterate over blocks of whole lines; the last line without its newline is being written and is left.

    A block is overwritten by the next one: to make each anew would take as long as a third of the decoding.
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
                yield memoryview(buffer)  # no line: damage, to be counted
                offset += size


@lru_cache(maxsize=64)
def _decoder(names: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    fields = [(f"c{position}", Any, msgspec.field(name=name, default=None)) for position, name in enumerate(names)]
    line = msgspec.defstruct("Line", fields, gc=False)
    line.__positions__ = {name: f"c{position}" for position, name in enumerate(names)}  # type: ignore[attr-defined]
    return msgspec.json.Decoder(line)


def _decode(decoder: Any, block: memoryview) -> tuple[list[Any], int]:
    """Return the block's lines decoded, and how many held no JSON object."""
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
    except (TypeError, ValueError, OverflowError):  # a null, or what is no number
        values = map(attrgetter(type(lines[0]).__positions__[name]), lines)
        return np.array([_number(value) for value in values])


def _number(value: Any) -> float:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308
        else np.nan
    )
