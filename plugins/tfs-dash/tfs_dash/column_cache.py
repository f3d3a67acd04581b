"""Columns kept on the disk from one start of the dashboard to the next, so that a long log is decoded once.

A file a column, in the user's cache folder and never in a run's: a line of JSON that says what was read of which log,
then the numbers, float64. It is used only for the very log it was read from, or one that has grown since. Everything
here may be deleted at any time; where it cannot be written, logs are decoded at each start.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from tfs_core.durable import replace

if TYPE_CHECKING:
    import numpy as np

MAX_BYTES = 2 << 30
"""What the cache takes on the disk; what was not used for longest goes first."""

WORTH_KEEPING_BYTES = 8 << 20
"""A log that is shorter is decoded as fast as its columns would be found."""

WAIT_SECONDS = 20.0
"""How long a log that another process decodes is waited for, before it is decoded here too."""

PROBE_BYTES = 256
"""How much of a log's beginning, and of what stands before the place it was read to, tells it from another."""

WORTH_MAPPING_BYTES = 4 << 20
"""A column that is shorter (half a million lines) is read as fast."""

ALIGNMENT = 64
"""In bytes: the numbers of a file begin at a multiple of this, so that mapped into memory they lie as in an array."""


@dataclass(frozen=True)
class Extent:
    """How far a log was read, and what it was at that time."""

    inode: int
    modified_at_ns: int
    size: int
    offset: int  # in bytes: the end of the last whole line
    rows: int
    bad_lines: int
    probe: str  # digest of the bytes at the beginning and before `offset`


class ColumnCache:
    """The kept columns of all logs. Safe for several processes; nothing is raised when the disk does not go along."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    @contextmanager
    def decoding(self, log: Path) -> Iterator[None]:
        """Keep other processes from decoding the same log meanwhile; wait while one does."""
        lock = FileLock(self._path(log, "lock"))
        with suppress(OSError):  # a Timeout is one
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock.acquire(timeout=WAIT_SECONDS)
        try:
            yield
        finally:
            lock.release()

    def load(self, log: Path, descriptor: int, column: str) -> "tuple[Extent, np.ndarray] | None":
        """Return a column as far as it was kept, float64 [rows]; None when there is none of this log as it is now."""
        import numpy as np  # here: read_ahead.py asks `is_kept` before anything heavy is imported

        path = self._path(log, column)
        try:
            with path.open("rb") as file:
                extent = Extent(**json.loads(file.readline(4096)))
                if not _still_holds(extent, descriptor):
                    return None
                if _is_to_be_mapped(os.fstat(file.fileno())):
                    values = np.memmap(file, dtype="<f8", mode="r", offset=file.tell()).view(np.ndarray)
                else:
                    values = np.fromfile(file, dtype="<f8")
            os.utime(path)  # it was used
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        return (extent, values) if len(values) == extent.rows else None

    def is_kept(self, log: Path, column: str) -> bool:
        """Say whether the column was kept or used since the log was last written, as far as can be told unread."""
        try:
            return self._path(log, column).stat().st_mtime_ns >= log.stat().st_mtime_ns
        except OSError:
            return False

    def keep(self, log: Path, extent: Extent, column: str, values: "np.ndarray") -> None:
        """Keep a column, in place of what was kept of it before."""
        path = self._path(log, column)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                head = json.dumps(asdict(extent)).encode()
                file.write(head.ljust(-(-len(head) // ALIGNMENT) * ALIGNMENT + ALIGNMENT - 1) + b"\n")
                values.astype("<f8", copy=False).tofile(file)
            replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def shrink(self) -> None:
        """Delete what was not used for longest until the rest is within the limit."""
        try:
            states = [(entry.stat(), entry.path) for entry in os.scandir(self.folder)]
        except OSError:
            return
        total = sum(state.st_size for state, _ in states)
        for state, path in sorted(states, key=lambda entry: entry[0].st_mtime_ns):
            if total <= self.max_bytes:
                break
            with suppress(OSError):  # somebody else's, or being read on Windows
                Path(path).unlink(missing_ok=True)
                total -= state.st_size

    def _path(self, log: Path, name: str) -> Path:
        """Return where something of a log is kept: neither its path nor its column becomes part of a path."""
        digest = hashlib.sha256(f"{os.path.realpath(log)}\0{name}".encode("utf-8", "surrogateescape"))
        return self.folder / digest.hexdigest()[:32]


def users_cache() -> ColumnCache | None:
    """Return the cache in XDG_CACHE_HOME, LOCALAPPDATA or ~/.cache.

    None for a user without a home, and where the folder is somebody else's: they could put other numbers into it.
    """
    given = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    try:
        folder = Path(given) if given and os.path.isabs(given) else Path.home() / ".cache"
    except RuntimeError:
        return None
    folder = folder / "tfs" / "columns"
    return ColumnCache(folder) if _is_ours(folder) else None


def _is_ours(folder: Path) -> bool:
    """Say whether nobody else can write there; a folder that is not there yet will be ours."""
    try:
        state = folder.stat()
    except OSError:
        return True
    return sys.platform == "win32" or (state.st_uid == os.geteuid() and not state.st_mode & 0o022)


def extent_of(descriptor: int, state: os.stat_result, *, offset: int, rows: int, bad_lines: int) -> Extent:
    """Return what was read of an open log, `state` being what it was before it was read."""
    return Extent(state.st_ino, state.st_mtime_ns, state.st_size, offset, rows, bad_lines, _probe(descriptor, offset))


def _still_holds(extent: Extent, descriptor: int) -> bool:
    """Say whether a log is what it was, or has grown at its end."""
    if any(not isinstance(getattr(extent, field.name), field.type) for field in fields(Extent)):  # type: ignore[arg-type]
        return False
    state = os.fstat(descriptor)
    same = (state.st_mtime_ns, state.st_size) == (extent.modified_at_ns, extent.size)
    grown = state.st_size > extent.size >= extent.offset
    return state.st_ino == extent.inode and (same or grown) and _probe(descriptor, extent.offset) == extent.probe


def _is_to_be_mapped(state: os.stat_result) -> bool:
    """Say whether a file is mapped, not read: the system has its pages in memory, and copying takes ten times as long.

    A file that is mapped takes a descriptor, so small ones are read. And those that are not on a disk of this machine,
    as far as Linux tells (block devices have a major number): what another machine deletes is gone for who has it
    mapped, and that ends a process.
    """
    return sys.platform == "linux" and os.major(state.st_dev) != 0 and state.st_size >= WORTH_MAPPING_BYTES


def _probe(descriptor: int, offset: int) -> str:
    digest = hashlib.sha256()
    for start in (0, max(offset - PROBE_BYTES, 0)):
        os.lseek(descriptor, start, os.SEEK_SET)
        digest.update(os.read(descriptor, min(PROBE_BYTES, offset - start)))
    return digest.hexdigest()[:32]
