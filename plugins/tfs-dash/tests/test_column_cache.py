"""The on-disk column cache: no column is decoded twice, and no stale column is used."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from tfs_dash import column_cache, log_columns, read_ahead
from tfs_dash.column_cache import ColumnCache, user_cache
from tfs_dash.log_columns import LogColumns

MakeRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def every_log_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_columns, "MIN_CACHED_LOG_BYTES", 1)


@pytest.fixture
def kept(tmp_path: Path) -> ColumnCache:
    return ColumnCache(tmp_path / "columns")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list to which every decoded block is appended."""
    blocks: list[bytes] = []
    decode = log_columns._decode

    def watch(decoder: object, block: memoryview) -> tuple[list[object], int]:
        blocks.append(bytes(block))
        return decode(decoder, block)

    monkeypatch.setattr(log_columns, "_decode", watch)
    return blocks


def write(path: Path, *losses: float, start: int = 1, mode: str = "w") -> None:
    with path.open(mode, encoding="utf-8", newline="\n") as file:
        for step, loss in enumerate(losses, start=start):
            file.write(json.dumps({"step": step, "tokens": step * 8, "loss": loss}) + "\n")


def read(log: Path, kept: ColumnCache, *names: str) -> dict[str, list[float]]:
    """Return the columns as read by a newly started dashboard."""
    return {name: column.tolist() for name, column in LogColumns(log, kept).read(names).items()}


def test_second_start_decodes_nothing(log: Path, kept: ColumnCache, decoded: list[bytes]) -> None:
    write(log, 3.0, 2.0, 1.0)
    first = read(log, kept, "step", "loss")
    decoded.clear()
    assert read(log, kept, "step", "loss") == first == {"step": [1, 2, 3], "loss": [3, 2, 1]}
    assert decoded == []


def test_second_start_decodes_only_appended_lines(log: Path, kept: ColumnCache, decoded: list[bytes]) -> None:
    write(log, 3.0, 2.0)
    read(log, kept, "step", "loss")
    write(log, 1.0, start=3, mode="a")
    decoded.clear()
    assert read(log, kept, "step", "loss") == {"step": [1, 2, 3], "loss": [3, 2, 1]}
    assert b"".join(decoded).count(b"\n") == 1


def test_column_that_was_never_read_is_decoded_and_then_kept(
    log: Path, kept: ColumnCache, decoded: list[bytes]
) -> None:
    write(log, 3.0, 2.0)
    read(log, kept, "step")
    assert read(log, kept, "step", "tokens")["tokens"] == [8, 16]
    decoded.clear()
    assert read(log, kept, "step", "tokens")["tokens"] == [8, 16]
    assert decoded == []


def test_columns_kept_at_different_ends_agree(log: Path, kept: ColumnCache) -> None:
    write(log, 3.0, 2.0)
    read(log, kept, "step")
    write(log, 1.0, start=3, mode="a")
    read(log, kept, "loss")
    assert read(log, kept, "step", "loss", "tokens") == {"step": [1, 2, 3], "loss": [3, 2, 1], "tokens": [8, 16, 24]}


def test_log_that_grows_while_it_is_watched_is_kept_again(log: Path, kept: ColumnCache, decoded: list[bytes]) -> None:
    write(log, 3.0, 2.0)
    columns = LogColumns(log, kept)
    columns.read(["loss"])
    write(log, *[1.0] * 8, start=3, mode="a")
    columns.read(["loss"])
    columns.read(["loss"])
    decoded.clear()
    assert len(read(log, kept, "loss")["loss"]) == 10
    assert decoded == []


def test_mapped_column_grows_with_the_log(log: Path, kept: ColumnCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory-mapped column is read-only: even a write of zero elements raises."""
    monkeypatch.setattr(column_cache, "_should_map", lambda state: True)
    write(log, 3.0, 2.0)
    read(log, kept, "step", "loss")
    columns = LogColumns(log, kept)
    columns.read(["step", "loss"])
    with log.open("a", encoding="utf-8") as file:
        file.write("no json\n")
    assert columns.read(["loss"])["loss"].tolist() == [3, 2]
    assert columns.bad_lines == 1
    write(log, 1.0, start=3, mode="a")
    assert columns.read(["step", "loss", "tokens"])["loss"].tolist() == [3, 2, 1]
    assert read(log, kept, "step", "loss", "tokens") == {"step": [1, 2, 3], "loss": [3, 2, 1], "tokens": [8, 16, 24]}


@pytest.mark.skipif(sys.platform != "linux", reason="files are memory-mapped on Linux only")
def test_only_long_columns_on_a_local_disk_are_mapped(
    log: Path, kept: ColumnCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_mapped() -> bool:
        column = LogColumns(log, kept).read(["loss"])["loss"]
        assert column.tolist() == [3, 2]
        return not column.flags.writeable

    write(log, 3.0, 2.0)
    read(log, kept, "loss")
    monkeypatch.setattr(os, "major", lambda device: 8)
    assert not is_mapped()
    monkeypatch.setattr(column_cache, "MIN_MAPPED_BYTES", 1)
    assert is_mapped()
    monkeypatch.setattr(os, "major", lambda device: 0)
    assert not is_mapped()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_cache_that_others_can_write_to_is_not_used(cache: Path) -> None:
    folder = cache / "tfs" / "columns"
    assert user_cache() is not None
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    assert user_cache() is not None
    folder.chmod(0o777)
    assert user_cache() is None


def test_values_of_a_cached_column_are_aligned(log: Path, kept: ColumnCache) -> None:
    write(log, 3.0, 2.0)
    read(log, kept, "loss")
    assert LogColumns(log, kept).read(["loss"])["loss"].flags.aligned


def test_log_that_was_cut_is_read_anew(log: Path, kept: ColumnCache) -> None:
    write(log, 3.0, 2.0, 1.0)
    read(log, kept, "loss")
    write(log, 3.0, 2.0)
    assert read(log, kept, "loss")["loss"] == [3, 2]


def test_log_that_was_replaced_by_a_longer_one_is_read_anew(log: Path, kept: ColumnCache) -> None:
    write(log, 3.0, 2.0)
    read(log, kept, "loss")
    log.unlink()
    write(log, 4.0, 2.0, 1.0)
    assert read(log, kept, "loss")["loss"] == [4, 2, 1]


def test_log_that_was_overwritten_in_place_is_read_anew(log: Path, kept: ColumnCache) -> None:
    write(log, 3.0, 2.0)
    read(log, kept, "loss")
    with log.open("r+b") as file:
        file.write(log.read_bytes().replace(b"3.0", b"9.0"))
    os.utime(log, ns=(1, 1))
    assert read(log, kept, "loss")["loss"] == [9, 2]


def test_damage_is_counted_at_the_second_start_too(log: Path, kept: ColumnCache) -> None:
    log.write_bytes(b'{"loss":1.0}\nno json\n{"loss":2.0}\n')
    read(log, kept, "loss")
    columns = LogColumns(log, kept)
    assert columns.read(["loss"])["loss"].tolist() == [1, 2]
    assert columns.bad_lines == 1


def test_torn_last_line_is_read_when_it_is_whole(log: Path, kept: ColumnCache) -> None:
    log.write_bytes(b'{"loss":1.0}\n{"lo')
    assert read(log, kept, "loss")["loss"] == [1]
    with log.open("ab") as file:
        file.write(b'ss":2.0}\n')
    assert read(log, kept, "loss")["loss"] == [1, 2]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"null\n",
        b"[]\n",
        b"{}\n",
        b"\xff\n",
        b"{" * 5000,
        b"[" * 4000,
        b'{"rows": 1}\n12345678',
        b"a torn colu",
    ],
)
def test_damaged_cache_is_ignored(log: Path, kept: ColumnCache, content: bytes) -> None:
    write(log, 3.0, 2.0)
    read(log, kept, "loss")
    for path in kept.folder.iterdir():
        path.write_bytes(content)
    assert read(log, kept, "loss")["loss"] == [3, 2]


def test_truncated_cache_is_ignored(log: Path, kept: ColumnCache) -> None:
    write(log, 3.0, 2.0)
    read(log, kept, "loss")
    for path in kept.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-8])
    assert read(log, kept, "loss")["loss"] == [3, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX named pipes")
@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_special_file_in_the_cache_is_ignored(log: Path, kept: ColumnCache, kind: str) -> None:
    write(log, 3.0, 2.0)
    read(log, kept, "loss")
    files = [path for path in kept.folder.iterdir() if path.stat().st_size]  # without the lock
    assert files
    for path in files:
        path.unlink()
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(read(log, kept, "loss")["loss"]), daemon=True)
    thread.start()
    thread.join(60)
    assert found == [[3, 2]]


@pytest.mark.parametrize(("name", "value"), [("rows", 1 << 62), ("offset", 10**30), ("rows", -1), ("probe", 7)])
def test_cache_with_an_odd_header_is_ignored(log: Path, kept: ColumnCache, name: str, value: object) -> None:
    write(log, 3.0, 2.0)
    read(log, kept, "loss")
    for path in kept.folder.iterdir():
        if path.stat().st_size:
            head, _, values = path.read_bytes().partition(b"\n")
            path.write_bytes(json.dumps({**json.loads(head), name: value}).encode() + b"\n" + values)
    assert read(log, kept, "loss")["loss"] == [3, 2]


def test_cache_that_cannot_be_written_changes_nothing(log: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    write(log, 3.0, 2.0)
    assert read(log, ColumnCache(tmp_path / "file" / "columns"), "loss")["loss"] == [3, 2]


def test_cache_that_cannot_be_shrunk_changes_nothing(log: Path, kept: ColumnCache) -> None:
    (kept.folder / "a folder of somebody's").mkdir(parents=True)
    write(log, 3.0, 2.0)
    assert read(log, ColumnCache(kept.folder, max_bytes=0), "loss")["loss"] == [3, 2]


def test_relative_cache_folder_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "here")
    kept = user_cache()
    assert kept is not None
    assert kept.folder.is_absolute()


def test_log_that_cannot_be_read_has_no_rows(log: Path, kept: ColumnCache) -> None:
    log.mkdir()
    assert read(log, kept, "loss")["loss"] == []


def test_cache_is_bounded_and_evicts_the_least_recently_used(tmp_path: Path) -> None:
    kept = ColumnCache(tmp_path / "columns", max_bytes=5000)
    logs = [tmp_path / name for name in ("a", "b", "c")]
    for position, log in enumerate(logs):
        write(log, *np.arange(250.0).tolist())
        read(log, kept, "loss")
        for path in kept.folder.iterdir():
            os.utime(path, (position + 1, position + 1))
    assert 0 < sum(path.stat().st_size for path in kept.folder.iterdir()) <= 5000


def test_cache_is_outside_of_the_runs_and_private_to_the_user(log: Path, kept: ColumnCache) -> None:
    write(log, 3.0)
    read(log, kept, "loss")
    assert list(log.parent.glob("**/*metrics*")) == [log]
    assert os.name == "nt" or kept.folder.stat().st_mode & 0o077 == 0


def test_reader_waits_for_a_process_that_decodes_the_same_log(
    log: Path, kept: ColumnCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfs_dash.column_cache.LOCK_TIMEOUT_SECONDS", 0.01)
    write(log, 3.0)
    waited: list[float] = []
    acquire = FileLock.acquire

    def watch(lock: FileLock, timeout: float) -> object:
        waited.append(timeout)
        return acquire(lock, timeout)

    with kept.decoding(log):
        monkeypatch.setattr(FileLock, "acquire", watch)
        assert read(log, kept, "loss")["loss"] == [3]  # read without the lock after the timeout
    assert waited == [0.01]


def test_reading_ahead_leaves_the_newest_curves_in_the_cache(assets: Path, make_run: MakeRun, cache: Path) -> None:
    make_run("long", np.linspace(5, 1, 60_000))
    subprocess.run([sys.executable, "-m", "tfs_dash.read_ahead", str(assets)], check=True, timeout=60)
    kept = user_cache()
    assert kept is not None
    assert kept.folder.is_relative_to(cache)
    log = assets / "runs" / "long" / "metrics.jsonl"
    with log.open("rb") as file:
        found = {name: kept.load(log, file.fileno(), name) for name in ("step", "loss", "tokens")}
    assert [name for name, entry in found.items() if entry] == ["step", "loss"]
    assert found["loss"] is not None
    assert found["loss"][1][-1] == 1


def test_nothing_is_read_ahead_if_all_is_cached(
    assets: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "MIN_CACHED_LOG_BYTES", 1)
    folder = make_run("long", np.linspace(5, 1, 100))
    started: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command))
    read_ahead.start(assets)
    assert len(started) == 1
    read(folder / "metrics.jsonl", user_cache() or pytest.fail("no cache"), "step", "loss")
    read_ahead.start(assets)
    assert len(started) == 1
    os.utime(folder / "metrics.jsonl", (2**33, 2**33))  # as if lines were appended
    read_ahead.start(assets)
    assert len(started) == 2


def test_short_logs_are_not_read_ahead(assets: Path, make_run: MakeRun) -> None:
    make_run("short")
    assert read_ahead.start(assets) is None
