"""The data set `jsonl`: JSON files of any form: an object in each line, an array of objects, or objects of many lines.

The beginning of a file decides its form. Only the current line, item or object is in memory.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from tfs_datasets.bad_input import SKIP, BadInput
from tfs_datasets.config import JsonlConfig
from tfs_datasets.local_documents import LocalDocuments
from tfs_datasets.members import Member, opened
from tfs_datasets.records import WHOLE, Found, RecordText

BLOCK_CHARACTERS = 1 << 16
LONGEST_TOKEN = 12
"""Characters of the longest token that must not be cut in two, an escaped surrogate pair. Text in quotes may be cut."""

NEAR_CHARACTERS = 30
"""Number of characters that an error message shows."""

BLANK = re.compile(r"[ \t\r\n\f\v\ufeff]*")  # with the byte-order marks of files that were concatenated
DECODER = json.JSONDecoder()

UNREAD_REST = "The rest of the file cannot be read"

Record = tuple[str, Any, str]
"""The place of a value in the file, such as "line 3", the value, and its text."""


class JsonText:
    """The text of a file, read as far as its current value needs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text, self._at = "", 0
        self._decoded: tuple[Any, int] | None = None  # the next value and the position of its end
        self.line = 1
        """The number of the current line."""

    def next_character(self) -> str:
        """Skip whitespace, and return the next character without reading past it; an empty string at the end."""
        while True:
            match = BLANK.match(self._text, self._at)
            assert match is not None
            self._advance(match.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def skip_character(self) -> None:
        """Read past the next character."""
        self._advance(self._at + 1)

    def value(self) -> tuple[Any, str]:
        """Return the next value, and its text. Raises ValueError with a message when it is not JSON."""
        try:
            value, end = self._decode()
        except (ValueError, RecursionError) as error:
            line = self.line + self._text.count("\n", self._at, getattr(error, "pos", self._at))
            raise ValueError(f"line {line} is not JSON: {explained(error)}") from error
        text = self._text[self._at : end]
        self._advance(end)
        return value, text

    def value_is_in_a_line(self) -> bool:
        """Return whether the next value ends, or breaks, in its first line or at the beginning of the next one."""
        try:
            _, end = self._decode()
        except (ValueError, RecursionError) as error:
            end = getattr(error, "pos", self._at)
        return "\n" not in self._text[self._at : end].rstrip()

    def rest_of_line(self) -> str:
        """Return the text up to the end of the line, and read past it."""
        while (end := self._text.find("\n", self._at)) < 0 and self._read_on():
            pass
        end = len(self._text) if end < 0 else end + 1
        text = self._text[self._at : end]
        self._advance(end)
        return text

    def _decode(self) -> tuple[Any, int]:
        """Return the next value and the position of its end. Raises ValueError and RecursionError."""
        while self._decoded is None:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                may_be_cut = error.pos > len(self._text) - LONGEST_TOKEN or error.msg.startswith("Unterminated string")
                if not (may_be_cut and self._read_on()):
                    raise
            else:
                is_whole = end < len(self._text) - 2  # a number may be cut in its digits, and after "." or "e-"
                if is_whole or not self._read_on():
                    self._decoded = value, end
        return self._decoded

    def _read_on(self) -> bool:
        """Read more text, at least as much as is left, so that a long value is decoded few times; False at the end."""
        left = len(self._text) - self._at
        block = self._stream.read(max(BLOCK_CHARACTERS, left))
        if block:
            self._text, self._at = self._text[self._at :] + block, 0
        return bool(block)

    def _advance(self, end: int) -> None:
        if end > self._at:
            self.line += self._text.count("\n", self._at, end)
            self._at, self._decoded = end, None


def explained(error: ValueError | RecursionError) -> str:
    """Return what is not JSON, with the text there: "Expecting ',' delimiter at '\"b\": 1}'"."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if not isinstance(error, json.JSONDecodeError):  # Python's limit, against long computations
        return f"it has a number of more than {sys.get_int_max_str_digits():,} digits"
    near = error.doc[error.pos : error.pos + NEAR_CHARACTERS]
    return f"{error.msg.removesuffix(' at')} at {repr(near) if near else 'the end'}"


def _lines(text: JsonText, found: Found) -> Iterator[Record]:
    """Iterate over the values in lines. Blank lines are skipped."""
    while text.next_character():
        line, source = text.line, text.rest_of_line()
        try:
            record = json.loads(source)
        except (ValueError, RecursionError) as error:
            found(f"line {line} is not JSON: {explained(error)}. Each line must be a JSON object, or the file an array")
        else:
            yield f"line {line}", record, source


def _objects(text: JsonText, found: Found) -> Iterator[Record]:
    """Iterate over values of several lines. An invalid one ends the file: the beginning of the next one is unknown."""
    while text.next_character():
        place = f"line {text.line}"
        try:
            record, source = text.value()
        except ValueError as error:
            found(f"{error}. {UNREAD_REST}")
            return
        yield place, record, source


def _items(text: JsonText, found: Found) -> Iterator[Record]:
    """Iterate over the items of an array. An invalid one ends the file: the beginning of the next one is unknown."""
    text.skip_character()  # the bracket
    number, goes_on = 0, text.next_character() != "]"
    while goes_on:
        number += 1
        text.next_character()
        place = f"item {number} (line {text.line})"
        try:
            record, source = text.value()
        except ValueError as error:
            found(f"{error}. {UNREAD_REST}")
            return
        yield place, record, source
        if goes_on := text.next_character() == ",":
            text.skip_character()
    if text.next_character() != "]":
        found(f"line {text.line}: the array has no end, or a comma is missing. {UNREAD_REST}")
        return
    text.skip_character()
    if text.next_character():
        found(f"line {text.line}: a file must end after its array. {UNREAD_REST}")


def form_of(text: JsonText) -> Callable[[JsonText, Found], Iterator[Record]]:
    """Return the function that reads the records of a file, by the beginning of its text."""
    first = text.next_character()
    if first == "[":
        return _items
    return _objects if first == "{" and not text.value_is_in_a_line() else _lines


def read_jsonl(member: Member, bad: BadInput, *, text: RecordText, whole: bool) -> Iterator[str]:
    """Iterate over the documents of a file; null is an empty document. `whole` makes one document of all records."""

    def found(message: str, *, advice: str = SKIP) -> None:
        bad.found(member.name, message, advice=advice)

    def records() -> Iterator[tuple[str, Any]]:
        text = JsonText(member.text())
        for place, record, source in form_of(text)(text, found):
            if message := member.invalid_byte(source):
                found(f"{place}: {message}")
            else:
                yield place, record

    if not whole:
        for place, record in records():
            yield from text.documents(record, place, found)
    elif every := [record for _, record in records()]:
        yield from text.documents(every, "the file", found)


class JsonlFiles(LocalDocuments):
    """The documents of JSON files."""

    def __init__(self, config: JsonlConfig, *, assets: Path) -> None:
        key = "text" if config.text_key is None and config.template is None else config.text_key
        options = [key] if config.template is None else [key, ["template", config.template]]
        text = RecordText(key, config.template, setting="text_key")
        read = partial(read_jsonl, text=text, whole=key == WHOLE)
        super().__init__("jsonl", config, *options, assets=assets, read_member=read)
        self._skips = config.on_error == "skip"

    def _readings(self, file: Path) -> Sequence[str]:
        """Add the form of a file that once was read as lines, of which those that are not JSON were skipped."""
        readings = list(super()._readings(file))
        if self._skips and not readings:
            with opened(file, named=False, encoding=self.encoding) as member:
                if form_of(JsonText(member.text())) is not _lines:
                    readings.append("json values")
        return readings


def build(config: JsonlConfig, *, assets: Path, offline: bool) -> LocalDocuments:  # noqa: ARG001
    """Return the documents of the files. Raises DataError when there are none."""
    return JsonlFiles(config, assets=assets)
