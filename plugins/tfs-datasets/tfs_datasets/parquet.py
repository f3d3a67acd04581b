"""The data set `parquet`: Parquet files, the documents in one column."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tfs_core.errors import DataError
from tfs_core.plugins import did_you_mean
from tfs_datasets.bad_input import BadInput
from tfs_datasets.config import ParquetConfig
from tfs_datasets.local_documents import LocalDocuments
from tfs_datasets.needed import need

if TYPE_CHECKING:
    import pyarrow

ROWS_AT_ONCE = 1024


def read_parquet(file: Path, bad: BadInput, *, column: str) -> Iterator[str]:
    """Iterate over the documents of a file, one per row; null is an empty document.

    Raises DataError when the file is damaged, or the column is missing or holds no text.
    """
    import pyarrow
    from pyarrow import parquet

    row = 0
    try:
        with parquet.ParquetFile(file) as opened:
            _check(file, opened.schema_arrow, column)
            for rows in opened.iter_batches(batch_size=ROWS_AT_ONCE, columns=[column]):
                values = rows.column(0)
                if pyarrow.types.is_dictionary(values.type):
                    values = values.dictionary_decode()
                for value in values.cast(pyarrow.large_binary()).to_pylist():
                    row += 1
                    try:
                        text = (value or b"").decode("utf-8")
                    except UnicodeDecodeError as error:
                        bad.found(file, f"row {row}: byte 0x{value[error.start]:02x} is not UTF-8")
                    else:
                        yield text
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error


def columns_of(file: Path) -> list[str]:
    """Return the names of the columns. Raises DataError when the file is not Parquet."""
    import pyarrow
    from pyarrow import parquet

    try:
        return list(parquet.read_schema(file).names)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error


def _check(file: Path, schema: "pyarrow.Schema", column: str) -> None:
    """Raise DataError unless the column exists and holds text."""
    import pyarrow

    if column not in schema.names:
        hint = did_you_mean(column, schema.names) or " Set column to the column that holds the text."
        raise DataError(f"{file} has no column '{column}'. Its columns: {', '.join(schema.names)}.{hint}")
    kind = schema.field(column).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise DataError(f"{file}: column '{column}' must hold text, not {kind}")


def build(config: ParquetConfig, *, assets: Path, offline: bool) -> LocalDocuments:  # noqa: ARG001
    """Return the documents of the files. Raises DataError when there are none, or pyarrow is not installed."""
    need("pyarrow", for_what="parquet", extra="parquet")
    read = partial(read_parquet, column=config.column)
    return LocalDocuments("parquet", config, config.column, assets=assets, read=read)
