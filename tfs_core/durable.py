"""Atomic and durable file replacement, checksums, and a check whether a lock file is locked."""

import hashlib
import os
import sys
import time
from pathlib import Path

from tfs_core.progress import Advance

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NO_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Flags of `os.open`, with which opening a named pipe does not wait for a writer."""

BLOCK_BYTES = 1 << 20


def write_durably(path: Path, content: bytes) -> None:
    """Atomically replace the file at `path`, and flush it to the disk.

    Readers see either the old or the new content, also after a crash or a power failure.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # a new file: an existing one may be a link to another
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sha256_of(path: Path, advance: Advance = lambda _n_bytes: None) -> str:
    """Return the SHA-256 checksum of a file's content: 64 hexadecimal digits. Reads it in constant memory.

    `advance` is called with the number of bytes of each block that is read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def replace(source: Path, target: Path) -> None:
    """Atomically rename `source` to `target`. An existing file is replaced.

    On Windows, where an open file cannot be replaced, the rename is retried for about one second.
    """
    for attempt in range(50):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if sys.platform != "win32" or attempt == 49:
                raise
            time.sleep(0.02)


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of a folder to the disk. A no-op on Windows, which has no such operation."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return True if a process holds the `filelock.FileLock` at `path`.

    Unlike an attempt to acquire the lock, this creates no file and needs no write permission.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | NO_WAITING)
    except OSError:
        return False
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # the file system does not support locks
        return False
    finally:
        os.close(descriptor)  # releases the lock that the check acquires
    return False
