"""The data set `csv`: CSV files (RFC 4180, with any delimiter of one character), the documents in one column."""

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from tfs_core.errors import DataError
from tfs_core.plugins import did_you_mean
from tfs_datasets.bad_input import BadInput
from tfs_datasets.compressed import opened
from tfs_datasets.config import CsvConfig
from tfs_datasets.local_documents import LocalDocuments

LONGEST_FIELD = 2**31 - 1
"""Maximum length of a field in characters. Python's default of 131,072 is too small for long documents."""


def read_csv(file: Path, bad: BadInput, *, column: str, delimiter: str) -> Iterator[str]:
    """Iterate over the values of a column. Empty lines are skipped. Raises DataError when the column is missing."""
    csv.field_size_limit(LONGEST_FIELD)
    with opened(file) as binary:
        rows = csv.reader(_lines(binary), delimiter=delimiter, strict=True)
        try:
            names = next(rows, [])
        except csv.Error as error:
            raise DataError(f"{file}, line {rows.line_num}: {error}") from error
        if column not in names:
            hint = did_you_mean(column, names) or " Set column to the column that holds the text."
            raise DataError(f"{file} has no column '{column}'. Its columns: {', '.join(names) or 'none'}.{hint}")
        index = names.index(column)
        while True:
            line = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                bad.found(file, f"line {line} is not CSV: {error}")
                continue
            if not row:
                continue
            if problem := _row_error(row, len(names), index):
                bad.found(file, f"line {line}{problem}")
            else:
                yield row[index]


def _lines(binary: IO[bytes]) -> Iterator[str]:
    """Iterate over the lines of a file. Bytes that are not UTF-8 become surrogates, which `_row_error` detects."""
    encoding = "utf-8-sig"
    for line in binary:
        yield line.decode(encoding, "surrogateescape")
        encoding = "utf-8"


def _row_error(row: list[str], columns: int, index: int) -> str:
    """Return the error message of a row, empty for a valid one."""
    if len(row) != columns:
        return f" has {len(row)} fields, but the first line names {columns} columns"
    try:
        row[index].encode("utf-8")
    except UnicodeEncodeError as error:
        return f": byte 0x{ord(row[index][error.start]) & 0xFF:02x} is not UTF-8"
    return ""


def build(config: CsvConfig, *, assets: Path, offline: bool) -> LocalDocuments:  # noqa: ARG001
    """Return the documents of the files. Raises DataError when there are none."""
    read = partial(read_csv, column=config.column, delimiter=config.delimiter)
    return LocalDocuments("csv", config, config.column, config.delimiter, assets=assets, read=read)
