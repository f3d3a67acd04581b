"""The text of documents that are not plain text: Word, PDF, EPUB, and notebooks."""

import io
import json
import logging
import posixpath
import re
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import IO
from urllib.parse import unquote
from xml.etree import ElementTree

from tfs_core.errors import DataError, short_message
from tfs_core.progress import progress
from tfs_datasets import kinds
from tfs_datasets.encodings import encoding_at
from tfs_datasets.html_text import html_text
from tfs_datasets.kinds import Kind
from tfs_datasets.members import Member


class UnreadableError(Exception):
    """A document has no text that can be read, for the reason that its kind tells: a scan, for example."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind.name)
        self.kind = kind


InDoubt = Callable[[str], None]
"""Is told what is perhaps missing in the text of a document, such as "without the text of 2 of 9 pages"."""

OCR = "make them text with a program for text recognition (OCR)"

LARGEST_DOCUMENT = 1 << 29
"""Maximum size in bytes: these documents are not read in parts."""

LARGEST_PART = 1 << 27
"""Maximum decompressed size in bytes of each file in a Word document or EPUB book: reading it takes many times that."""

NOTEBOOK = re.compile(
    rb'\s*\{\s*"(?:nbformat(?:_minor)?"|cells"\s*:\s*\[\s*\{\s*"(?:cell_type|attachments|execution_count|id|metadata)")'
)
"""Matches the first bytes of a Jupyter notebook."""

_TO_FOOTNOTE_MARK = re.compile(r' <a href="#(?:foot|end)note-ref-[^"]*">↑</a>')


def docx_text(file: IO[bytes], _in_doubt: InDoubt) -> Iterator[str]:
    """Iterate over the text of a Word document, a line for each paragraph and table row, with notes at the end.

    Headers, footers, comments and deleted text are not part of it.
    """
    import mammoth

    no_images = mammoth.images.img_element(lambda _image: {"src": ""})
    page = mammoth.convert_to_html(file, convert_image=no_images).value
    yield from html_text([_TO_FOOTNOTE_MARK.sub("", page)])


def pdf_text(file: IO[bytes], in_doubt: InDoubt) -> Iterator[str]:
    """Iterate over the text of the pages of a PDF document. At the end, `in_doubt` is told of pictures."""
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it logs what it repairs
    try:
        content = pypdf.PdfReader(file)
        if content.is_encrypted and not content.decrypt(""):
            raise UnreadableError(kinds.ENCRYPTED_PDF)
    except pypdf.errors.DependencyError as error:  # it decrypts AES only with another package
        raise UnreadableError(kinds.ENCRYPTED_PDF) from error
    empty, n_pictures = True, 0
    with progress("reading PDF pages", total=len(content.pages), unit="pages") as advance:
        for page in content.pages:
            text = _without_surrogates(page.extract_text())
            empty = empty and not text.strip()
            n_pictures += not text.strip() and "/Resources" in page and "/XObject" in page["/Resources"]
            if not empty:
                yield f"{text}\n"
            advance(1)
    if empty:
        raise UnreadableError(kinds.SCANNED_PDF)
    if n_pictures:
        in_doubt(f"without the text of {n_pictures:,} of {len(content.pages):,} pages, which are pictures: {OCR}")


def _without_surrogates(text: str) -> str:
    """Return the text with pairs of surrogates joined, and U+FFFD in place of others: fonts of a PDF may have them."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def epub_text(file: IO[bytes], _in_doubt: InDoubt) -> Iterator[str]:
    """Iterate over the text of an EPUB book, chapter by chapter."""
    with zipfile.ZipFile(file) as book:
        container = ElementTree.fromstring(book.read("META-INF/container.xml"))
        package_path = container.findall(".//{*}rootfile")[0].attrib["full-path"]
        package = ElementTree.fromstring(book.read(package_path))
        paths = {item.get("id"): item.attrib["href"] for item in package.findall(".//{*}item")}
        chapters = [chapter.get("idref") for chapter in package.findall(".//{*}itemref")]
        for chapter in dict.fromkeys(chapters):  # a valid book has each one once
            path = posixpath.join(posixpath.dirname(package_path), unquote(paths[chapter]))
            content = book.read(path)
            encoding, mark_bytes = encoding_at(content, None)
            yield from html_text([content[mark_bytes:].decode(encoding)])


def notebook_text(content: str, name: str) -> Iterator[str]:
    """Iterate over the sources of the cells of a Jupyter notebook, with an empty line between two cells.

    Raises DataError, with the name of the file, when it is not a valid notebook.
    """
    try:
        notebook = json.loads(content)
        cells = notebook["cells"] if "cells" in notebook else notebook["worksheets"][0]["cells"]
        sources = ["".join(cell.get("source", cell.get("input", ""))) for cell in cells]
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(f"{name} is not a valid notebook: {error}") from error
    yield "\n\n".join(source for source in sources if source)


READERS: dict[Kind, tuple[Callable[[IO[bytes], InDoubt], Iterator[str]], str | None]] = {
    kinds.DOCX: (docx_text, "mammoth"),
    kinds.PDF: (pdf_text, "pypdf"),
    kinds.EPUB: (epub_text, None),
}
"""Kind -> (function, the package that it needs)."""


def readable() -> list[Kind]:
    """Return the kinds of documents whose packages are installed."""
    return [kind for kind, (_, package) in READERS.items() if package is None or find_spec(package)]


def document_text(member: Member, in_doubt: InDoubt) -> Iterator[str]:
    """Iterate over the text of a document of a kind of `readable()`, in parts.

    Raises DataError when it is damaged or too large, and UnreadableError before any text when it has none.
    """
    read, _ = READERS[member.kind]
    stream: IO[bytes] = member.stream
    if member.path is None:  # in an archive or compressed, where reading goes forward only
        whole = stream.read(LARGEST_DOCUMENT + 1)
        if len(whole) > LARGEST_DOCUMENT:
            raise DataError(f"{member.name} is too large to be read from an archive. Unpack the archive.")
        stream = io.BytesIO(whole)
    try:
        if member.kind != kinds.PDF:
            with zipfile.ZipFile(stream) as parts:
                largest = max(part.file_size for part in parts.infolist())
            if largest > LARGEST_PART:
                raise DataError(f"{member.name} is too large: a part of it has {largest:,} bytes. Save it as text.")
        yield from read(stream, in_doubt)
    except (UnreadableError, DataError, MemoryError):
        raise
    except Exception as error:  # libraries raise whatever a damaged file leads to
        raise DataError(f"{member.name} is damaged or protected: {short_message(error)}") from error
