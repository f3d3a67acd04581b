"""The token store: appendable .npy files, and detection of damage."""

import json
import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from tfs_core.data.store import SPLITS, SplitWriter, open_store, read_ahead, token_dtype, write_info

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
    write_info(folder, IDENTITY | {"splits": counts})


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
    assert open_store(tmp_path / "store", IDENTITY) is None


def test_store_with_a_header_of_zeros_is_not_opened(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    file = tmp_path / "store" / "train.tokens.npy"
    file.write_bytes(bytes(file.stat().st_size))  # possible after a power failure
    assert open_store(tmp_path / "store", IDENTITY) is None


def test_store_whose_counts_are_not_those_of_its_files_is_not_opened(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    file = tmp_path / "store" / "tokens.json"
    info = json.loads(file.read_text(encoding="utf-8"))
    info["splits"]["train"]["documents"] += 1
    file.write_text(json.dumps(info), encoding="utf-8")
    assert open_store(tmp_path / "store", IDENTITY) is None


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
