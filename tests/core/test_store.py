"""The token store: appendable .npy files, and detection of damage."""

import json
import mmap
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfs_core.data.store import SPLITS, DamagedStoreError, SplitWriter, open_store, read_ahead, token_dtype, write_info
from tfs_core.durable import sha256_of
from tfs_core.errors import NewerFormatError

IDENTITY = {"format_version": 1, "source": "abc"}
TEXT = [[1, 2, 3], [], [4]]
END = 9


def write_store(folder: Path, *, vocab_size: int = 10) -> None:
    folder.mkdir()
    counts = {}
    for split in SPLITS:
        writer = SplitWriter(folder, split, dtype=token_dtype(vocab_size))
        for document in TEXT:
            tokens = np.array([*document, END], dtype=np.int64)
            writer.add(tokens, np.array([len(tokens)]), len(document))
        counts[split] = writer.close()
    write_info(folder, IDENTITY | {"vocab_size": vocab_size, "splits": counts})


def test_store_returns_documents_each_followed_by_end_of_text(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    opened = open_store(tmp_path / "store", IDENTITY)
    assert opened is not None
    train = opened.train
    assert train.tokens.tolist() == [1, 2, 3, END, END, 4, END]
    assert train.offsets.tolist() == [0, 4, 5, 7]
    assert (train.documents, train.n_tokens, train.n_bytes) == (3, 7, 4)


def test_store_files_are_npy_files_that_are_memory_mapped(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    opened = open_store(tmp_path / "store", IDENTITY)
    assert opened is not None
    assert isinstance(opened.train.tokens, np.memmap)
    assert np.load(tmp_path / "store" / "train.tokens.npy").dtype == np.uint16
    assert np.load(tmp_path / "store" / "train.offsets.npy").dtype == np.int64


@pytest.mark.parametrize(("vocab_size", "dtype"), [(10, np.uint16), (65_536, np.uint16), (65_537, np.uint32)])
def test_store_takes_the_smallest_type_that_holds_every_id(vocab_size: int, dtype: type) -> None:
    assert token_dtype(vocab_size) == dtype


def test_store_header_has_room_for_any_length(tmp_path: Path) -> None:
    writer = SplitWriter(tmp_path, "train", dtype=np.dtype("<u2"))
    for _ in range(12_345):
        writer.add(np.arange(100), np.array([], dtype=np.int64), 100)
    writer.add(np.array([END]), np.array([1]), 0)
    writer.close()
    assert np.load(tmp_path / "train.tokens.npy", mmap_mode="r").shape == (1_234_501,)
    assert (tmp_path / "train.tokens.npy").stat().st_size == 128 + 2 * 1_234_501


def test_store_of_something_else_is_not_opened(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    assert open_store(tmp_path / "store", IDENTITY | {"source": "abd"}) is None
    assert open_store(tmp_path / "store", IDENTITY | {"more": 1}) is None


def test_store_that_is_not_there_is_not_opened(tmp_path: Path) -> None:
    assert open_store(tmp_path / "store", IDENTITY) is None


@pytest.mark.parametrize("name", ["train.tokens.npy", "validation.offsets.npy", "tokens.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "longer"])
def test_damaged_store_is_not_opened(tmp_path: Path, name: str, damage: str) -> None:
    write_store(tmp_path / "store")
    file = tmp_path / "store" / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(
            {"cut": content[:-1] if name != "tokens.json" else content[:40], "empty": b"", "longer": content + b"}"}[
                damage
            ]
        )
    if (name, damage) == ("tokens.json", "missing"):
        assert open_store(tmp_path / "store", IDENTITY) is None
    else:
        with pytest.raises(DamagedStoreError, match=name):
            open_store(tmp_path / "store", IDENTITY)


def test_store_with_a_header_of_zeros_is_not_opened(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    file = tmp_path / "store" / "train.tokens.npy"
    file.write_bytes(bytes(file.stat().st_size))  # possible after a power failure
    with pytest.raises(DamagedStoreError, match=r"train\.tokens\.npy"):
        open_store(tmp_path / "store", IDENTITY)


def test_store_whose_counts_are_not_those_of_its_files_is_not_opened(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    file = tmp_path / "store" / "tokens.json"
    info = json.loads(file.read_text(encoding="utf-8"))
    info["splits"]["train"]["documents"] += 1
    del info["checksum"]  # as an older tfs wrote it
    file.write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(DamagedStoreError, match=r"train\.offsets\.npy is damaged: it is no array of 5 numbers"):
        open_store(tmp_path / "store", IDENTITY)


def test_changed_description_of_a_store_is_noticed(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    file = tmp_path / "store" / "tokens.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"bytes": 4', '"bytes": 5', 1), encoding="utf-8")
    with pytest.raises(DamagedStoreError, match="is not what tfs wrote"):
        open_store(tmp_path / "store", IDENTITY)


def test_store_of_a_newer_tfs_is_refused_and_not_made_again(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    file = tmp_path / "store" / "tokens.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(NewerFormatError, match="upgrade tfs"):
        open_store(tmp_path / "store", IDENTITY)


def as_older_tfs(folder: Path) -> None:
    """Remove the checksums from a store."""
    file = folder / "tokens.json"
    info = json.loads(file.read_bytes())
    del info["checksum"]
    for split in SPLITS:
        del info["splits"][split]["sha256"]
    file.write_text(json.dumps(info), encoding="utf-8")


def change_token(file: Path, index: int, token: int) -> None:
    """Change one token, as a fault of the disk or a hand does."""
    tokens = np.load(file, mmap_mode="r+")
    tokens[index] = token
    tokens.flush()
    later = file.stat().st_mtime_ns + 10**9
    os.utime(file, ns=(later, later))


@pytest.mark.parametrize("older", [False, True])
def test_one_changed_token_is_noticed(older: bool, tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    if older:
        as_older_tfs(tmp_path / "store")
    open_store(tmp_path / "store", IDENTITY)  # the first reading records the checksum of an older store
    change_token(tmp_path / "store" / "train.tokens.npy", 0, 2)
    with pytest.raises(DamagedStoreError, match=r"train\.tokens\.npy is damaged: its content is not what tfs wrote"):
        open_store(tmp_path / "store", IDENTITY)


def test_token_outside_the_vocabulary_of_an_older_store_is_noticed(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    as_older_tfs(tmp_path / "store")
    change_token(tmp_path / "store" / "validation.tokens.npy", 1, 10)
    with pytest.raises(DamagedStoreError, match="its id 10 is not in the vocabulary of 10 ids"):
        open_store(tmp_path / "store", IDENTITY)


@pytest.mark.parametrize("offsets", [[0, 5, 4, 7], [0, 4, 5, 8], [1, 4, 5, 7], [0, 4, 4, 7], [-1, 4, 5, 7]])
def test_offsets_that_do_not_divide_the_tokens_are_noticed(offsets: list[int], tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    as_older_tfs(tmp_path / "store")
    np.save(tmp_path / "store" / "train.offsets.npy", np.array(offsets))
    with pytest.raises(DamagedStoreError, match="do not divide its tokens"):
        open_store(tmp_path / "store", IDENTITY)


@pytest.mark.parametrize("dtype", ["<f2", "<i2", ">u2", "<u4"])
def test_tokens_of_another_type_are_noticed(dtype: str, tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    as_older_tfs(tmp_path / "store")
    file = tmp_path / "store" / "train.tokens.npy"
    file.write_bytes(file.read_bytes().replace(b"<u2", dtype.encode()))
    with pytest.raises(DamagedStoreError, match=r"train\.tokens\.npy (is damaged|cannot be read)"):
        open_store(tmp_path / "store", IDENTITY)


def test_files_are_read_completely_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path / "store")
    read = []

    def counted(path: Path, *advance: Any) -> str:
        read.append(path.name)
        return sha256_of(path, *advance)

    monkeypatch.setattr("tfs_core.data.store.sha256_of", counted)
    open_store(tmp_path / "store", IDENTITY)
    assert len(read) == 4
    open_store(tmp_path / "store", IDENTITY)
    assert len(read) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no madvise")
@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
def test_read_ahead_requests_the_pages_of_the_ranges(
    dtype: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[tuple[int, int, int]] = []

    class Recording(mmap.mmap):
        def madvise(self, *request: int) -> None:
            requests.append(request)  # type: ignore[arg-type]  # three numbers

    np.save(tmp_path / "array.npy", np.arange(50_000, dtype=dtype))
    monkeypatch.setattr(mmap, "mmap", Recording)
    array = np.load(tmp_path / "array.npy", mmap_mode="r")
    ranges = [(0, 10), (20_000, 20_700), (49_990, 50_000)]
    read_ahead(array, *(np.array(ends) for ends in zip(*ranges, strict=True)))
    header = (tmp_path / "array.npy").stat().st_size - array.nbytes
    for (start, stop), (advice, page, length) in zip(ranges, requests, strict=True):
        assert advice == mmap.MADV_WILLNEED
        assert page % mmap.PAGESIZE == 0
        assert page <= header + start * array.itemsize < page + mmap.PAGESIZE
        assert page + length == header + stop * array.itemsize


def test_read_ahead_of_an_array_in_memory_does_nothing() -> None:
    read_ahead(np.arange(9), np.array([0]), np.array([9]))


def test_file_that_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    (tmp_path / "store" / ".verified.json.123").touch()
    assert open_store(tmp_path / "store", IDENTITY) is not None
    assert [path.name for path in (tmp_path / "store").glob(".*")] == []
