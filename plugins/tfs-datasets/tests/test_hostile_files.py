"""Files made to harm: they are read, left out, or refused in a sentence, in linear time and bounded memory."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tfs_datasets import csv_table, document_files
from tfs_datasets.config import CsvConfig, JsonlConfig, TextConfig
from tfs_datasets.html_text import LOOKS_LIKE_HTML, html_text
from tfs_datasets.text import TextFiles

from tfs_core.config.schema import Choice
from tfs_core.data.prepare import build_source
from tfs_core.errors import DataError

BLOCK = 1 << 16


def documents(file: Path, **options: Any) -> list[str]:
    return list(TextFiles(TextConfig(path=file, **options), assets=file.parent).documents("train"))


def refusal(file: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        documents(file, **options)
    assert len(str(caught.value)) < 500
    return str(caught.value)


def entry(name: str, content: bytes, headers: dict[str, str] | None = None) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    header.pax_headers = headers or {}
    return header.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def tar(file: Path, *entries: bytes) -> Path:
    file.write_bytes(b"".join(entries) + bytes(2 * tarfile.BLOCKSIZE))
    return file


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(entry("b.txt", b"two\n", {"GNU.sparse.map": "a,b"}), id="no number"),
        pytest.param(entry("b.txt", b"two\n", {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), id="no map"),
        pytest.param(b"\1" * tarfile.BLOCKSIZE, id="no header"),
    ],
)
@pytest.mark.parametrize("before", [[], [entry("a.txt", b"one\n")]])
def test_damaged_header_in_a_tar_is_an_error(tmp_path: Path, bad: bytes, before: list[bytes]) -> None:
    file = tar(tmp_path / "a.tar", *before, bad, entry("c.txt", b"three\n"))
    if not before and bad[:1] == b"\1":
        assert "binary file" in refusal(file)
        return
    assert "header of an entry is damaged" in refusal(file)


def test_very_many_headers_of_one_file_in_a_tar_are_an_error(tmp_path: Path) -> None:
    header = entry("a.txt", b"", {"comment": "x"})[: -tarfile.BLOCKSIZE]
    assert "is damaged" in refusal(tar(tmp_path / "a.tar", header * 5000, entry("a.txt", b"one\n")))


def test_long_messages_of_libraries_are_cut(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.txt", "text\n" * 1000)
    damaged = bytearray(content.getvalue())
    damaged[26:28] = (2000).to_bytes(2, "little")  # the length of the name
    (tmp_path / "a.zip").write_bytes(damaged)
    assert "a.zip/a.txt cannot be read: File name in directory" in refusal(tmp_path / "a.zip")


@pytest.mark.parametrize("place", ["list", "header"])
def test_name_in_a_zip_that_is_not_utf8_is_an_error(tmp_path: Path, place: str) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("ä.txt", "text\n" * 1000)  # a name that is marked as UTF-8
    damaged = content.getvalue()
    at = damaged.rindex("ä.txt".encode()) if place == "list" else damaged.index("ä.txt".encode())
    (tmp_path / "a.zip").write_bytes(damaged[:at] + b"\xe4\xe4" + damaged[at + 2 :])
    assert "its list of files is damaged ('utf-8' codec can't decode" in refusal(tmp_path / "a.zip")


def test_comments_before_text_do_not_make_it_slow_to_tell_from_html() -> None:
    comments = b" <!-- x -->" * 5000
    assert not LOOKS_LIKE_HTML.match(comments + b"text")
    assert LOOKS_LIKE_HTML.match(comments + b"<html>")


def blocks(text: str) -> Iterator[str]:
    return (text[at : at + BLOCK] for at in range(0, len(text), BLOCK))


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (f'<p>a</p><img src="data:image/png;base64,{"iVBORw0KGgo/" * 2_000_000}"><p>b</p>', "a\nb\n"),
        (f"<p>a</p><!--{'-' * 20_000_000}--><p>b</p>", "a\nb\n"),
    ],
)
def test_html_with_large_tags_is_read_in_linear_time(page: str, text: str) -> None:
    assert "".join(html_text(blocks(page))) == text


@pytest.mark.parametrize("part", ["<!", "<!--", "<a ", "</", "<?"])
def test_html_with_tags_without_ends_is_read_in_linear_time(part: str) -> None:
    text = "".join(html_text(blocks(f"<p>a &amp; b</p>{part * 500_000}")))
    assert text.startswith("a & b\n")
    assert "".join(text.split()).endswith("".join((part * 1000).split()))


@pytest.mark.parametrize("section", ["<![foo[x]]>", "<![<b>", "<![ 1>", "<![if !a]>", "<![CDATA[x]]>", "<![endif]-->"])
def test_unusual_sections_of_html_are_skipped(section: str) -> None:
    assert "".join(html_text([f"<p>one</p>{section}<p>two</p>"])).startswith("one\n")


def test_reference_with_very_many_digits_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(f"<p>one</p>&#{'9' * 5000};<p>two</p>")
    assert "a.html cannot be read: it is not valid HTML: " in refusal(tmp_path / "a.html", html="text")


def epub(file: Path, chapters: int, chapter: str) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr(zipfile.ZipInfo("mimetype"), "application/epub+zip")
        package = '<container><rootfiles><rootfile full-path="c.opf"/></rootfiles></container>'
        book.writestr("META-INF/container.xml", package)
        spine = '<itemref idref="a"/>' * chapters
        manifest = '<manifest><item id="a" href="a.html"/></manifest>'
        book.writestr("c.opf", f"<package>{manifest}<spine>{spine}</spine></package>")
        book.writestr("a.html", chapter)
    return file


def test_chapter_that_a_book_names_often_is_read_once(tmp_path: Path) -> None:
    assert documents(epub(tmp_path / "a.epub", 3, "<p>Text</p>")) == ["Text\n"]


def test_document_that_decompresses_to_very_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_files, "LARGEST_PART", 1000)
    message = refusal(epub(tmp_path / "a.epub", 1, "<p>Text</p>" * 1000))
    assert message.endswith("a.epub is too large: a part of it has 11,000 bytes. Save it as text.")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"text": "a", "n": ' + "9" * 5000 + "}\n", "line 1 is not JSON: it has a number of more than 4,300 digits"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000 + "\n", "line 1 is not JSON: it is nested too deeply"),
    ],
)
def test_limits_of_json_are_told_in_words(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    choice = Choice("jsonl", JsonlConfig(path=tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match=reason):
        list(build_source(choice, assets=tmp_path, offline=True).documents("train"))


def test_long_first_line_of_a_table_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_table, "LONGEST_FIELD", 200_000)
    names = [f"c{number}" for number in range(50_000)]
    file = tmp_path / "a.csv"

    def read() -> list[str]:
        choice = Choice("csv", CsvConfig(path=file))
        return list(build_source(choice, assets=tmp_path, offline=True).documents("train"))

    file.write_text(",".join([*names, "text"]) + "\n" + "x," * 50_000 + "one\n")
    assert read() == ["one"]
    file.write_text(",".join(names) + "\n")
    with pytest.raises(DataError, match=r"Its columns: c0, .*, c19, and 49,980 more\.") as caught:
        read()
    assert len(str(caught.value)) < 500
    file.write_text("x" * 1000 + "," + "y" * 60 + "\n")
    with pytest.raises(DataError, match=rf"Its columns: {'x' * 30}\.\.\., {'y' * 60}\."):
        read()
    file.write_text("x" * 300_000 + "\n")
    with pytest.raises(DataError, match=r"field larger than field limit \(200000\)"):
        read()
