"""Compressed local files, and files with invalid lines."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tfs_datasets import compressed
from tfs_datasets.config import CsvConfig, JsonlConfig, ParquetConfig, TextConfig

from tfs_core.config.schema import Choice
from tfs_core.contracts import SupportsLeftOut
from tfs_core.data.prepare import build_source, build_tokenizer, prepare_tokens
from tfs_core.errors import DataError

CONFIGS = {"text": TextConfig, "jsonl": JsonlConfig, "csv": CsvConfig, "parquet": ParquetConfig}


def zstandard(content: bytes) -> bytes:
    return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(content))


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstandard": zstandard,
}


def build(name: str, file: Path, **options: Any) -> Any:
    choice = Choice(f"tfs-datasets/{name}", CONFIGS[name](path=file, **options))
    return build_source(choice, assets=file.parent, offline=True)


def documents(name: str, file: Path, **options: Any) -> list[str]:
    return list(build(name, file, **options).documents("train"))


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
class TestCompressed:
    """The format is detected by the first bytes of a file."""

    def test_compressed_file_is_read_under_any_name(self, tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
        text = "".join(f"line {i} é\n" for i in range(20_000))
        (tmp_path / "a.txt").write_bytes(compress(text.encode()))
        assert documents("text", tmp_path / "a.txt") == [text]
        (tmp_path / "a.jsonl").write_bytes(compress(b'{"text": "one"}\n{"text": "two"}'))
        assert documents("jsonl", tmp_path / "a.jsonl") == ["one", "two"]

    def test_concatenated_files_are_one(self, tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
        (tmp_path / "a").write_bytes(compress(b"one ") + compress(b"two"))
        assert documents("text", tmp_path / "a") == ["one two"]

    def test_truncated_file_is_refused(self, tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
        (tmp_path / "a").write_bytes(compress(b"one two three " * 1000)[:-6])
        with pytest.raises(DataError, match="is truncated"):
            documents("text", tmp_path / "a", on_error="skip")

    def test_damaged_file_is_refused(self, tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
        whole = bytearray(compress(bytes(range(128)) * 1000))
        whole[len(whole) // 2] ^= 0xFF
        whole[12] ^= 0xFF
        (tmp_path / "a").write_bytes(whole)
        with pytest.raises(DataError, match=r"cannot be read|is truncated"):
            documents("text", tmp_path / "a")


def test_large_compressed_file_is_read_in_parts(tmp_path: Path) -> None:
    (tmp_path / "a.zst").write_bytes(zstandard(b"x" * 10_000_000))
    parts = list(build("text", tmp_path / "a.zst").pieces("train"))
    assert max(len(part) for part, _ in parts) <= 2 * compressed.BLOCK_BYTES
    assert sum(len(part) for part, _ in parts) == 10_000_000


BAD = {
    "jsonl": (b'{"text": "1"}\n{"txt": 3}\nno\n{"text": "4"}\n', ["1", "4"], 2, "line 2 has no key 'text'"),
    "csv": (b'n,text\n1,one\n2\n3,"a"b\n4,\xff\n5,"five"\n', ["one", "five"], 3, "line 3 has 1 field"),
}


@pytest.mark.parametrize("name", BAD)
class TestBadInput:
    """Invalid input is refused or skipped, as `on_error` says, and reported with file and line."""

    def test_refused_with_file_and_line(self, tmp_path: Path, name: str) -> None:
        content, _, _, message = BAD[name]
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(DataError, match=f"bad, {message}.*on_error: skip"):
            documents(name, tmp_path / "bad")

    def test_skipped_counted_and_reported(self, tmp_path: Path, name: str) -> None:
        content, left, count, message = BAD[name]
        (tmp_path / "bad").write_bytes(content)
        source = build(name, tmp_path / "bad", on_error="skip")
        assert isinstance(source, SupportsLeftOut)
        for _ in range(2):  # a second pass counts anew
            assert list(source.documents("train")) == left
            (report,) = source.left_out()
            assert report.startswith(f"{tmp_path / 'bad'}: {count} left out, the first: {message}")

    def test_skipping_has_another_fingerprint(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "bad").write_bytes(BAD[name][0])
        skipping = build(name, tmp_path / "bad", on_error="skip")
        assert skipping.fingerprint() != build(name, tmp_path / "bad").fingerprint()


def test_file_of_nothing_but_bad_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"body": "1"}\n' * 9, encoding="utf-8")
    with pytest.raises(DataError, match=r"no document could be read\. .* 9 left out, the first: line 1 has no key"):
        documents("jsonl", tmp_path / "a", on_error="skip")


def test_report_of_many_files_is_short(tmp_path: Path) -> None:
    for i in range(15):
        (tmp_path / f"{i:02}.txt").write_bytes(b"a\xff")
    source = build("text", tmp_path, on_error="skip")
    with pytest.raises(DataError, match="no document could be read"):
        list(source.documents("train"))
    assert len(source.left_out()) == 11
    assert source.left_out()[-1] == "and 5 more files with invalid input"


def test_preparation_reports_skipped_input_each_time(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'{"text": "one two three"}\n{"text": "four five"}\nno\n')
    for _ in range(2):
        said: list[str] = []
        source = build("jsonl", tmp_path / "a", on_error="skip")
        tokenizer = build_tokenizer(Choice("byte"), assets=tmp_path, offline=True, documents=None)
        prepared = prepare_tokens(source, tokenizer, assets=tmp_path, progress=said.append)
        assert prepared.info["left_out"] == list(said[-1:])
        assert "1 left out, the first: line 3 is not JSON" in said[-1]
