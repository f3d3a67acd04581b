"""The data set `text`: text files of any size, one document each or divided at a separator, read in blocks."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from tfs_datasets.bad_input import BadInput
from tfs_datasets.compressed import opened
from tfs_datasets.config import TextConfig
from tfs_datasets.local_documents import LocalDocuments

BLOCK_BYTES = 1 << 16
"""Bytes per read; longer documents are passed on in parts."""

BYTE_ORDER_MARK = "\ufeff"
ADVICE = "Save the file as UTF-8, or select only the text files by a glob"


class TextFiles(LocalDocuments):
    """The documents of text files: the exact characters, without a byte-order mark at the beginning of a file."""

    def __init__(self, config: TextConfig, *, assets: Path) -> None:
        super().__init__("text", config, config.separator, assets=assets, read=self._whole)
        self._separator = config.separator

    def pieces(self, split: str) -> Iterator[tuple[str, bool]]:
        """Iterate over the documents in parts: (text, True for the last part of a document)."""
        bad = self.bad[split]
        bad.clear()
        for file in self.files.of(split):
            yield from self._parts(file, bad)

    def _parts(self, file: Path, bad: BadInput) -> Iterator[tuple[str, bool]]:
        if self._separator is None:
            for block in read_text(file, bad):
                yield block, False
        else:
            yield from _divided(read_text(file, bad), self._separator)
        yield "", True

    def _whole(self, file: Path, bad: BadInput) -> Iterator[str]:
        parts: list[str] = []
        for part, ends in self._parts(file, bad):
            parts.append(part)
            if ends:
                yield "".join(parts)
                parts.clear()


def read_text(file: Path, bad: BadInput) -> Iterator[str]:
    """Iterate over the text of a file, in parts. Bytes that are not UTF-8 are reported to `bad` with line numbers."""
    rest, line, at_start = b"", 1, True
    with opened(file) as binary:
        while True:
            block = binary.read(BLOCK_BYTES)
            text, rest, wrong = _decoded(rest + block, final=not block)
            for byte, line_breaks in wrong:
                bad.found(file, f"line {line + line_breaks}: byte 0x{byte:02x} is not UTF-8. {ADVICE}")
            line += text.count("\n")
            if at_start and text:
                text, at_start = text.removeprefix(BYTE_ORDER_MARK), False
            yield text
            if not block:
                return


def _decoded(content: bytes, *, final: bool) -> tuple[str, bytes, list[tuple[int, int]]]:
    """Return (text, incomplete character at the end, invalid bytes).

    Invalid bytes are not in the text; each is returned as (value, number of line breaks before it).
    """
    parts: list[str] = []
    wrong: list[tuple[int, int]] = []
    line_breaks = 0
    while True:
        try:
            text, used = codecs.utf_8_decode(content, "strict", final)
        except UnicodeDecodeError as error:
            text = content[: error.start].decode("utf-8")
            line_breaks += text.count("\n")
            wrong.append((content[error.start], line_breaks))
            content = content[error.end :]
            parts.append(text)
        else:
            return "".join([*parts, text]), content[used:], wrong


def _divided(blocks: Iterator[str], separator: str) -> Iterator[tuple[str, bool]]:
    """Divide the text of a file at each separator into (text, True for the last part of a document).

    Separators are dropped. For the last document, the caller must add a part with True.
    """
    rest = ""
    for block in blocks:
        *documents, rest = (rest + block).split(separator)
        for document in documents:
            yield document, True
        if len(rest) > BLOCK_BYTES:  # pass on all but a possible beginning of a separator
            keep = len(separator) - 1
            yield rest[: len(rest) - keep], False
            rest = rest[len(rest) - keep :]
    yield rest, False


def build(config: TextConfig, *, assets: Path, offline: bool) -> TextFiles:  # noqa: ARG001
    """Return the documents of the files. Raises DataError when there are none."""
    return TextFiles(config, assets=assets)
