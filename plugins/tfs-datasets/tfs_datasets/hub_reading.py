"""Documents and columns of local copies of files from the Hub."""

import glob
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfs_core.errors import DataError
from tfs_core.plugins import did_you_mean
from tfs_datasets.bad_input import BadInput
from tfs_datasets.hub_connection import import_datasets
from tfs_datasets.hub_store import HubSet
from tfs_datasets.needed import need
from tfs_datasets.parquet import columns_of, read_parquet


def need_reader(hub_set: HubSet) -> None:
    """Raise DataError when the package that reads files of this kind is not installed, or reading could run code."""
    if hub_set.kind == "pandas":
        raise DataError(f"{hub_set.path}: its files are pickles, which can run any code when they are read. Not read.")
    need("pyarrow" if hub_set.kind == "parquet" else "datasets", for_what=hub_set.path, extra="hub")


def read_documents(hub_set: HubSet, files: Sequence[Path], column: str) -> Iterator[str]:
    """Iterate over the values of a column, one per row; null is an empty document. Raises DataError."""
    if hub_set.kind == "parquet":
        for file in files:
            yield from read_parquet(file, BadInput("refuse"), column=column)
        return
    for row in read_rows(hub_set, files):
        text = row[column]
        if text is not None and not isinstance(text, str):
            raise DataError(f"{hub_set.path}: column '{column}' must hold text, not {type(text).__name__}")
        yield text or ""


def read_rows(hub_set: HubSet, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of local files with the streaming mode of `datasets`, which makes no copy.

    Raises DataError when the files cannot be read.
    """
    datasets = import_datasets()
    if odd := set(hub_set.options) & set(inspect.signature(datasets.load_dataset).parameters):
        raise DataError(f"{hub_set.path}: its option {min(odd)!r} is not one of the reader of {hub_set.kind} files")
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # otherwise it reports reads of local files to a server
    escaped = [glob.escape(str(file)) for file in files]
    try:
        yield from datasets.load_dataset(
            hub_set.kind, data_files={"train": escaped}, split="train", streaming=True, **hub_set.options
        )
    except Exception as error:  # raised by any of the libraries that read a format
        said = " ".join(str(error).split())[:300]
        raise DataError(f"{hub_set.path}: {files[0]} cannot be read as {hub_set.kind}: {said}") from error


def columns_in(hub_set: HubSet, files: Sequence[Path]) -> list[str]:
    """Return the column names of the first file."""
    return columns_of(files[0]) if hub_set.kind == "parquet" else list(next(read_rows(hub_set, files), {}))


def first_present(candidates: Sequence[str], columns: Sequence[str], path: str) -> str:
    """Return the first candidate among the columns of the data set `path`. Raises DataError when there is none."""
    for column in candidates:
        if column in columns:
            return column
    hint = did_you_mean(candidates[0], columns) or " Set column to the column that holds the text."
    raise DataError(f"{path} has no column '{candidates[0]}'. Its columns: {', '.join(columns)}.{hint}")
