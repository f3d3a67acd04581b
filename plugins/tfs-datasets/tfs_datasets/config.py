"""Options of the data sets.

The classes raise ValueError for invalid values.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tfs_core.config.schema import Choice, Positive
from tfs_datasets.encodings import check_encoding
from tfs_datasets.template import template_parts

OnError = Literal["refuse", "skip"]
TextOnError = Literal["refuse", "skip", "replace"]


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """Options shared by all data sets from local files."""

    path: Path | tuple[Path, ...]
    """A file, a folder (all files in it and in its subfolders), a glob such as `corpus/**/*.txt`, or a list of those.
    Files of text may be compressed (gzip, bzip2, xz or Zstandard) or in a zip or tar archive."""

    validation_path: Path | tuple[Path, ...] | None = None
    """The same for the validation split; null holds out a share of the training documents instead."""

    on_error: OnError = "refuse"
    """Handling of invalid lines, and of bytes that are invalid in the encoding: `refuse` stops with the file and line;
    `skip` leaves out the line and reports the number of lines and the first one. Choose `skip` when you cannot repair
    the files."""


@dataclass(frozen=True, kw_only=True)
class EncodedConfig(LocalConfig):
    """Options shared by the data sets from files of text."""

    encoding: str | None = None
    """The encoding of the files, any text encoding of Python: `cp1252`, `utf-16`, `shift_jis`; null is UTF-8. A
    byte-order mark at the beginning of a file takes precedence."""

    def __post_init__(self) -> None:
        if self.encoding is not None:
            check_encoding(self.encoding)


@dataclass(frozen=True, kw_only=True)
class TextConfig(EncodedConfig):
    """Options of `text`."""

    on_error: TextOnError = "refuse"
    """Handling of bytes that are invalid in the encoding: `refuse` stops with the file and line; `skip` leaves out each
    document that has one; `replace` writes U+FFFD in place of each. What was skipped or replaced is counted and
    reported. Set `encoding` first: most files with such bytes are in another encoding."""

    separator: str | None = None
    """The text between two documents of a file, such as `"\\n<|endoftext|>\\n"`; null if a file is a document."""

    html: Literal["source", "text"] = "source"
    """How HTML pages are read: `source` reads them as they are; `text` leaves out tags, scripts and styles, and makes
    each block a line."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.separator == "":
            raise ValueError("separator must not be empty; leave it out when each file is one document")


@dataclass(frozen=True, kw_only=True)
class JsonlConfig(EncodedConfig):
    """Options of `jsonl`."""

    text_key: str | None = None
    """The key of each JSON object whose value is the document. `meta.text` is the key `text` of the object `meta`. If
    `messages` is a list, `messages.text` is a document in each of its items. `*` stands for each item of a list, or is
    the list of the values of an object; `.` is the list of all objects of a file. null: `text`, or with a template the
    object itself."""

    template: str | None = None
    """The text of a document, with keys in braces: `"{instruction}\\n{output}"`. If there is a list under `text_key`,
    the template writes each item, and all items are one document: `"{role}: {content}\\n"`. `{}` is the item itself,
    for a list of text. A list under a key in braces is joined, and an object in it is its `text`. Nothing is written
    if all keys in braces are null. null if the value is text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template is not None:
            template_parts(self.template)


@dataclass(frozen=True, kw_only=True)
class CsvConfig(EncodedConfig):
    """Options of `csv`."""

    column: str | int | None = None
    """The column whose values are the documents: its name, or its number from 1 if there is no header. null: `text`, or
    the columns of the template."""

    template: str | None = None
    """The text of a document, with columns in braces: `"{question}\\n{answer}"`. Give this or column."""

    header: bool = True
    """Whether the first line of each file names the columns. If not, their names are 1, 2, 3 and so on."""

    delimiter: str | None = None
    """The character between two fields, such as `"\\t"`. null: the first of comma, semicolon, tab and vertical bar that
    divides the header so that it has the column; a comma if there is no header."""

    quote: str | None = '"'
    """The character around fields that contain delimiters or line breaks; within such a field it is doubled. Choose
    null if quotation marks are plain characters, as in many TSV files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, character in (("delimiter", self.delimiter), ("quote", self.quote)):
            if character is not None and (len(character) != 1 or character in "\r\n"):
                raise ValueError(f"{name} must be one character, and no line break, not {character!r}")
        if self.quote is not None and self.quote == self.delimiter:
            raise ValueError(f"delimiter and quote must differ, but both are {self.quote!r}")
        if self.template is not None and self.column is not None:
            raise ValueError("column has no effect beside template, which names the columns. Leave one of them out")
        if self.template is not None and any(key == "" for _, key in template_parts(self.template)):
            raise ValueError("template must name columns: {} has no meaning in a table")


@dataclass(frozen=True, kw_only=True)
class ParquetConfig(LocalConfig):
    """Options of `parquet`."""

    column: str | None = None
    """The column whose values are the documents. `meta.text` is the field `text` of the column `meta`; lists are read
    as by `jsonl`. null: `text`, or with a template the whole row."""

    template: str | None = None
    """The text of a document, with columns in braces: `"{question}\\n{answer}"`. If `column` is a list, the template
    writes each item, and all items are one document: `"{role}: {content}\\n"`. null if the column holds text."""

    def __post_init__(self) -> None:
        if self.template is not None:
            template_parts(self.template)


@dataclass(frozen=True, kw_only=True)
class KnownHubConfig:
    """Options of the named data sets of the Hugging Face Hub (`KNOWN_SETS`)."""

    revision: str = "main"
    """The version on the Hub: a branch, a tag or a commit. Only a commit never changes."""

    column: str | None = None
    """The column whose values are the documents; null for the default of this data set."""

    folder: Path | None = None
    """The folder that `tfs datasets download --output` wrote to; null for the assets folder."""

    streaming: bool = False
    """Train without storing the data set: its files are downloaded and deleted one by one, and only a few shards of
    tokens are on disk. Choose it for a data set that is larger than your disk, or much larger than the part that you
    will train on. Needs tfs-datasets[streaming]."""


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """Options of `hub`."""

    path: str
    """The data set on the Hugging Face Hub: `owner/name`."""

    config: str | None = None
    """The configuration of the data set (the Hub calls it a subset); null for the only one or the default."""

    split: str = "train"
    """The split to train on."""

    validation_split: str | None = None
    """The split to validate on; null holds out a share of the training documents instead."""

    column: str = "text"
    """The column whose values are the documents."""

    revision: str = "main"
    """The version on the Hub: a branch, a tag or a commit. Only a commit never changes."""

    folder: Path | None = None
    """The folder that `tfs datasets download --output` wrote to; null for the assets folder."""

    streaming: bool = False
    """Train without storing the data set: its files are downloaded and deleted one by one, and only a few shards of
    tokens are on disk. Choose it for a data set that is larger than your disk, or much larger than the part that you
    will train on. Needs tfs-datasets[streaming]."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", self.path):
            raise ValueError(f"path must be the name of a data set on the Hub, owner/name, not {self.path!r:.100}")


@dataclass(frozen=True, kw_only=True)
class MixtureSource:
    """A data set in a mixture."""

    dataset: Choice
    """The data set: its name, or a mapping with its name and options."""

    weight: Positive = 1.0
    """Number of passes over the data set in an epoch: 1 is once, 3 is three times, 0.5 is half of its documents, 2.5 is
    all documents twice and half of them a third time. To give a data set of size n the share s of the text, choose its
    weight in proportion to s / n."""


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Options of `mixture`."""

    sources: tuple[MixtureSource, ...]
    """The data sets and their weights: `[{dataset: tinystories}, {dataset: {name: text, path: a}, weight: 3}]`."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources must not be empty: name at least one data set")
