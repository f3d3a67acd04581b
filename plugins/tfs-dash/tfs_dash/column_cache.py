"""On-disk cache of log columns, so that a long log is decoded once and not at every start of the dashboard.

One file per column, in the user's cache folder and never in a run folder: a JSON header line (the Extent of the log
that was read), then the values as float64. An entry is valid only for the same log, unchanged or with lines appended.
All files may be deleted at any time; if the folder is not writable, logs are decoded at each start.
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
"""Size limit of the cache on disk. The least recently used entries are evicted first."""

MIN_CACHED_LOG_BYTES = 8 << 20
"""Shorter logs are not cached: decoding them is as fast as a cache lookup."""

LOCK_TIMEOUT_SECONDS = 20.0
"""Timeout for the lock on a log that another process is decoding; then this process decodes the log too."""

PROBE_BYTES = 256
"""Number of bytes hashed to identify a log: at its beginning, and again at the end of the part read."""

MIN_MAPPED_BYTES = 4 << 20
"""Minimum size of a memory-mapped column (half a million rows). Reading a smaller column is as fast."""

ALIGNMENT = 64
"""Byte alignment of the values in a file, so that a memory-mapped column is an aligned array."""


@dataclass(frozen=True)
class Extent:
    """The part of a log that was read, and the state of the file before reading. Sizes are in bytes."""

    inode: int
    modified_at_ns: int
    size: int
    offset: int  # in bytes: end of the last complete line
    rows: int
    bad_lines: int
    probe: str  # hash of the bytes at the beginning and before `offset`


class ColumnCache:
    """The cached columns of all logs. Safe for concurrent processes. An I/O error is a cache miss and is not raised."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    @contextmanager
    def decoding(self, log: Path) -> Iterator[None]:
        """Hold an inter-process lock, so that only one process decodes the log. On timeout, continue without it."""
        lock = FileLock(self._path(log, "lock"))
        with suppress(OSError):  # filelock.Timeout is an OSError
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock.acquire(timeout=LOCK_TIMEOUT_SECONDS)
        try:
            yield
        finally:
            lock.release()

    def load(self, log: Path, descriptor: int, column: str) -> "tuple[Extent, np.ndarray] | None":
        """Return a cached column's extent and its values, float64 [rows]; None on a miss or if the log has changed.

        `descriptor` is the file descriptor of the log.
        """
        import numpy as np  # lazy: read_ahead.py calls `is_cached` before NumPy is imported

        path = self._path(log, column)
        try:
            if not path.is_file():  # opening a named pipe would block
                return None
            with path.open("rb") as file:
                extent = Extent(**json.loads(file.readline(4096)))
                state = os.fstat(file.fileno())
                if not _is_still_valid(extent, descriptor) or state.st_size != file.tell() + 8 * extent.rows:
                    return None
                if _should_map(state):
                    values = np.memmap(file, dtype="<f8", mode="r", offset=file.tell()).view(np.ndarray)
                else:
                    values = np.fromfile(file, dtype="<f8")
            os.utime(path)  # marks it as recently used
        except (OSError, ValueError, TypeError, OverflowError, RecursionError):
            return None
        return (extent, values) if len(values) == extent.rows else None

    def is_cached(self, log: Path, column: str) -> bool:
        """Return True if the column was cached or used after the log's last write, by modification times alone."""
        try:
            return self._path(log, column).stat().st_mtime_ns >= log.stat().st_mtime_ns
        except OSError:
            return False

    def keep(self, log: Path, extent: Extent, column: str, values: "np.ndarray") -> None:
        """Write a column, float64 [rows], to the cache, replacing its previous entry atomically."""
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
        """Evict the least recently used entries until the cache is within its size limit."""
        try:
            states = [(entry.stat(), entry.path) for entry in os.scandir(self.folder)]
        except OSError:
            return
        total = sum(state.st_size for state, _ in states)
        for state, path in sorted(states, key=lambda entry: entry[0].st_mtime_ns):
            if total <= self.max_bytes:
                break
            with suppress(OSError):  # a folder, another user's file, or a file open on Windows
                Path(path).unlink(missing_ok=True)
                total -= state.st_size

    def _path(self, log: Path, name: str) -> Path:
        """Return the path of a cache file. Log path and column name are hashed, to prevent path traversal."""
        digest = hashlib.sha256(f"{os.path.realpath(log)}\0{name}".encode("utf-8", "surrogateescape"))
        return self.folder / digest.hexdigest()[:32]


def user_cache() -> ColumnCache | None:
    """Return the cache in XDG_CACHE_HOME (LOCALAPPDATA on Windows), by default in ~/.cache.

    Returns None if the user has no home folder, or if another user can write to the cache (and could forge columns).
    """
    given = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    try:
        folder = Path(given) if given and os.path.isabs(given) else Path.home() / ".cache"
    except RuntimeError:
        return None
    folder = folder / "tfs" / "columns"
    return ColumnCache(folder) if _is_private(folder) else None


def _is_private(folder: Path) -> bool:
    """Return True if no other user can write to the folder, or if it does not exist yet."""
    try:
        state = folder.stat()
    except OSError:
        return True
    return sys.platform == "win32" or (state.st_uid == os.geteuid() and not state.st_mode & 0o022)


def extent_of(descriptor: int, state: os.stat_result, *, offset: int, rows: int, bad_lines: int) -> Extent:
    """Return the extent of an open log that was read up to the byte `offset`; `state` is its stat before reading."""
    return Extent(state.st_ino, state.st_mtime_ns, state.st_size, offset, rows, bad_lines, _probe(descriptor, offset))


def _is_still_valid(extent: Extent, descriptor: int) -> bool:
    """Return True if the log is unchanged since `extent`, or has only grown."""
    if any(not isinstance(getattr(extent, field.name), field.type) for field in fields(Extent)):  # type: ignore[arg-type]
        return False
    state = os.fstat(descriptor)
    same = (state.st_mtime_ns, state.st_size) == (extent.modified_at_ns, extent.size)
    grown = state.st_size > extent.size >= extent.offset
    return state.st_ino == extent.inode and (same or grown) and _probe(descriptor, extent.offset) == extent.probe


def _should_map(state: os.stat_result) -> bool:
    """Return True if a cache file should be memory-mapped: reading a copy takes ten times as long.

    Small files are read, because each mapping needs a file descriptor. Files on network file systems are read too,
    because a file deleted by another machine would crash the process that has it mapped (SIGBUS). On Linux, a local
    block device has a nonzero major number.
    """
    return sys.platform == "linux" and os.major(state.st_dev) != 0 and state.st_size >= MIN_MAPPED_BYTES


def _probe(descriptor: int, offset: int) -> str:
    digest = hashlib.sha256()
    for start in (0, max(offset - PROBE_BYTES, 0)):
        os.lseek(descriptor, start, os.SEEK_SET)
        digest.update(os.read(descriptor, min(PROBE_BYTES, offset - start)))
    return digest.hexdigest()[:32]
