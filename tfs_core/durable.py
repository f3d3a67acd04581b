"""Atomic file replacement, flushed to the disk, and the question whether a lock file is locked."""

import os
import sys
import time
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


def write_durably(path: Path, content: bytes) -> None:
    """Replace the file at `path` in one piece: a reader, or a machine that loses power, has the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def replace(source: Path, target: Path) -> None:
    """Rename `source` to `target`, which may exist; on Windows wait a moment for a reader to close it."""
    for attempt in range(50):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if sys.platform != "win32" or attempt == 49:
                raise
            time.sleep(0.02)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (Windows needs no such thing, and has none)."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the `filelock.FileLock` at `path`.

    Asking creates no file and needs no permission to write, unlike an attempt to acquire the lock.
    """
    try:
        file = path.open("rb")
    except OSError:
        return False
    with file:  # closing the file releases the lock that the question takes
        try:
            if sys.platform == "win32":
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
        except OSError:  # a file system without locks
            return False
    return False
