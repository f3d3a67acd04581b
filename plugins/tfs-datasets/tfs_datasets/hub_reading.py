"""Files of the Hub that are here, read document by document."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfs_core.errors import DataError
from tfs_core.plugins import did_you_mean
from tfs_datasets.bad_input import BadInput
from tfs_datasets.hub_store import HubSet
from tfs_datasets.needed import need
from tfs_datasets.parquet import columns_of, read_parquet


def need_reader(hub_set: HubSet) -> None:
    """Raise DataError when the package is not installed that reads such files."""
    need("pyarrow" if hub_set.kind == "parquet" else "datasets", for_what=hub_set.path, extra="hub")


def read_documents(hub_set: HubSet, files: Sequence[Path], column: str) -> Iterator[str]:
    """Iterate over the values of a column, a row each; null is an empty document. Raises DataError."""
    if hub_set.kind == "parquet":
        for file in files:
            yield from read_parquet(file, BadInput("refuse"), column=column)
        return
    for row in read_rows(hub_set, files):
        text = row[column]
        if text is not None and not isinstance(text, str):
            raise DataError(f"{hub_set.path}: column '{column}' holds no text but {type(text).__name__}")
        yield text or ""


def read_rows(hub_set: HubSet, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of files that are here, as `datasets` reads them: as a stream, nothing copied."""
    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it would tell a server that a local file is read
    escaped = [glob.escape(str(file)) for file in files]
    try:
        yield from datasets.load_dataset(
            hub_set.kind, data_files={"train": escaped}, split="train", streaming=True, **hub_set.options
        )
    except Exception as error:  # of any of the libraries that read a format
        said = " ".join(str(error).split())[:300]
        raise DataError(f"{hub_set.path}: {files[0]} cannot be read as {hub_set.kind}: {said}") from error


def columns_in(hub_set: HubSet, files: Sequence[Path]) -> list[str]:
    """Return the names of the columns that files have."""
    return columns_of(files[0]) if hub_set.kind == "parquet" else list(next(read_rows(hub_set, files), {}))


def first_of(wanted: Sequence[str], there_are: Sequence[str], path: str) -> str:
    """Return the first of the wanted columns that there is. Raises DataError when there is none."""
    for column in wanted:
        if column in there_are:
            return column
    hint = did_you_mean(wanted[0], there_are) or " Set column to the one that holds the text."
    raise DataError(f"{path} has no column '{wanted[0]}'. Its columns: {', '.join(there_are)}.{hint}")
