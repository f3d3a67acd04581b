"""Data sets from local files: file search, documents, and errors of invalid files."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfs_datasets import local_files, text
from tfs_datasets.config import JsonlConfig, ParquetConfig, TextConfig
from tfs_datasets.local_files import find_files

from tfs_core import progress
from tfs_core.config.schema import Choice
from tfs_core.contracts import SupportsPieces
from tfs_core.data.prepare import build_source
from tfs_core.errors import DataError

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CONFIGS = {"text": TextConfig, "jsonl": JsonlConfig, "parquet": ParquetConfig}


def build(name: str, assets: Path, **options: Any) -> Any:
    return build_source(Choice(f"tfs-datasets/{name}", CONFIGS[name](**options)), assets=assets, offline=True)


def documents(source: Any, split: str = "train") -> list[str]:
    found = list(source.documents(split))
    assert list(source.documents(split)) == found  # a second pass gives the same
    return found


def write(folder: Path, **files: str) -> None:
    """Write files named by the keys, with `__` for a slash and `_txt` for `.txt`."""
    for name, content in files.items():
        file = folder / name.replace("__", "/").replace("_txt", ".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode())


class TestFinding:
    """Paths, folders and globs."""

    def test_file_folder_and_glob_are_found(self, tmp_path: Path) -> None:
        write(tmp_path, a_txt="1", sub__b_txt="2", sub__deep__c_txt="3", d="4")
        assert documents(build("text", tmp_path, path=tmp_path / "a.txt")) == ["1"]
        assert documents(build("text", tmp_path, path=tmp_path / "sub")) == ["2", "3"]
        assert documents(build("text", tmp_path, path=tmp_path / "*.txt")) == ["1"]
        assert documents(build("text", tmp_path, path=tmp_path / "**" / "*.txt")) == ["1", "2", "3"]

    def test_list_of_paths_is_read_in_its_order_and_each_file_once(self, tmp_path: Path) -> None:
        write(tmp_path, a_txt="1", b_txt="2", c_txt="3")
        paths = (tmp_path / "c.txt", tmp_path / "*.txt")
        assert documents(build("text", tmp_path, path=paths)) == ["3", "1", "2"]

    def test_files_are_ordered_by_name_and_not_as_the_disk_gives_them(self, tmp_path: Path) -> None:
        names = ["b/z", "b/a", "B", "a-", "a/b", "ä", "10", "9"]
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(name, encoding="utf-8")
        expected = ["10", "9", "B", "a/b", "a-", "b/a", "b/z", "ä"]
        assert [file.relative_to(tmp_path).as_posix() for file in find_files("text", tmp_path)] == expected

    def test_hidden_files_of_a_folder_are_left_out(self, tmp_path: Path) -> None:
        for name in (".git/config", ".DS_Store", "a.txt", "__MACOSX/b.txt", "desktop.ini"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("x", encoding="utf-8")
        assert [file.name for file in find_files("text", tmp_path)] == ["a.txt"]

    def test_searching_shows_progress_and_leaves_out_hidden_folders(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(progress, "is_shown", True)
        monkeypatch.setattr(progress, "FIRST_SECONDS", 0.0)
        for number in range(3):
            for folder in ("a", ".venv"):
                (tmp_path / folder).mkdir(exist_ok=True)
                (tmp_path / folder / f"{number}.txt").write_text("x", encoding="utf-8")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        assert len(find_files("text", tmp_path)) == 3
        assert capsys.readouterr().err.splitlines()[0].startswith("looking for files: ")

    def test_file_named_like_a_glob_is_found(self, tmp_path: Path) -> None:
        (tmp_path / "a[1].txt").write_text("x", encoding="utf-8")
        assert len(find_files("text", tmp_path / "a[1].txt")) == 1

    def test_missing_file_names_the_nearest(self, tmp_path: Path) -> None:
        write(tmp_path, corpus_txt="1", other_txt="2")
        with pytest.raises(DataError, match=r"text: there is no file .*corpsu\.txt\. Did you mean 'corpus\.txt'\?"):
            build("text", tmp_path, path=tmp_path / "corpsu.txt")

    def test_device_is_no_file_of_text(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="/dev/null is not a regular file"):
            build("text", tmp_path, path=Path("/dev/null"))

    def test_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
            build("text", tmp_path, path=tmp_path / "nowhere" / "a.txt")

    def test_glob_that_matches_nothing_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no file matches .*\*\.txt"):
            build("text", tmp_path, path=tmp_path / "*.txt")

    def test_empty_folder_and_empty_list_are_errors(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="there is no file in the folder"):
            build("text", tmp_path, path=tmp_path)
        with pytest.raises(DataError, match="the list of paths is empty"):
            build("text", tmp_path, path=())

    def test_file_in_both_splits_is_an_error(self, tmp_path: Path) -> None:
        write(tmp_path, a_txt="1", b_txt="2")
        with pytest.raises(DataError, match=r"b\.txt is in both path and validation_path"):
            build("text", tmp_path, path=tmp_path, validation_path=tmp_path / "b.txt")


@pytest.mark.parametrize("name", ["text", "jsonl", "parquet"])
def test_validation_path_is_the_validation_split(name: str, tmp_path: Path) -> None:
    files = {}
    for split in ("train", "validation"):
        files[split] = tmp_path / split
        write_documents(name, files[split], [split])
    source = build(name, tmp_path, path=files["train"], validation_path=files["validation"])
    assert list(source.splits()) == ["train", "validation"]
    assert [documents(source, split) for split in source.splits()] == [["train"], ["validation"]]
    assert list(build(name, tmp_path, path=files["train"]).splits()) == ["train"]


def write_documents(name: str, file: Path, texts: list[str | None]) -> None:
    if name == "text":
        file.write_bytes("".join(text or "" for text in texts).encode())
    elif name == "jsonl":
        file.write_bytes("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())}), file, row_group_size=2)


class TestFingerprint:
    """Changes that do and do not affect the fingerprint."""

    @pytest.mark.parametrize("name", ["text", "jsonl", "parquet"])
    def test_fingerprint_follows_the_content_and_not_the_place(self, name: str, tmp_path: Path) -> None:
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir()
            write_documents(name, tmp_path / folder / "a", ["same"])
        fingerprints = [build(name, tmp_path, path=tmp_path / folder).fingerprint() for folder in ("one", "two")]
        assert fingerprints[0] == fingerprints[1]
        write_documents(name, tmp_path / "two" / "a", ["else"])
        assert build(name, tmp_path, path=tmp_path / "two").fingerprint() != fingerprints[0]

    def test_fingerprint_changes_with_order_split_and_options(self, tmp_path: Path) -> None:
        write(tmp_path, a_txt="1", b_txt="2")
        a, b = tmp_path / "a.txt", tmp_path / "b.txt"
        fingerprints = [
            build("text", tmp_path, **options).fingerprint()
            for options in (
                {"path": (a, b)},
                {"path": (b, a)},
                {"path": a, "validation_path": b},
                {"path": (a, b), "separator": "\n"},
            )
        ]
        assert len(set(fingerprints)) == 4
        one = {"path": tmp_path / "x"}
        write_documents("jsonl", tmp_path / "x", ["1"])
        assert build("jsonl", tmp_path, **one).fingerprint() != build("text", tmp_path, **one).fingerprint()
        assert (
            build("jsonl", tmp_path, **one, text_key="b").fingerprint() != build("jsonl", tmp_path, **one).fingerprint()
        )

    @pytest.fixture
    def big_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Return a file that counts as big, and as old enough for its hash to be cached."""
        monkeypatch.setattr(local_files, "BIG_FILE", 5)
        monkeypatch.setattr(local_files, "SETTLED_NANOSECONDS", -(10**12))
        file = tmp_path / "big.txt"
        file.write_text("content one", encoding="utf-8")
        return file

    def test_big_file_hash_is_cached(self, tmp_path: Path, big_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = build("text", tmp_path, path=big_file).fingerprint()
        monkeypatch.setattr(local_files.hashlib, "file_digest", None)  # hashing again would fail
        assert build("text", tmp_path, path=big_file).fingerprint() == first

    def test_cached_hash_is_never_stale(self, tmp_path: Path, big_file: Path) -> None:
        first = build("text", tmp_path, path=big_file).fingerprint()
        before = big_file.stat()
        big_file.write_text("content two", encoding="utf-8")  # same length, modification time restored below
        while big_file.stat().st_ctime_ns == before.st_ctime_ns or big_file.stat().st_mtime_ns != before.st_mtime_ns:
            os.utime(big_file, ns=(before.st_atime_ns, before.st_mtime_ns))  # until the file system's clock has ticked
        assert build("text", tmp_path, path=big_file).fingerprint() != first

    def test_hash_of_a_file_changed_just_now_is_not_cached(
        self, tmp_path: Path, big_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(local_files, "SETTLED_NANOSECONDS", 10**12)
        build("text", tmp_path, path=big_file).fingerprint()
        assert not list(tmp_path.glob("datasets/hashes/*"))

    def test_progress_of_hashing_is_shown(
        self, tmp_path: Path, big_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("tfs_core.progress.is_shown", True)
        monkeypatch.setattr("tfs_core.progress.FIRST_SECONDS", 0.0)
        build("text", tmp_path, path=big_file).fingerprint()
        assert "checking for changes: 0.0 MB of 0.0 MB" in capsys.readouterr().err

    def test_damaged_cached_hash_is_recomputed(self, tmp_path: Path, big_file: Path) -> None:
        first = build("text", tmp_path, path=big_file).fingerprint()
        (kept,) = tmp_path.glob("datasets/hashes/*")
        kept.write_text("{", encoding="utf-8")
        assert build("text", tmp_path, path=big_file).fingerprint() == first


class TestText:
    """Documents of text files."""

    def test_each_file_is_a_document_to_the_character(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"one\r\ntwo \n\n")
        (tmp_path / "b").write_bytes("naïve 🦊".encode())
        assert documents(build("text", tmp_path, path=(tmp_path / "a", tmp_path / "b"))) == [
            "one\r\ntwo \n\n",
            "naïve 🦊",
        ]

    def test_byte_order_mark_is_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone")
        assert documents(build("text", tmp_path, path=tmp_path / "a")) == ["one"]

    def test_separator_divides_a_file_and_files_end_documents(self, tmp_path: Path) -> None:
        write(tmp_path, a_txt="1\n--\n2\n3\n--\n\n--\n", b_txt="4")
        found = documents(build("text", tmp_path, path=tmp_path, separator="\n--\n"))
        assert found == ["1", "2\n3", "", "", "4"]

    @untimed
    @given(
        content=st.text(st.sampled_from("ab-é🦊\n")),
        separator=st.text(st.sampled_from("a-🦊\n"), min_size=1, max_size=4),
    )
    def test_documents_do_not_depend_on_how_a_file_is_read(
        self, content: str, separator: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        file = tmp_path_factory.getbasetemp() / "divided.txt"
        file.write_bytes(content.encode())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text, "BLOCK_CHARACTERS", 3)
            assert documents(build("text", file.parent, path=file, separator=separator)) == content.split(separator)
            assert documents(build("text", file.parent, path=file)) == [content]

    def test_file_larger_than_memory_would_be_read_in_parts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(text, "BLOCK_CHARACTERS", 1000)
        write(tmp_path, a_txt="x" * 100_000)
        for separator in (None, "--"):
            source = build("text", tmp_path, path=tmp_path / "a.txt", separator=separator)
            assert isinstance(source, SupportsPieces)
            parts = list(source.pieces("train"))
            assert max(len(part) for part, _ in parts) <= 2000
            assert sum(len(part) for part, _ in parts) == 100_000
            assert [ends for _, ends in parts].count(True) == 1

    @pytest.mark.parametrize("block", [2, 1 << 20])
    @pytest.mark.parametrize(
        ("content", "line"), [(b"ab\ncd\nna\xefve\n", 3), (b"\xffa\n", 1), ("one\né".encode()[:-1], 2)]
    )
    def test_file_that_is_not_utf8_is_an_error_with_its_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, line: int, block: int
    ) -> None:
        monkeypatch.setattr(text, "BLOCK_CHARACTERS", block)
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(DataError, match=rf"a\.txt, line {line}: byte 0x.. is not UTF-8"):
            documents(build("text", tmp_path, path=tmp_path / "a.txt"))

    def test_empty_separator_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="separator must not be empty"):
            TextConfig(path=Path("a"), separator="")

    def test_description_names_the_file(self, tmp_path: Path) -> None:
        write(tmp_path, a_txt="1", b_txt="2", c_txt="3")
        assert build("text", tmp_path, path=tmp_path / "a.txt").description == "text a.txt"
        assert build("text", tmp_path, path=tmp_path).description == "text a.txt and 2 more"
