"""The data set `text`: text files of any size, one document each or divided at a separator, read in blocks."""

from collections.abc import Iterator
from pathlib import Path

from tfs_datasets.bad_input import BadInput
from tfs_datasets.config import TextConfig
from tfs_datasets.encodings import INVALID
from tfs_datasets.local_documents import LocalDocuments
from tfs_datasets.members import Member, as_data_error

BLOCK_CHARACTERS = 1 << 16
"""Characters per read; longer documents are passed on in parts."""

ADVICE = (
    "If the file is in another encoding, set encoding. If not, on_error: replace writes U+FFFD in place of such bytes, "
    "and on_error: skip leaves out the document."
)


class TextFiles(LocalDocuments):
    """The documents of text files: the exact characters, without a byte-order mark at the beginning of a file."""

    def __init__(self, config: TextConfig, *, assets: Path) -> None:
        super().__init__("text", config, config.separator, assets=assets, read_member=self._whole)
        self._separator = config.separator

    def pieces(self, split: str) -> Iterator[tuple[str, bool]]:
        """Iterate over the documents in parts: (text, True for the last part of a document)."""
        bad = self.bad[split]
        bad.clear()
        for member in self.members(split, bad):
            with as_data_error(member.name):
                yield from self._parts(member, bad)

    def _parts(self, member: Member, bad: BadInput) -> Iterator[tuple[str, bool]]:
        if self._separator is None:
            for block in read_text(member, bad):
                yield block, False
        else:
            yield from _divided(read_text(member, bad), self._separator)
        yield "", True

    def _whole(self, member: Member, bad: BadInput) -> Iterator[str]:
        parts: list[str] = []
        for part, ends in self._parts(member, bad):
            parts.append(part)
            if ends:
                yield "".join(parts)
                parts.clear()


def read_text(member: Member, bad: BadInput) -> Iterator[str]:
    """Iterate over the text of a file, in parts. Invalid bytes are reported to `bad` with line numbers."""
    line, text = 1, member.text()
    while block := text.read(BLOCK_CHARACTERS):
        if (message := member.invalid_byte(block)) is not None:
            at = line + block.count("\n", 0, INVALID.search(block).start())
            bad.found(member.name, f"line {at}: {message}", advice=ADVICE)
            block = INVALID.sub("", block)
        line += block.count("\n")
        yield block


def _divided(blocks: Iterator[str], separator: str) -> Iterator[tuple[str, bool]]:
    """Divide the text of a file at each separator into (text, True for the last part of a document).

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
