"""The data set `text`: files of any size, one document each or divided at a separator, read in blocks."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePath

from tfs_core.errors import DataError
from tfs_datasets import kinds
from tfs_datasets.bad_input import BadInput
from tfs_datasets.config import TextConfig
from tfs_datasets.document_files import NOTEBOOK, UnreadableError, document_text, notebook_text, readable
from tfs_datasets.encodings import INVALID, find_invalid
from tfs_datasets.html_text import LOOKS_LIKE_HTML, html_text
from tfs_datasets.local_documents import LocalSource
from tfs_datasets.members import Member, as_data_error, opened

BLOCK_CHARACTERS = 1 << 16
"""Characters per read; longer documents are passed on in parts."""

HTML_SUFFIXES = (".html", ".htm", ".xhtml")

AS_IT_STANDS = "{0} is read as it stands, with all {1}"
NAME_ALONE = "For the texts in it alone, name such a file, or a folder of only such files."
TABLES = {
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), AS_IT_STANDS.format("JSON", "keys")),
    **dict.fromkeys((".csv", ".tsv"), AS_IT_STANDS.format("CSV", "columns")),
}
"""Suffix -> what is told about files that are read as text, but which another data set is for."""

HTML_SOURCE = "HTML is read with its tags and scripts"
SET_HTML = "For its text alone, set html: text (--set data.dataset.html=text)."

ADVICE = (
    "If the file is damaged, on_error: replace writes U+FFFD in place of such bytes, and on_error: skip leaves out the "
    "document."
)

Parts = Iterator[tuple[str, bool]]
"""Documents in parts: (text, True for the last part of a document)."""


class TextFiles(LocalSource):
    """The documents of text files: the exact characters, without a byte-order mark at the beginning of a file.

    Notebooks, Word, PDF and EPUB documents, and HTML if the options say so, are converted to text.
    """

    def __init__(self, config: TextConfig, *, assets: Path) -> None:
        options = [config.separator, *([] if config.html == "source" else ["html text"])]
        options += [] if config.on_error == "refuse" else [f"{config.on_error} invalid"]
        super().__init__("text", config, *options, assets=assets, reads=(kinds.TEXT, *readable()))
        self._separator = config.separator
        self._html_is_text = config.html == "text"
        self._skips = config.on_error == "skip"

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over the documents. Raises DataError as `pieces` does."""
        parts: list[str] = []
        for part, ends in self.pieces(split):
            parts.append(part)
            if ends:
                yield "".join(parts)
                parts.clear()

    def pieces(self, split: str) -> Parts:
        """Iterate over the documents in parts: (text, True for the last part of a document).

        Raises DataError, with file and line, for invalid bytes if `on_error` is `refuse`; for a named file that is not
        text; for a damaged one; and when all files are left out.
        """
        bad, empty = self.bad[split], True
        bad.clear()
        for file in self.files.of(split):
            for part in self._valid_parts(file, bad) if self._skips else self._parts(file, bad):
                empty = False
                yield part
        if empty:
            self.refuse_nothing(bad)

    def _parts(self, file: Path, bad: BadInput) -> Parts:
        for member in self.members(file, bad):
            yield from self._member_parts(member, bad)

    def _valid_parts(self, file: Path, bad: BadInput) -> Parts:
        """Iterate over the documents without invalid bytes. The file is read twice: once to find the others."""
        invalid, number = set(), 0
        for member in self.members(file, bad):
            for part, ends in self._member_parts(member, bad):
                if number not in invalid and find_invalid(part):
                    invalid.add(number)
                    bad.found(member.name, "an invalid byte")
                number += ends
        number = 0
        for part, ends in self._parts(file, BadInput("skip")):
            if number not in invalid:
                yield part, ends
            number += ends

    def _member_parts(self, member: Member, bad: BadInput) -> Parts:
        with as_data_error(member.name):
            blocks = self._blocks(member, bad)
            try:
                if self._separator is None:
                    for block in blocks:
                        yield block, False
                else:
                    yield from _divided(blocks, self._separator)
            except UnreadableError as error:  # before any block
                self.leave_out(member, error.kind, bad)
            else:
                yield "", True

    def _blocks(self, member: Member, bad: BadInput) -> Iterator[str]:
        """Iterate over the text of a member, in parts."""
        if member.kind != kinds.TEXT:
            return document_text(member, partial(bad.in_doubt, member.name))
        text = read_text(member, bad)
        if NOTEBOOK.match(member.start):
            return notebook_text("".join(text), member.name)
        is_html = _is_html(member)
        if self._html_is_text and is_html:
            return html_text(text)
        suffixes = PurePath(member.name.lower()).suffixes[-2:]  # such as .jsonl.gz
        if tables := [TABLES[suffix] for suffix in suffixes if suffix in TABLES]:
            bad.as_text(tables[0], NAME_ALONE)
        else:
            bad.as_text(*((HTML_SOURCE, SET_HTML) if is_html else ("", "")))
        return text

    def _readings(self, file: Path) -> Sequence[str]:
        with opened(file, named=False, encoding=self.encoding) as member:
            if member.kind in (kinds.ZIP, kinds.TAR):
                return ["archive", *(kind.name for kind in readable())]
            if member.kind == kinds.TEXT:
                return ["notebook"] if NOTEBOOK.match(member.start) else []
            return [member.kind.name] if member.kind in readable() else []


def _is_html(member: Member) -> bool:
    return bool(LOOKS_LIKE_HTML.match(member.start)) or member.name.lower().endswith(HTML_SUFFIXES)


def read_text(member: Member, bad: BadInput) -> Iterator[str]:
    """Iterate over the text of a file, in parts. Invalid bytes are refused, replaced, or marked, as `bad` says.

    For `skip`, they stay marked (see `Member.text`), and the message of the first one is noted.
    """
    line, text = 1, member.text()
    while block := text.read(BLOCK_CHARACTERS):
        if found := find_invalid(block):
            place = f"line {line + block.count(chr(10), 0, found.start())}"
            if bad.on_error == "refuse":
                raise DataError(f"{member.name}, {place}: {member.invalid_byte(block)}. {ADVICE}")
            if bad.needs_first(member.name):
                bad.note_first(member.name, f"{place}: {member.invalid_byte(block)}")
            if bad.on_error == "replace":
                block, count = INVALID.subn("\ufffd", block)
                bad.replaced(member.name, count)
        line += block.count("\n")
        yield block


def _divided(blocks: Iterator[str], separator: str) -> Parts:
    """Divide the text of a file at each separator.

    Separators are dropped. For the last document, the caller must add a part with True.
    """
    rest = ""
    for block in blocks:
        *documents, rest = (rest + block).split(separator)
        for document in documents:
            yield document, True
        if len(rest) > BLOCK_CHARACTERS:  # pass on all but a possible beginning of a separator
            keep = len(separator) - 1
            yield rest[: len(rest) - keep], False
            rest = rest[len(rest) - keep :]
    yield rest, False


def build(config: TextConfig, *, assets: Path, offline: bool) -> TextFiles:  # noqa: ARG001
    """Return the documents of the files. Raises DataError when there are none."""
    return TextFiles(config, assets=assets)
