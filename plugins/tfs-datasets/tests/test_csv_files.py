"""The data set `csv`: dialects, columns, templates, and rows that cannot be read."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfs_datasets import csv_table
from tfs_datasets.config import CsvConfig

from tfs_core.config.schema import Choice
from tfs_core.data.prepare import build_source
from tfs_core.errors import DataError

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# What opened with a quote once swallowed the rows up to the next one.
STRAY_QUOTES = 'id\ttext\n1\t"Hello said he\n2\tplain\n3\tx "y" z\n4\t"quoted" start\n5\tlast\n'


def build(file: Path, **options: Any) -> Any:
    choice = Choice("tfs-datasets/csv", CsvConfig(path=file, **options))
    return build_source(choice, assets=file.parent, offline=True)


def documents(file: Path, **options: Any) -> list[str]:
    source = build(file, **options)
    found = list(source.documents("train"))
    assert list(source.documents("train")) == found  # a second pass gives the same
    return found


def written(folder: Path, content: str | bytes) -> Path:
    """Write a file and return it."""
    file = folder / "a.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


class TestRows:
    """Rows of valid files."""

    def test_quotes_line_breaks_and_delimiters_are_part_of_a_document(self, tmp_path: Path) -> None:
        file = written(tmp_path, '\ufeffid,text\r\n1,"one\r\ntwo, ""three"""\r\n2,\r\n\r\n3,é\r\n')
        assert documents(file) == ['one\r\ntwo, "three"', "", "é"]

    def test_long_field_is_read(self, tmp_path: Path) -> None:
        assert len(documents(written(tmp_path, "text\n" + "x" * 200_000 + "\n"))[0]) == 200_000

    def test_line_ends_of_old_macs_end_rows(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, "id,text\r1,one\r2,two\r")) == ["one", "two"]

    def test_carriage_return_within_a_line_is_not_a_row(self, tmp_path: Path) -> None:
        file = written(tmp_path, 'text\none\r1\n"two\r2"\r\nthree\n')
        with pytest.raises(DataError, match="line 2 is not CSV: a field without quotes contains a carriage return"):
            documents(file)
        assert documents(file, on_error="skip") == ["two\r2", "three"]

    def test_other_encoding_is_read(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, "id;text\n1;café\n".encode("cp1252")), encoding="cp1252") == ["café"]
        assert documents(written(tmp_path, "id\ttext\r\n1\tcafé\r\n".encode("utf-16"))) == ["café"]

    @pytest.mark.parametrize("delimiter", [";", ",", ":"])
    def test_line_that_names_the_delimiter_for_excel_is_no_header(self, tmp_path: Path, delimiter: str) -> None:
        rows = [["id", "text"], ["1", "one"], ["2", "two"]]
        content = "\r\n".join([f"sep={delimiter}", *(delimiter.join(row) for row in rows)])
        assert documents(written(tmp_path, content)) == ["one", "two"]
        assert documents(written(tmp_path, content), header=False, delimiter=delimiter, column=1) == ["id", "1", "2"]
        with pytest.raises(DataError, match="line 5 has 1 field, but"):
            documents(written(tmp_path, f"{content}\r\n3"))

    def test_first_of_two_columns_of_a_name_is_read(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, "text,text\none,two\n")) == ["one"]

    @untimed
    @given(
        rows=st.lists(st.lists(st.text(st.sampled_from("ab\"',;\t|\r\né\\ 1")), min_size=2, max_size=2), max_size=6),
        delimiter=st.sampled_from([",", ";", "\t", "|", ":"]),
        quote=st.sampled_from(['"', "'"]),
        line_end=st.sampled_from(["\n", "\r\n"]),
        quote_all=st.booleans(),
    )
    def test_written_texts_come_back(
        self,
        rows: list[list[str]],
        delimiter: str,
        quote: str,
        line_end: str,
        quote_all: bool,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        if not quote_all and line_end == "\n":  # then Python does not quote a carriage return
            rows = [[text.replace("\r", "") for text in row] for row in rows]
        table = io.StringIO(newline="")
        quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
        writer = csv.writer(table, delimiter=delimiter, quotechar=quote, lineterminator=line_end, quoting=quoting)
        writer.writerows([["id", "text"], *rows])
        file = written(tmp_path_factory.getbasetemp(), table.getvalue())
        texts = [text for _, text in rows]
        assert documents(file, delimiter=delimiter, quote=quote) == texts
        if delimiter != ":":
            assert documents(file, quote=quote) == texts
        assert documents(file, delimiter=delimiter, quote=quote, template="{id}<{text}>") == [
            f"{first}<{text}>" for first, text in rows
        ]

    @untimed
    @given(lines=st.lists(st.text(st.sampled_from("ab\"',; é\\")), max_size=6))
    def test_lines_without_quotes_come_back(self, lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
        content = "".join(f"{number}\t{line}\n" for number, line in enumerate(["text", *lines]))
        file = written(tmp_path_factory.getbasetemp(), content)
        assert documents(file, quote=None) == lines


class TestColumns:
    """Names, numbers, delimiters and templates."""

    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    def test_usual_delimiter_is_the_one_that_finds_the_column(self, tmp_path: Path, delimiter: str) -> None:
        rows = [["id", "my, text; or | so" if delimiter == "\t" else "body"], ["1", "one"]]
        file = written(tmp_path, "".join(delimiter.join(row) + "\n" for row in rows))
        assert documents(file, column=rows[0][1]) == ["one"]
        assert documents(file, template=f"{{id}} {{{rows[0][1]}}}") == ["1 one"]

    def test_column_that_contains_a_comma_is_found(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, "text\nhello\n")) == ["hello"]
        assert documents(written(tmp_path, "a,b;text\n1;one, two\n")) == ["one, two"]

    def test_quoted_header_is_read_with_its_quote(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, "'a;b';'text, all'\n1;one\n"), quote="'", column="text, all") == ["one"]
        assert documents(written(tmp_path, '"a"|text\n1|one\n'), quote=None, template='{"a"}{text}') == ["1one"]

    def test_other_delimiter_and_column(self, tmp_path: Path) -> None:
        file = written(tmp_path, "body:n\nit's, :1\n")
        assert documents(file, delimiter=":", column="body") == ["it's, "]

    def test_columns_without_a_header_have_numbers(self, tmp_path: Path) -> None:
        file = written(tmp_path, '1,"one,\n1"\n2,two\n')
        assert documents(file, header=False, column=2) == ["one,\n1", "two"]
        assert documents(file, header=False, column="1") == ["1", "2"]
        assert documents(file, header=False, template="{2}/{1}") == ["one,\n1/1", "two/2"]

    @pytest.mark.parametrize(
        ("content", "options", "message"),
        [
            ("id,txt\n1,2\n", {}, r"has no column 'text'. Its columns: id, txt. Did you mean 'txt'?"),
            (
                "id;body\n1;2\n",
                {},
                "Its columns: id, body. Set column to one of them, such as body; or header: false if the first line",
            ),
            ("q,a\n1,2\n", {}, r'Set column to one of them, or to join several, set template: "{q}\n{a}"; or header'),
            ("Sales 2023,,\nid,words,n\n", {}, "If the header is in a later line, delete the lines before it."),
            ("Text,n\n1,2\n", {}, "Did you mean 'Text'? Set column to it."),
            ("id;text\n1;2\n", {"delimiter": ","}, 'Its columns: id;text. Leave delimiter out, or set delimiter: ";"'),
            ("id\ttext\n1\t2\n", {"delimiter": ","}, r'Leave delimiter out, or set delimiter: "\t"'),
            ("id,body\n1,2\n", {"template": "{id}{x}"}, "has no column 'x'. Its columns: id, body. Set template to"),
            ("1,one\n", {"header": False}, "Its columns: 1, 2. Without a header, columns have numbers: set column"),
            ("1,one\n", {"header": False, "column": 3}, "has no column '3'. Its columns: 1, 2."),
            ("", {}, "is empty: it has no columns."),
            ("", {"header": False}, "is empty: it has no columns."),
            (
                'id,"te"x\n1,2\n',
                {},
                "line 1 is not CSV: text follows the closing quote of a field. (If quotes are plain characters",
            ),
        ],
    )
    def test_missing_column_is_an_error_with_the_settings_that_find_it(
        self, tmp_path: Path, content: str, options: dict[str, Any], message: str
    ) -> None:
        for on_error in ("refuse", "skip"):
            with pytest.raises(DataError) as raised:
                documents(written(tmp_path, content), on_error=on_error, **options)
            assert message in str(raised.value)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"delimiter": ""}, "delimiter must be one character"),
            ({"delimiter": ",,"}, "delimiter must be one character"),
            ({"delimiter": "\n"}, "delimiter must be one character"),
            ({"quote": "\r"}, "quote must be one character"),
            ({"quote": ""}, "quote must be one character"),
            ({"delimiter": '"'}, "delimiter and quote must differ"),
            ({"template": "{a}", "column": "b"}, "column has no effect beside template"),
            ({"template": "{}"}, "template must name columns"),
            ({"template": "a"}, "template must contain a key in braces"),
        ],
    )
    def test_invalid_option_is_an_error(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            CsvConfig(path=Path("a"), **options)


class TestInvalidRows:
    """Rows that cannot be read are left out alone, and counted."""

    def test_stray_quote_is_an_error_with_the_setting_that_reads_it(self, tmp_path: Path) -> None:
        file = written(tmp_path, STRAY_QUOTES)
        with pytest.raises(DataError, match=r"line 2 is not CSV: .*set quote: null. .*on_error: skip"):
            documents(file)
        assert documents(file, quote=None) == ['"Hello said he', "plain", 'x "y" z', '"quoted" start', "last"]

    def test_rows_after_a_stray_quote_are_read(self, tmp_path: Path) -> None:
        source = build(written(tmp_path, STRAY_QUOTES), on_error="skip")
        assert list(source.documents("train")) == ["plain", 'x "y" z', "last"]
        assert "2 left out, the first: line 2 is not CSV" in source.left_out()[0]

    def test_quote_without_an_end_takes_one_row(self, tmp_path: Path) -> None:
        file = written(tmp_path, 'id,text\n1,one\n2,"two\n' + "".join(f"{i},x\n" for i in range(3, 1000)))
        source = build(file, on_error="skip")
        assert list(source.documents("train")) == ["one", *["x"] * 997]
        assert "1 left out, the first: line 3 is not CSV: a quote has no end" in source.left_out()[0]

    def test_places_of_rows_of_several_lines_are_right(self, tmp_path: Path) -> None:
        content = 'id,text\n\n1,"a\nb"\n2,"c" d\n3,e\n4,"f\ng",h\n5\n6,\xff\n'
        file = written(tmp_path, content.encode("latin-1"))
        found = []
        for _, row in csv_table.rows_of(iter(content.splitlines(keepends=True)), delimiter=",", quote='"'):
            found.append(row if isinstance(row, list) else "error")
        assert found == [
            ["id", "text"],
            [],
            ["1", "a\nb"],
            "error",
            ["3", "e"],
            ["4", "f\ng", "h"],
            ["5"],
            ["6", "\xff"],
        ]
        source = build(file, on_error="skip")
        assert list(source.documents("train")) == ["a\nb", "e"]
        assert "4 left out, the first: line 5 is not CSV" in source.left_out()[0]
        for fixed, message in (
            ('2,"c" d', "lines 7 to 8 has 3 fields, but the first row has 2 fields"),
            ('4,"f\ng",h', "line 8 has 1 field, but"),
            ("5\n", "line 8: byte 0xff is not UTF-8"),
        ):
            content = content.replace(fixed, "2,c" if fixed != "5\n" else "")
            with pytest.raises(DataError) as raised:
                documents(written(tmp_path, content.encode("latin-1")))
            assert message in str(raised.value)

    def test_more_fields_than_columns_have_advice(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"A field that contains the delimiter must be in quotes\. To skip"):
            documents(written(tmp_path, "text\nHello, you\n"))

    @untimed
    @given(
        rows=st.lists(
            st.sampled_from(["1,one", '2,"two, 2"', '3,"thr"ee', "4", "5,f,i", '6,"six ""6"""', '7,"se', "8,"]),
            min_size=1,
            max_size=12,
        )
    )
    def test_rows_read_and_left_out_are_all_rows(
        self, rows: list[str], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        valid = {"1,one": "one", '2,"two, 2"': "two, 2", '6,"six ""6"""': 'six "6"', "8,": ""}
        rows = ["1,one", *rows, '3,"thr"ee']
        source = build(written(tmp_path_factory.getbasetemp(), "\n".join(["id,text", *rows])), on_error="skip")
        read = list(source.documents("train"))
        assert read == [valid[row] for row in rows if row in valid]
        assert f" {len(rows) - len(read)} left out" in source.left_out()[0]

    def test_field_that_is_too_long_is_a_stray_quote(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(csv_table, "LONGEST_FIELD", 1000)
        content = 'id,text\n1,"one\n' + '2,""\n' * 1000
        assert documents(written(tmp_path, content), on_error="skip") == [""] * 1000


class TestFingerprint:
    """Old readings keep their fingerprint, new ones get their own."""

    def test_fingerprint_of_a_plain_table_is_that_of_the_first_version(self, tmp_path: Path) -> None:
        file = written(tmp_path, "text,body\n1,2\n")
        assert build(file).fingerprint() == "d2945533f2f5ed5ef243"
        assert build(file, column="text", delimiter=",").fingerprint() == "d2945533f2f5ed5ef243"
        assert build(file, column="body", delimiter=";").fingerprint() == "dfe8204bbb807eedabf6"

    def test_skipping_once_swallowed_rows_and_has_another_fingerprint(self, tmp_path: Path) -> None:
        file = written(tmp_path, "text,body\n1,2\n")
        assert build(file, on_error="skip").fingerprint() != "78f01b6ff9171ce5e1ea"

    def test_every_reading_has_its_own_fingerprint(self, tmp_path: Path) -> None:
        file = written(tmp_path, "text,body\n1,2\n")
        readings: list[dict[str, Any]] = [
            {},
            {"column": "body"},
            {"template": "{body}"},
            {"template": "{text}{body}"},
            {"delimiter": ";"},
            {"quote": None},
            {"quote": "'"},
            {"header": False},
            {"encoding": "cp1252"},
            {"on_error": "skip"},
        ]
        assert len({build(file, **options).fingerprint() for options in readings}) == len(readings)
