"""Files are replaced in one piece, and whether a lock file is locked can be asked without touching it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from tfs_core.durable import is_locked, write_durably

FILELOCK = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire(blocking=False)
print("held", flush=True)
time.sleep(20)
"""

FLOCK = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("held", flush=True)
time.sleep(20)
"""
"""The lock that tfs took before it used filelock."""


def test_write_durably_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_durably(path, b"old")
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["run.json"]


def test_write_durably_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_durably(path, b"old")

    def disk_is_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize(
    "hold",
    [FILELOCK, pytest.param(FLOCK, marks=pytest.mark.skipif(sys.platform == "win32", reason="no flock on Windows"))],
    ids=["filelock", "flock"],
)
def test_is_locked_until_the_process_that_holds_the_lock_is_killed(hold: str, tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with subprocess.Popen([sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert is_locked(path)
        with pytest.raises(Timeout):
            FileLock(path).acquire(blocking=False)
        other.kill()
    assert not is_locked(path)
    with FileLock(path, blocking=False):
        assert is_locked(path)


def test_asking_does_not_release_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with FileLock(path):
        assert is_locked(path)
        assert is_locked(path)
        with pytest.raises(Timeout):
            FileLock(path).acquire(blocking=False)


def test_is_locked_makes_no_file(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "run.lock")
    assert os.listdir(tmp_path) == []


def test_is_locked_needs_no_permission_to_write(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with FileLock(path):
        path.chmod(0o444)
        tmp_path.chmod(0o555)
        try:
            assert is_locked(path)
        finally:
            tmp_path.chmod(0o755)
    assert not is_locked(path)
