"""The data set `parquet`: columns of text, nested columns, templates, and errors of invalid files."""

import gzip
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tfs_datasets.config import ParquetConfig

from tfs_core.config.schema import Choice
from tfs_core.data.prepare import build_source
from tfs_core.errors import DataError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

CHATS = [
    {
        "id": 1,
        "meta": {"title": "A"},
        "messages": [{"role": "user", "content": "Hi"}, {"role": "bot", "content": "Yo"}],
    },
    {"id": 2, "meta": None, "messages": [{"role": "user", "content": None}]},
    {"id": 3, "meta": {"title": None}, "messages": None},
]


def build(file: Path, **options: Any) -> Any:
    choice = Choice("tfs-datasets/parquet", ParquetConfig(path=file, **options))
    return build_source(choice, assets=file.parent, offline=True)


def documents(file: Path, **options: Any) -> list[str]:
    source = build(file, **options)
    found = list(source.documents("train"))
    assert list(source.documents("train")) == found  # a second pass gives the same
    return found


def written(folder: Path, columns: Any) -> Path:
    """Write a table of columns, or of rows, and return the file."""
    file = folder / "a.parquet"
    table = pyarrow.Table.from_pylist(columns) if isinstance(columns, list) else pyarrow.table(columns)
    parquet.write_table(table, file, row_group_size=2)
    return file


class TestColumns:
    """Columns that hold text, and fields of nested columns."""

    def test_each_row_is_a_document(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, {"text": ["1", None, "", "é", "5"]})) == ["1", "", "", "é", "5"]

    def test_kinds_of_text_columns_are_all_read(self, tmp_path: Path) -> None:
        kinds = {
            "plain": pyarrow.string(),
            "large": pyarrow.large_string(),
            "dictionary": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        }
        file = written(tmp_path, {name: pyarrow.array(["a", "b"], kind) for name, kind in kinds.items()})
        for name in kinds:
            assert documents(file, column=name) == ["a", "b"]

    def test_dotted_name_is_a_field_of_a_column(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, CHATS), column="meta.title") == ["A", "", ""]
        file = written(tmp_path, {"meta.text": ["1"], "meta": [{"text": "2", "more": "3"}]})
        assert documents(file, column="meta.text") == ["1"]
        assert documents(file, column="meta.more") == ["3"]

    def test_list_within_a_name_has_a_document_in_each_item(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, CHATS), column="messages.content") == ["Hi", "Yo", "", ""]

    def test_template_writes_items_and_columns(self, tmp_path: Path) -> None:
        file = written(tmp_path, CHATS)
        found = documents(file, column="messages", template="{role}: {content}\n")
        assert found == ["user: Hi\nbot: Yo\n", "user: \n", ""]
        assert documents(file, template="{id} {meta.title}") == ["1 A", "2 ", "3 "]
        assert documents(written(tmp_path, {"a": [["1", "2"], []]}), column="a", template="{}\n") == ["1\n2\n", ""]

    @pytest.mark.parametrize("size", [1, 3, 5])
    def test_only_columns_of_the_documents_are_read(self, tmp_path: Path, size: int) -> None:
        file = written(tmp_path, {"big": ["x" * 1000] * size, "text": ["1"] * size, "texts": ["2"] * size})
        content = bytearray(file.read_bytes())
        start = parquet.ParquetFile(file).metadata.row_group(0).column(0)
        begin = start.dictionary_page_offset or start.data_page_offset
        content[begin : begin + start.total_compressed_size] = bytes(start.total_compressed_size)
        file.write_bytes(content)
        assert documents(file) == ["1"] * size
        assert documents(file, template="{text}") == ["1"] * size


class TestInvalid:
    """Missing columns, columns without text, and damaged files."""

    @pytest.mark.parametrize(
        ("columns", "options", "message"),
        [
            (
                {"text": ["1"]},
                {"column": "txt"},
                "has no column 'txt'. Its columns that hold text: text. (Did you mean",
            ),
            (
                {"n": [1], "body": ["1"], "title": ["2"]},
                {},
                "Its columns that hold text: body, title. (Set column to one",
            ),
            ({"text": [1, 2]}, {}, "holds a number under 'text', not text"),
            ({"text": [b"1"]}, {}, "holds a value of the type binary under 'text', not text."),
            ({"n": [1]}, {}, "has no column 'text', and none of its columns holds text."),
            ({"meta": [{"title": "1"}]}, {"column": "meta"}, "Set column to a key that holds text: meta.title"),
            ({"meta": [{"title": "1"}]}, {"column": "meta.titel"}, "Did you mean 'meta.title'? Set column to it."),
            ({"n": [1], "body": ["1"]}, {"template": "{text}"}, "has no key 'text'. Its keys that hold text: body"),
        ],
    )
    def test_column_that_is_missing_or_no_text_is_an_error_before_the_first_row(
        self, tmp_path: Path, columns: Any, options: dict[str, Any], message: str
    ) -> None:
        for on_error in ("refuse", "skip"):
            with pytest.raises(DataError) as raised:
                documents(written(tmp_path, columns), on_error=on_error, **options)
            assert message in str(raised.value)
            assert "on_error" not in str(raised.value)

    def test_list_without_a_template_is_an_error_with_one(self, tmp_path: Path) -> None:
        for column, settings in (("messages", "set "), ("text", "set column: messages and ")):
            with pytest.raises(DataError) as raised:
                documents(written(tmp_path, CHATS), column=column)
            assert settings + r'template: "{role}: {content}\n"' in str(raised.value)

    def test_value_that_is_not_utf8_is_left_out(self, tmp_path: Path) -> None:
        texts = pyarrow.array([b"one", b"\xff", b"three"], pyarrow.binary()).view(pyarrow.string())
        file = written(tmp_path, {"text": texts})
        with pytest.raises(DataError, match="row 2: byte 0xff is not UTF-8"):
            documents(file)
        assert documents(file, on_error="skip") == ["one", "three"]

    @pytest.mark.parametrize("content", [b"", b"not parquet at all", b"PAR1" + bytes(100) + b"PAR1"])
    def test_file_that_is_not_parquet_is_an_error(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
            documents(tmp_path / "a.parquet")

    def test_column_name_that_is_not_utf8_is_an_error(self, tmp_path: Path) -> None:
        file = written(tmp_path, {"text": ["1"], "äö": ["2"]})
        file.write_bytes(file.read_bytes().replace("äö".encode(), b"\xff\xff\xff\xff"))
        with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet: 'utf-8' codec can't decode"):
            documents(file)

    def test_file_in_an_archive_or_compressed_is_an_error(self, tmp_path: Path) -> None:
        file = written(tmp_path, {"text": ["1"]})
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(file, "folder/a.parquet")
        with pytest.raises(DataError, match=r"a\.zip/folder/a\.parquet is compressed .* or in an archive\. Unpack it"):
            documents(tmp_path / "a.zip")
        (tmp_path / "a.gz").write_bytes(gzip.compress(file.read_bytes()))
        with pytest.raises(DataError, match=r"a\.gz is compressed as a whole"):
            documents(tmp_path / "a.gz")

    def test_missing_pyarrow_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tfs_datasets.needed.find_spec", lambda name: None)
        with pytest.raises(DataError, match=r"pip install 'tfs-datasets\[parquet\]'"):
            build(tmp_path / "a")


def test_fingerprint_of_a_plain_column_is_that_of_the_first_version(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"PAR1 not read for a fingerprint")
    assert build(file).fingerprint() == build(file, column="text").fingerprint() == "b0a94f4ac652660b68bc"
    readings: list[dict[str, Any]] = [{}, {"column": "b"}, {"template": "{b}"}, {"column": "b", "template": "{}"}]
    assert len({build(file, **options).fingerprint() for options in readings}) == len(readings)
