"""What a file is, by its first bytes: archives, documents, images and other files that are not text."""

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tfs_datasets import kinds, text
from tfs_datasets.config import CsvConfig, JsonlConfig, ParquetConfig, TextConfig
from tfs_datasets.kinds import kind_of
from tfs_datasets.text import TextFiles

from tfs_core.config.schema import Choice
from tfs_core.data.prepare import build_source
from tfs_core.errors import DataError

PNG = b"\x89PNG\r\n\x1a\n" + bytes(30)
MP3 = b"ID3\x03\0\0" + bytes(range(256))


def text_files(path: Path, **options: Any) -> TextFiles:
    return TextFiles(TextConfig(path=path, **options), assets=path.parent)


def documents(path: Path, **options: Any) -> list[str]:
    source = text_files(path, **options)
    found = list(source.documents("train"))
    assert list(source.documents("train")) == found  # a second pass gives the same
    return found


def written(file: Path, content: bytes | str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def zipped(file: Path, members: dict[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content, **options)
    return file


def tarred(file: Path, members: dict[str, bytes], mode: str = "w", format_of: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(file, mode, format=format_of) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file


def sqlite(folder: Path) -> bytes:
    import sqlite3

    with sqlite3.connect(folder / "made.db") as database:
        database.execute("create table notes (text)")
    database.close()
    return (folder / "made.db").read_bytes()


def numpy_array(_: Path) -> bytes:
    import numpy as np

    np.save(content := io.BytesIO(), np.arange(9))
    return content.getvalue()


def numpy_archive(_: Path) -> bytes:
    import numpy as np

    np.savez(content := io.BytesIO(), a=np.arange(9))
    return content.getvalue()


def pytorch_checkpoint(_: Path) -> bytes:
    import torch

    torch.save({"weight": torch.zeros(3)}, content := io.BytesIO())
    return content.getvalue()


def safetensors(_: Path) -> bytes:
    import torch
    from safetensors.torch import save

    return save({"weight": torch.zeros(3)})


def arrow(_: Path) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"text": ["a"]})
    with pyarrow.ipc.new_file(content := io.BytesIO(), table.schema) as file:
        file.write_table(table)
    return content.getvalue()


def parquet_file(_: Path) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["a"]}), content := io.BytesIO())
    return content.getvalue()


def office(folder: str, mimetype: str = "") -> Callable[[Path], bytes]:
    def made(path: Path) -> bytes:
        if mimetype:
            with zipfile.ZipFile(path / "office", "w") as archive:
                archive.writestr("mimetype", mimetype)
                archive.writestr("content.xml", "<x/>")
            return (path / "office").read_bytes()
        return zipped(path / "office", {"[Content_Types].xml": b"<x/>", f"{folder}/a.xml": b"<x/>"}).read_bytes()

    return made


NOT_TEXT: dict[str, bytes | Callable[[Path], bytes]] = {
    "a PNG image": PNG,
    "a JPEG image": b"\xff\xd8\xff\xe0" + bytes(range(99)),
    "a GIF image": b"GIF89a\x01\0\x01\0\x80\0\0",
    "a WebP image": b"RIFF\x10\0\0\0WEBPVP8 " + bytes(9),
    "a HEIC image": b"\0\0\0\x18ftypheic\0\0\0\0",
    "an MP3 recording": MP3,
    "a WAV recording": b"RIFF\x10\0\0\0WAVEfmt " + bytes(9),
    "an MP4 video": b"\0\0\0\x18ftypmp42\0\0\0\0",
    "a font": b"\0\1\0\0\0\x0c\0\x80",
    "a 7z archive": b"7z\xbc\xaf\x27\x1c\0\x04",
    "a RAR archive": b"Rar!\x1a\x07\x01\0",
    "a PostScript document": b"%!PS-Adobe-3.0",
    "a Safari web archive or property list": b"bplist00" + bytes(9),
    "an RTF document": rb"{\rtf1\ansi text}",
    "an old Microsoft Office document": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(9),
    "an Excel workbook": office("xl"),
    "a PowerPoint presentation": office("ppt"),
    "an OpenDocument file": office("", "application/vnd.oasis.opendocument.text"),
    "an OpenDocument spreadsheet": office("", "application/vnd.oasis.opendocument.spreadsheet"),
    "a SQLite database": sqlite,
    "a NumPy array": numpy_array,
    "a NumPy archive": numpy_archive,
    "a PyTorch checkpoint": pytorch_checkpoint,
    "a safetensors file": safetensors,
    "an Arrow file": arrow,
    "a Parquet file": parquet_file,
    "a program": lambda _: Path(sys.executable).resolve().read_bytes()[:5000],
    "a binary file": bytes(range(256)),
    "a twice compressed file": gzip.compress(bz2.compress(b"text")),
}


@pytest.mark.parametrize("kind", NOT_TEXT)
class TestNotText:
    """Files that hold no text, or text that tfs cannot read."""

    @pytest.fixture
    def content(self, kind: str, tmp_path: Path) -> bytes:
        """Return the content of a file of this kind."""
        content = NOT_TEXT[kind]
        return content(tmp_path) if callable(content) else content

    def test_named_file_is_refused_with_advice(self, tmp_path: Path, kind: str, content: bytes) -> None:
        file = written(tmp_path / "a.txt", content)
        for on_error in ("refuse", "skip", "replace"):
            with pytest.raises(DataError, match=rf"a\.txt cannot be read as text: it is {kind}\. [A-Z].*[.`']$"):
                documents(file, on_error=on_error)
        for name, config in (("jsonl", JsonlConfig(path=file)), ("csv", CsvConfig(path=file))):
            with pytest.raises(DataError, match=f"it is {kind}"):
                list(build_source(Choice(name, config), assets=tmp_path, offline=True).documents("train"))

    def test_file_in_a_folder_or_archive_is_left_out_and_counted(
        self, tmp_path: Path, kind: str, content: bytes
    ) -> None:
        folder = written(tmp_path / "folder" / "a", content).parent
        written(folder / "b", "text")
        for path in (folder, zipped(tmp_path / "c.zip", {"a": content, "b": b"text"})):
            source = text_files(path)
            assert list(source.documents("train")) == ["text"]
            (report,) = source.left_out()
            assert f"1 {kind.partition(' ')[2]}" in report


def test_files_left_out_are_counted_by_kind(tmp_path: Path) -> None:
    for name, content in {"1": PNG, "2": PNG, "3": MP3, "4": PNG, "5": rb"{\rtf1}", "6": b"text"}.items():
        written(tmp_path / name, content)
    source = text_files(tmp_path)
    assert list(source.documents("train")) == ["text"]
    assert source.left_out() == [
        f"1 RTF document left out. {kinds._SAVE}",
        "4 files left out: 3 PNG images, 1 MP3 recording",
    ]


def test_nothing_but_files_that_are_not_text_is_an_error(tmp_path: Path) -> None:
    written(tmp_path / "a.png", PNG)
    for read in (lambda source: source.documents("train"), lambda source: source.pieces("train")):
        with pytest.raises(DataError, match=r"no document could be read\. 1 file left out: 1 PNG image"):
            list(read(text_files(tmp_path)))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a",
        "\n",
        "PK is not a zip archive",
        "BM and MM* and II* and GIF89a and OggS and PAR1 are letters",
        "MZ",
        "\x1b[31mcolored\x1b[0m output of a terminal\x07 with a bell\f",
        "Rar! 7z, said the fox",
        "я",
        "a name between zero bytes\0" * 9,
        "ID3 tags",
        '{"cells": 3}',
        "\ufeff",
    ],
)
def test_text_is_text(tmp_path: Path, content: str) -> None:
    assert documents(written(tmp_path / "a", content)) == [content.removeprefix("\ufeff")]


def test_random_bytes_are_binary_in_every_encoding() -> None:
    content = os.urandom(4096)
    for encoding in ("utf-8", "cp1252", "koi8_r"):
        assert kind_of(b"x" + content, content.decode(encoding, "replace")) == kinds.BINARY


ARCHIVES: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "zip": zipped,
    "tar": tarred,
    "gnu tar": lambda file, members: tarred(file, members, format_of=tarfile.GNU_FORMAT),
    "tar.gz": lambda file, members: tarred(file, members, "w:gz"),
    "tar.bz2": lambda file, members: tarred(file, members, "w:bz2"),
    "tar.xz": lambda file, members: written(file, lzma.compress(tarred(file, members).read_bytes(), preset=0)),
    "tar.zst": lambda file, members: written(file, zstandard(tarred(file, members).read_bytes())),
}


def zstandard(content: bytes) -> bytes:
    return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(content))


@pytest.mark.parametrize("pack", ARCHIVES.values(), ids=ARCHIVES)
class TestArchives:
    """Archives are read as folders, under any name."""

    def test_files_are_read_as_in_a_folder(self, tmp_path: Path, pack: Callable[..., Path]) -> None:
        members = {
            "../notes/a.txt": b"one",
            "notes/.DS_Store": b"\0\0\0\1Bud1",
            "__MACOSX/notes/a.txt": b"of macOS",
            "notes/Thumbs.db": b"of Windows",
            "notes/b.txt.gz": gzip.compress(b"two"),
            "notes/c.txt": b"\xff\xfe" + "drei ü".encode("utf-16-le"),
            "notes/d.png": PNG,
            "notes/" + "e" * 120 + ".txt": b"",
        }
        source = text_files(pack(tmp_path / "a.txt", members))
        assert list(source.documents("train")) == ["one", "two", "drei ü", ""]
        assert source.left_out() == ["1 file left out: 1 PNG image"]

    def test_invalid_bytes_are_an_error_with_the_shown_name(self, tmp_path: Path, pack: Callable[..., Path]) -> None:
        file = pack(tmp_path / "a", {"x/b.txt": b"line\nna\xefve", "c.txt": b"fine"})
        with pytest.raises(DataError, match=r"a/x/b\.txt, line 2: byte 0xef is not UTF-8"):
            documents(file)
        assert documents(file, on_error="skip") == ["fine"]

    def test_archive_in_an_archive_is_left_out(self, tmp_path: Path, pack: Callable[..., Path]) -> None:
        inner = {name: packed(tmp_path / "inner", {"a": b"x"}).read_bytes() for name, packed in ARCHIVES.items()}
        source = text_files(pack(tmp_path / "a", {**inner, "z": b"text"}))
        assert list(source.documents("train")) == ["text"]
        assert source.left_out() == [f"{len(ARCHIVES)} nested archives left out. {kinds.NESTED_ARCHIVE.advice}"]

    def test_truncated_or_damaged_archive_is_an_error(self, tmp_path: Path, pack: Callable[..., Path]) -> None:
        file = pack(tmp_path / "a", {"a": os.urandom(300).hex().encode() * 100, "b": b"two"})
        content = file.read_bytes()
        for cut in (len(content) // 2, len(content) // 3):
            written(file, content[:cut])
            with pytest.raises(DataError, match=r"cannot be read|is truncated"):
                documents(file)

    def test_large_archive_is_read_in_constant_memory(self, tmp_path: Path, pack: Callable[..., Path]) -> None:
        lines = b"".join(b"%d lines\n" % number for number in range(1_200_000))
        file = pack(tmp_path / "a", {"a": lines, "b": b"y"})
        tracemalloc.start()
        assert sum(len(part) for part, _ in text_files(file).pieces("train")) == len(lines) + 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 12_000_000  # xz alone has a dictionary of 8 MB

    def test_jsonl_and_csv_are_read_in_archives(self, tmp_path: Path, pack: Callable[..., Path]) -> None:
        file = pack(tmp_path / "a", {"a.jsonl": b'{"text": "1"}\n{"text": "2"}\n'})
        assert list(
            build_source(Choice("jsonl", JsonlConfig(path=file)), assets=tmp_path, offline=True).documents("train")
        ) == ["1", "2"]
        file = pack(tmp_path / "b", {"a.csv": b"text\n1\n2\n"})
        assert list(
            build_source(Choice("csv", CsvConfig(path=file)), assets=tmp_path, offline=True).documents("train")
        ) == ["1", "2"]


def test_zip_is_read_in_the_order_of_paths(tmp_path: Path) -> None:
    names = ["b/z", "b/a", "B", "a-", "a/b"]
    found = documents(zipped(tmp_path / "a", {name: name.encode() for name in names}))
    assert found == ["B", "a/b", "a-", "b/a", "b/z"]  # as the files of a folder


def test_encrypted_zip_is_left_out(tmp_path: Path) -> None:
    content = bytearray(zipped(tmp_path / "a.zip", {"a.txt": b"secret", "b.txt": b"plain"}).read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # sets the flag of the first member
        content[content.index(signature) + flags] |= 1
    source = text_files(written(tmp_path / "a.zip", bytes(content)))
    assert list(source.documents("train")) == ["plain"]
    assert source.left_out() == [f"1 encrypted file left out. {kinds.ENCRYPTED.advice}"]


def test_links_in_a_tar_are_left_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        entry = tarfile.TarInfo("a.txt")
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"text"))
    source = text_files(tmp_path / "a.tar")
    assert list(source.documents("train")) == ["text"]
    assert source.left_out() == ["2 files left out: 2 archived links"]


def test_member_compressed_in_an_unknown_way_is_an_error(tmp_path: Path) -> None:
    content = bytearray(zipped(tmp_path / "a.zip", {"a.txt": b"text"}).read_bytes())
    for signature, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(signature) + method] = 97
    with pytest.raises(DataError, match=r"a\.zip/a\.txt is compressed in a way that Python cannot read. Unpack"):
        documents(written(tmp_path / "a.zip", bytes(content)))


NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", "text é"]},
        {"cell_type": "code", "metadata": {}, "outputs": [{"text": "noise"}], "source": "print(1)"},
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": []},
    ],
    "metadata": {},
    "nbformat": 4,
    "nbformat_minor": 5,
}


class TestDocuments:
    """Notebooks, HTML, Word, PDF and EPUB."""

    @pytest.mark.parametrize("keys", [None, ["nbformat", "cells"]])
    def test_notebook_is_the_sources_of_its_cells(self, tmp_path: Path, keys: list[str] | None) -> None:
        content = json.dumps(NOTEBOOK if keys is None else {key: NOTEBOOK[key] for key in keys}, indent=1)
        assert documents(written(tmp_path / "a.txt", content)) == ["# Title\ntext é\n\nprint(1)"]
        with pytest.raises(DataError, match=r"a\.txt is not a valid notebook"):
            documents(written(tmp_path / "a.txt", content[:-9]))

    def test_html_is_read_as_it_is_or_as_text(self, tmp_path: Path) -> None:
        page = """<!-- saved from url --><!DOCTYPE html>
<html><head><title>Window</title><style>p { color: red }</style><script>if (a < b) "<p>";</script></head>
<body><h1>A  head</h1><p>One <b>bold</b>&nbsp;word,
and <a href="x">a link</a> &amp; more.<br>Next</p><ul><li>a<li>b</ul>
<pre>  x
  y</pre><table>
<tr><td>1</td><td><p>2</p></td><td></td></tr><tr><td></td><td>3</td></tr></table>
<!-- comment --></body></html>"""
        file = written(tmp_path / "page.txt", page)
        assert documents(file) == [page]
        assert documents(file, html="text") == [
            "A head\nOne bold word,\nand a link & more.".replace(",\n", ", ") + "\nNext\na\nb\n  x\n  y\n1\t2\n3\n"
        ]
        plain = written(tmp_path / "plain.txt", "a < b and <b>")
        assert documents(plain, html="text") == ["a < b and <b>"]
        assert text_files(plain).fingerprint() != text_files(plain, html="text").fingerprint()

    def test_html_does_not_depend_on_blocks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        page = "<html><p>One &amp; two</p><script>x</script><p>three  four</p><pre> a\n b</pre></html>"
        expected = documents(written(tmp_path / "a.html", page), html="text")
        monkeypatch.setattr(text, "BLOCK_CHARACTERS", 1)
        assert documents(tmp_path / "a.html", html="text") == expected == ["One & two\nthree four\n a\n b\n"]

    def test_word_document_is_its_paragraphs_tables_and_notes(self, tmp_path: Path) -> None:
        pytest.importorskip("mammoth")
        content = word_document(tmp_path)
        expected = "Title\na\tb c\nin a control\nkept inserted\nbox:\nin a box\nwith a note[1]\nthe note ü\n"
        assert documents(written(tmp_path / "a.txt", content)) == [expected]
        assert documents(zipped(tmp_path / "b.zip", {"a": content})) == [expected]
        assert documents(tarred(tmp_path / "b.tar", {"a": content})) == [expected]
        for damaged in (content[: len(content) // 2], content.replace(b"word/document.xml", b"word/documenX.xml")):
            with pytest.raises(DataError, match=r"a\.txt is damaged or protected"):
                documents(written(tmp_path / "a.txt", damaged))

    def test_pdf_is_the_text_of_its_pages(self, tmp_path: Path) -> None:
        pytest.importorskip("pypdf")
        assert documents(written(tmp_path / "a.txt", pdf("one", "two"))) == ["one\ntwo\n"]
        with pytest.raises(DataError, match=r"a\.txt is damaged or protected"):
            documents(written(tmp_path / "a.txt", b"%PDF-1.7\n" + bytes(99)))

    def test_scanned_and_encrypted_pdf_are_told(self, tmp_path: Path) -> None:
        pypdf = pytest.importorskip("pypdf")
        writer = pypdf.PdfWriter()
        writer.add_blank_page(100, 100)
        writer.write(tmp_path / "scan.pdf")
        with pytest.raises(DataError, match=r"it is a scanned PDF document\. Its pages are pictures"):
            documents(tmp_path / "scan.pdf")
        writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf("one")))
        writer.encrypt("secret", algorithm="RC4-128")
        writer.write(tmp_path / "secret.pdf")
        with pytest.raises(DataError, match=r"it is an encrypted PDF document\. Save it without"):
            documents(tmp_path / "secret.pdf")
        written(tmp_path / "a.txt", "text")
        source = text_files(tmp_path)
        assert list(source.documents("train")) == ["text"]
        assert len(source.left_out()) == 2

    def test_pages_of_a_pdf_that_are_pictures_are_told(self, tmp_path: Path) -> None:
        pypdf = pytest.importorskip("pypdf")
        from pypdf.generic import DictionaryObject, NameObject

        writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf("one", "", "")))
        writer.pages[1]["/Resources"][NameObject("/XObject")] = DictionaryObject()
        writer.write(tmp_path / "half.pdf")
        source = text_files(tmp_path / "half.pdf")
        assert "".join(source.documents("train")).split() == ["one"]
        (told,) = source.left_out()
        assert "half.pdf is without the text of 1 of 3 pages, which are pictures: make them text" in told

    def test_epub_is_its_chapters_in_order(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path / "a.txt", epub(tmp_path))) == ["First é\nSecond\n"]
        with pytest.raises(DataError, match=r"a\.txt is damaged or protected"):
            documents(written(tmp_path / "a.txt", epub(tmp_path).replace(b"OEBPS/a.xhtml", b"OEBPS/b.xhtml")))
        members = zipfile.ZipFile(io.BytesIO(epub(tmp_path)))
        protected = {name: members.read(name) for name in members.namelist()} | {"OEBPS/a.xhtml": b"\xff" + bytes(9)}
        with zipfile.ZipFile(tmp_path / "a.txt", "w") as archive:
            for name, content in protected.items():
                archive.writestr(name, content)
        with pytest.raises(DataError, match=r"a\.txt is damaged or protected"):
            documents(tmp_path / "a.txt")

    def test_missing_packages_are_told(self, tmp_path: Path) -> None:
        written(tmp_path / "a.pdf", pdf("one"))
        written(tmp_path / "b.txt", "text")
        script = (
            "import sys; sys.modules['pypdf'] = sys.modules['mammoth'] = None\n"
            "import importlib.util as util; found = util.find_spec\n"
            "util.find_spec = lambda name: None if name in ('pypdf', 'mammoth') else found(name)\n"
            "from pathlib import Path\n"
            "from tfs_datasets.text import TextConfig, TextFiles\n"
            "for path in sys.argv[1:]:\n"
            "    source = TextFiles(TextConfig(path=Path(path)), assets=Path(path))\n"
            "    try: print(list(source.documents('train')), source.left_out())\n"
            "    except Exception as error: print(error)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path), str(tmp_path / "a.pdf")]
        folder, named = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        advice = "The data set `text` reads it after: pip install 'tfs-datasets[documents]'"
        assert folder == str(["text"]) + " " + str([f"1 PDF document left out. {advice}"])
        assert named.endswith(f"it is a PDF document. {advice}")


W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
RELATIONSHIPS = "http://schemas.openxmlformats.org/package/2006/relationships"


def word_document(folder: Path) -> bytes:
    """Return a Word document with a table, a content control, changes, a text box and a footnote."""

    def run(text: str) -> str:
        return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'

    def p(text: str, inside: str = "") -> str:
        return f"<w:p>{run(text)}{inside}</w:p>"

    box = f"<w:r><w:pict><v:textbox xmlns:v='urn:schemas-microsoft-com:vml'><w:txbxContent>{p('in a box')}"
    body = (
        p("Title")
        + f"<w:tbl><w:tr><w:tc>{p('a')}</w:tc><w:tc>{p('b c')}</w:tc></w:tr></w:tbl>"
        + f"<w:sdt><w:sdtContent>{p('in a control')}</w:sdtContent></w:sdt>"
        + p(
            "kept ",
            "<w:ins><w:r><w:t>inserted</w:t></w:r></w:ins><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>",
        )
        + p("box:", box + "</w:txbxContent></v:textbox></w:pict></w:r>")
        + p("with a note", '<w:r><w:footnoteReference w:id="2"/></w:r>')
    )

    def relationships(*pairs: tuple[str, str]) -> bytes:
        inside = "".join(
            f'<Relationship Id="r{number}" Type="{OFFICE}/{kind}" Target="{target}"/>'
            for number, (kind, target) in enumerate(pairs)
        )
        return f'<Relationships xmlns="{RELATIONSHIPS}">{inside}</Relationships>'.encode()

    notes = f'<w:footnotes xmlns:w="{W}"><w:footnote w:id="2">{p("the note ü")}</w:footnote></w:footnotes>'
    return zipped(
        folder / "made.docx",
        {
            "[Content_Types].xml": b'<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
            "_rels/.rels": relationships(("officeDocument", "word/document.xml")),
            "word/document.xml": f'<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>'.encode(),
            "word/_rels/document.xml.rels": relationships(("footnotes", "footnotes.xml")),
            "word/footnotes.xml": notes.encode(),
        },
    ).read_bytes()


def pdf(*pages: str) -> bytes:
    """Return a PDF document with a line on each page."""
    numbers = range(4, 4 + 2 * len(pages), 2)
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{' '.join(f'{number} 0 R' for number in numbers)}]/Count {len(pages)}>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, page in zip(numbers, pages, strict=True):
        content = f"BT /F1 12 Tf 20 100 Td ({page}) Tj ET"
        resources = f"/Contents {number + 1} 0 R/Resources<</Font<</F1 3 0 R>>>>"
        objects.append(f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]{resources}>>")
        objects.append(f"<</Length {len(content)}>>stream\n{content}\nendstream")
    written, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(written))
        written += f"{number} 0 obj{content}endobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n"
    tail = f"trailer<</Size {len(objects) + 1}/Root 1 0 R>>\nstartxref\n{len(written)}\n%%EOF"
    return written + (head + table + tail).encode()


def epub(folder: Path) -> bytes:
    """Return an EPUB book with two chapters."""
    with zipfile.ZipFile(folder / "made.epub", "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/content.opf"/></rootfiles></container>',
        )
        archive.writestr(
            "OEBPS/content.opf",
            '<package xmlns="http://www.idpf.org/2007/opf"><manifest><item id="a" href="a.xhtml"/>'
            '<item id="b" href="part%20b.xhtml"/></manifest><spine><itemref idref="b"/><itemref idref="a"/></spine>'
            "</package>",
        )
        archive.writestr("OEBPS/a.xhtml", "<html><head><title>t</title></head><body><p>Second</p></body></html>")
        archive.writestr("OEBPS/part b.xhtml", "<html><body><p>First &eacute;</p></body></html>")
    content = (folder / "made.epub").read_bytes()
    (folder / "made.epub").unlink()
    return content


class TestReadings:
    """Text that is transformed has another fingerprint than the raw text had."""

    @pytest.mark.parametrize(
        "make",
        [
            lambda folder: tarred(folder / "a", {"b": b"text"}),
            lambda folder: zipped(folder / "a", {"b": b"text"}),
            lambda folder: written(folder / "a", json.dumps(NOTEBOOK)),
            lambda folder: written(folder / "a", pdf("text")),
            lambda folder: written(folder / "a", gzip.compress(tarred(folder / "a", {"b": b"text"}).read_bytes())),
        ],
    )
    def test_transformed_file_has_its_own(self, tmp_path: Path, make: Callable[[Path], Path]) -> None:
        source = text_files(make(tmp_path))
        assert source.fingerprint() != source.files.fingerprint("text", None)

    def test_plain_text_keeps_the_fingerprint_that_it_always_had(self, tmp_path: Path) -> None:
        file = written(tmp_path / "a.txt", "naïve café\n")
        assert text_files(file).fingerprint() == "c166b3a2f4aff3495f82"
        for content in (gzip.compress(b"text"), b"\xef\xbb\xbftext", b"<html>text</html>"):
            source = text_files(written(file, content))
            assert source.fingerprint() == source.files.fingerprint("text", None)


def test_parquet_data_set_reads_parquet_and_names_other_files(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    file = written(tmp_path / "a.parquet", parquet_file(tmp_path))
    written(tmp_path / "readme.md", "text")
    source = build_source(Choice("parquet", ParquetConfig(path=tmp_path)), assets=tmp_path, offline=True)
    assert list(source.documents("train")) == ["a"]
    assert source.left_out() == ["1 file left out: 1 text file"]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as text: it is a Parquet file\. Choose .*parquet"):
        documents(file)


class TestStoredInZip:
    """Zip archives that hold others uncompressed: the bytes of those are not of the outer one."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        inner = {
            "1.docx": office("word")(tmp_path),
            "2.pt": zipped(tmp_path / "b", {"b/data.pkl": b"x"}).read_bytes(),
            "3.zip": zipped(tmp_path / "c", {"c.txt": b"inner"}).read_bytes(),
        }
        return zipped(tmp_path / "a.zip", {"0.txt": b"outer", **inner, "4.txt": b"last"}, compress_type=0)

    def test_archive_is_not_taken_for_a_file_in_it(self, file: Path) -> None:
        with pytest.raises(DataError, match=r"a\.zip/1\.docx is damaged"):
            documents(file)

    def test_archive_that_is_cut_after_an_archive_in_it_is_truncated(self, file: Path) -> None:
        content = file.read_bytes()
        written(file, content[: content.index(b"4.txt")])
        with pytest.raises(DataError, match=r"a\.zip cannot be read: the archive is truncated"):
            documents(file)


@pytest.mark.parametrize(
    ("files", "options", "told"),
    [
        (["a.html"], {}, ["HTML is read with its tags and scripts (1 of 1 file)."]),
        (["a.html", "b.txt"], {}, ["HTML is read with its tags and scripts (1 of 2 files)."]),
        (["a.html", "b.txt"], {"html": "text"}, []),
        (["a.html", "b.txt", "c.md"], {}, []),
        (["a.json", "b.JSONL", "c.csv"], {}, ["JSON is read as it stands, with all keys (2 of 3 files)."]),
        (["a.tsv.gz"], {}, ["CSV is read as it stands, with all columns (1 of 1 file)."]),
        (["a.txt", "b.py"], {}, []),
    ],
)
def test_reading_that_is_perhaps_not_meant_is_told(
    files: list[str], options: dict[str, Any], told: list[str], tmp_path: Path
) -> None:
    for file in files:
        written(tmp_path / "mine" / file, "a,b\n")
    for path in (tmp_path / "mine", zipped(tmp_path / "mine.zip", {file: b"a,b\n" for file in files})):
        source = text_files(path, **options)
        assert len(list(source.documents("train"))) == len(files)
        assert [line.partition(" For ")[0] for line in source.left_out()] == told
