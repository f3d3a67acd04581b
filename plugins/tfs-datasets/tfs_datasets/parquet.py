"""The data set `parquet`: Parquet files, the documents in a column, or written from several by a template."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfs_core.errors import DataError
from tfs_datasets import kinds
from tfs_datasets.bad_input import SKIP, BadInput
from tfs_datasets.config import ParquetConfig
from tfs_datasets.local_documents import LocalDocuments
from tfs_datasets.members import Member
from tfs_datasets.needed import need
from tfs_datasets.records import OtherValue, RecordText

if TYPE_CHECKING:
    import pyarrow

ROWS_AT_ONCE = 1024


def read_parquet(file: Path, bad: BadInput, *, column: str | None, template: str | None = None) -> Iterator[str]:
    """Iterate over the documents of a file; null is an empty document. Without a column, the template writes the rows.

    Raises DataError when the file is damaged, or a column is missing or holds no text.
    """
    import pyarrow
    from pyarrow import parquet

    text = RecordText(column, template, setting="column", noun="column")

    def found(message: str, *, advice: str = SKIP) -> None:
        bad.found(file, message, advice=advice)

    def refuse(message: str, *, advice: str = SKIP) -> None:
        advice = advice.replace(SKIP, "").strip()  # it would skip all rows
        raise DataError(f"{file}{message}." + (f" ({advice})" if advice else ""))

    row = 0
    try:
        with parquet.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            list(text.documents(_sample(pyarrow.struct(list(schema))), "", refuse))
            for rows in opened.iter_batches(batch_size=ROWS_AT_ONCE, columns=text.first_keys(schema.names)):
                for record in _records(rows):
                    row += 1
                    if isinstance(record, UnicodeDecodeError):
                        found(f"row {row}: byte 0x{record.object[record.start]:02x} is not UTF-8")
                    else:
                        yield from text.documents(record, f"row {row}", found)
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error


def columns_of(file: Path) -> list[str]:
    """Return the names of the columns. Raises DataError when the file is not Parquet."""
    import pyarrow
    from pyarrow import parquet

    try:
        return list(parquet.read_schema(file).names)
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error


def _records(rows: "pyarrow.RecordBatch") -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """Iterate over rows as dicts, or the error of a row whose text is not UTF-8."""
    try:
        yield from rows.to_pylist()
    except UnicodeDecodeError:  # before the first one
        for i in range(rows.num_rows):
            try:
                yield from rows.slice(i, 1).to_pylist()
            except UnicodeDecodeError as error:
                yield error


def _sample(kind: "pyarrow.DataType") -> Any:
    """Return a value of a type, to check the options before the first row is read."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _sample(kind.value_type)
    if types.is_struct(kind):
        return {field.name: _sample(field.type) for field in kind}
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return [_sample(kind.value_type)]
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return ""
    if types.is_null(kind):
        return None
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return 0 if is_number else OtherValue(str(kind))


def _read(member: Member, bad: BadInput, *, column: str | None, template: str | None) -> Iterator[str]:
    if member.path is None:
        raise DataError(
            f"{member.name} is compressed as a whole or in an archive. Unpack it: Parquet is read from files."
        )
    yield from read_parquet(member.path, bad, column=column, template=template)


def build(config: ParquetConfig, *, assets: Path, offline: bool) -> LocalDocuments:  # noqa: ARG001
    """Return the documents of the files. Raises DataError when there are none, or pyarrow is not installed."""
    need("pyarrow", for_what="parquet", extra="parquet")
    column = "text" if config.column is None and config.template is None else config.column
    options = [column] if config.template is None else [column, ["template", config.template]]
    read = partial(_read, column=column, template=config.template)
    return LocalDocuments("parquet", config, *options, assets=assets, read_member=read, reads=(kinds.PARQUET,))
