"""The data set `csv`: tables of text (RFC 4180, and other dialects), a document in each row."""

import csv
import itertools
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from tfs_core.errors import DataError
from tfs_core.plugins import did_you_mean
from tfs_core.terminal import counted
from tfs_datasets.bad_input import SKIP, BadInput
from tfs_datasets.config import CsvConfig
from tfs_datasets.local_documents import LocalDocuments
from tfs_datasets.members import Member
from tfs_datasets.records import MAX_KEYS, Template, advice_to_choose

LONGEST_FIELD = 1 << 28
"""Maximum length of a field in characters, which are held in memory. Python's default is 131,072."""

NAMED_DELIMITER = re.compile(r"sep=(.)\s*")
"""The line with which Excel is told the delimiter, before the header."""

DELIMITERS = (",", ";", "\t", "|")
"""Usual delimiters, in the order in which they are tried."""

LONGEST_NAME = 30
"""Length of a field up to which it may be the name of a column."""

FIELDS_IN_QUOTES = "A field that contains the delimiter must be in quotes."

Row = list[str] | csv.Error
"""The fields of a row, or why it cannot be read."""


def lines_of(text: TextIO) -> Iterator[str]:
    """Iterate over lines. A carriage return alone ends a line only if it ends the first one, as on old Macs."""
    first, line = text.readline(), ""
    yield first
    for part in text:
        line += part
        if line.endswith("\n") or first.endswith("\r"):
            yield line
            line = ""
    if line:
        yield line


class Lines:
    """The lines of a table, of which those of an invalid row are read again."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self._of_row: list[str] = []
        self._first = 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next line."""
        line = self._again.popleft() if self._again else next(self._lines)
        self._of_row.append(line)
        return line

    def end_of_row(self, *, is_valid: bool) -> str:
        """Return the place of the lines since the last row. All but the first one of an invalid row are read again."""
        if not is_valid:
            self._again.extendleft(reversed(self._of_row[1:]))
            del self._of_row[1:]
        first, self._first = self._first, self._first + len(self._of_row)
        self._of_row.clear()
        return f"line {first}" if self._first - first == 1 else f"lines {first} to {self._first - 1}"


def reader_of(lines: Iterable[str], *, delimiter: str, quote: str | None, strict: bool) -> Iterator[list[str]]:
    """Return Python's reader of a table, which raises csv.Error; `strict` as in Python's `csv.Dialect`."""
    csv.field_size_limit(LONGEST_FIELD)
    quoting = csv.QUOTE_NONE if quote is None else csv.QUOTE_MINIMAL
    return csv.reader(lines, delimiter=delimiter, quotechar=quote, quoting=quoting, strict=strict)


def rows_of(lines: Iterator[str], *, delimiter: str, quote: str | None) -> Iterator[tuple[str, Row]]:
    """Iterate over the rows of a table as (place, row). Reading goes on at the line after an invalid one."""
    again = Lines(lines)
    reader = reader_of(again, delimiter=delimiter, quote=quote, strict=True)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield again.end_of_row(is_valid=False), error
        else:
            yield again.end_of_row(is_valid=True), row


def read_csv(member: Member, bad: BadInput, *, config: CsvConfig) -> Iterator[str]:
    """Iterate over the documents of a file. Empty lines are skipped.

    Raises DataError when a column is missing, or the first row cannot be read.
    """
    template = None if config.template is None else Template(config.template)
    wanted = [column_of(config)] if template is None else template.keys()
    lines = lines_of(member.text())
    before = [next(lines, "")]
    named = NAMED_DELIMITER.fullmatch(before[0])
    if named:
        before.append(next(lines, ""))
    header = before[-1]
    delimiter = config.delimiter or (named[1] if named else delimiter_of(header, wanted, config))
    rows = rows_of(itertools.chain(before, lines), delimiter=delimiter, quote=config.quote)
    rows = ((place, row) for place, row in itertools.islice(rows, len(before) - 1, None) if row != [])

    place, first = next(rows, ("line 1", []))
    if isinstance(first, csv.Error):
        raise DataError(f"{member.name}, {place} is not CSV: {_explained(first)}. ({_advice(config)})")
    names = first if config.header else [str(number) for number in range(1, len(first) + 1)]
    if missing := [name for name in wanted if name not in names]:
        raise DataError(f"{member.name} {_missing(missing[0], names, header, config)}")
    indices = {name: names.index(name) for name in wanted}  # the first of several columns of a name

    if not config.header:
        rows = itertools.chain([(place, first)], rows)
    for row_place, row in rows:
        if isinstance(row, csv.Error):
            message = f"{row_place} is not CSV: {_explained(row)}"
            bad.found(member.name, message, advice=f"{_advice(config)} {SKIP}".strip())
        elif len(row) != len(names):
            message = (
                f"{row_place} has {counted(len(row), 'field')}, but the first row has {counted(len(names), 'field')}"
            )
            bad.found(member.name, message, advice=f"{FIELDS_IN_QUOTES} {SKIP}" if len(row) > len(names) else SKIP)
        else:
            fields = {name: row[index] for name, index in indices.items()}
            document = fields[wanted[0]] if template is None else template.written(fields)
            if message := member.invalid_byte(document):
                bad.found(member.name, f"{row_place}: {message}")
            else:
                yield document


def column_of(config: CsvConfig) -> str:
    """Return the name of the column that holds the documents."""
    return "text" if config.column is None else str(config.column)


def delimiter_of(header: str, wanted: Sequence[str], config: CsvConfig) -> str:
    """Return the first usual delimiter with which the header has the columns, or else the most columns."""
    if not config.header:
        return DELIMITERS[0]
    columns = {delimiter: _columns(header, delimiter, config.quote) for delimiter in DELIMITERS}
    fitting = [delimiter for delimiter, names in columns.items() if set(wanted) <= set(names)]
    return fitting[0] if fitting else max(DELIMITERS, key=lambda delimiter: len(columns[delimiter]))


def _columns(header: str, delimiter: str, quote: str | None) -> list[str]:
    try:
        return next(reader_of([header], delimiter=delimiter, quote=quote, strict=False), [])
    except csv.Error:  # a field that is too long; `rows_of` reports it
        return []


def _missing(name: str, names: Sequence[str], header: str, config: CsvConfig) -> str:
    """Return the message for a file without a column, with the settings that would read it."""
    if not names:
        return "is empty: it has no columns."
    shown = [name if len(name) <= 2 * LONGEST_NAME else f"{name[:LONGEST_NAME]}..." for name in names[:MAX_KEYS]]
    more = [f"and {len(names) - MAX_KEYS:,} more"] if len(names) > MAX_KEYS else []
    message = f"has no column '{name}'. Its columns: {', '.join(shown + more)}."
    if not config.header:
        return f"{message} Without a header, columns have numbers: set column to that of the text."
    for delimiter in DELIMITERS:
        if len(names) == 1 and len(_columns(header, delimiter, config.quote)) > 1:
            return f"{message} Leave delimiter out, or set delimiter: {json.dumps(delimiter)}"
    if meant := did_you_mean(name, names):
        return f"{message}{meant}" + (" Set column to it." if config.template is None else "")
    likely = [name for name in names if 0 < len(name) <= LONGEST_NAME]
    if config.template is not None:
        advice = "Set template to columns that hold the text"
    else:
        advice = advice_to_choose("column", likely) if likely else "Set column to the one that holds the text"
    advice += "; or header: false if the first line is data."
    if "" in names:
        advice += " If the header is in a later line, delete the lines before it."
    return f"{message} {advice}"


def _explained(error: csv.Error) -> str:
    """Return why a row cannot be read, in other words than the library's where those are misleading."""
    if " expected after " in str(error):
        return "text follows the closing quote of a field"
    if str(error) == "unexpected end of data":
        return "a quote has no end"
    if str(error).startswith("new-line character seen in unquoted field"):
        return "a field without quotes contains a carriage return"
    return str(error)


def _advice(config: CsvConfig) -> str:
    return "" if config.quote is None else "If quotes are plain characters in this file, set quote: null."


def build(config: CsvConfig, *, assets: Path, offline: bool) -> LocalDocuments:  # noqa: ARG001
    """Return the documents of the files. Raises DataError when there are none."""
    options: list[object] = [None if config.template else column_of(config), config.delimiter or DELIMITERS[0]]
    usual = {"template": None, "header": True, "quote": '"'}
    options += [[name, getattr(config, name)] for name in usual if getattr(config, name) != usual[name]]
    if config.on_error == "skip":
        options.append("the line after an invalid row is read")  # it once was not
    return LocalDocuments("csv", config, *options, assets=assets, read_member=partial(read_csv, config=config))
