"""The options of the data sets."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tfs_core.config.schema import Choice, Positive

OnError = Literal["refuse", "skip"]


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """What all data sets from local files are told."""

    path: Path | tuple[Path, ...]
    """A file, a folder (every file in it and below), a glob such as `corpus/**/*.txt`, or a list of those. Text may
    be compressed: gzip, bzip2, xz or Zstandard."""

    validation_path: Path | tuple[Path, ...] | None = None
    """The same for validation; null to hold out a share of the training documents."""

    on_error: OnError = "refuse"
    """What to do with a line that cannot be read, or bytes that are not UTF-8: `refuse` stops, with file and line;
    `skip` leaves it out, and tells how much and where. Choose `skip` when you cannot mend the files."""


@dataclass(frozen=True, kw_only=True)
class TextConfig(LocalConfig):
    """The options of `text`."""

    separator: str | None = None
    """What stands between two documents of a file, such as `"\\n<|endoftext|>\\n"`; null when a file is a document."""

    def __post_init__(self) -> None:
        if self.separator == "":
            raise ValueError("separator must not be empty; leave it out when each file is one document")


@dataclass(frozen=True, kw_only=True)
class JsonlConfig(LocalConfig):
    """The options of `jsonl`."""

    text_key: str = "text"
    """The key whose value is the document."""


@dataclass(frozen=True, kw_only=True)
class CsvConfig(LocalConfig):
    """The options of `csv`."""

    column: str = "text"
    """The column whose values are the documents; the first line of each file names the columns."""

    delimiter: str = ","
    """What stands between two fields: one character, `"\\t"` in a TSV file."""

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise ValueError(f"delimiter must be one character, no quote or line break, not {self.delimiter!r}")


@dataclass(frozen=True, kw_only=True)
class ParquetConfig(LocalConfig):
    """The options of `parquet`."""

    column: str = "text"
    """The column whose values are the documents."""


@dataclass(frozen=True, kw_only=True)
class KnownHubConfig:
    """The options of the data sets on the Hugging Face Hub that have a name here."""

    revision: str = "main"
    """The version on the Hub: a branch, a tag, or a commit, which alone can never change."""

    column: str | None = None
    """The column whose values are the documents; null for the one that is known to hold the text."""

    folder: Path | None = None
    """Where `tfs datasets download --output` put it; null for the assets."""

    streaming: bool = False
    """Train without keeping the data set: its files pass through one by one, and a few parts of it lie on the disk as
    tokens. Choose it for a set that is larger than your disk, or than what you will train on."""


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """The options of `hub`."""

    path: str
    """The data set on the Hugging Face Hub: `owner/name`."""

    config: str | None = None
    """Which of its configurations (the Hub calls them subsets); null when there is one, or a default."""

    split: str = "train"
    """The split to train on."""

    validation_split: str | None = None
    """The split to validate on; null to hold out a share of the training documents."""

    column: str = "text"
    """The column whose values are the documents."""

    revision: str = "main"
    """The version on the Hub: a branch, a tag, or a commit, which alone can never change."""

    folder: Path | None = None
    """Where `tfs datasets download --output` put it; null for the assets."""

    streaming: bool = False
    """Train without keeping the data set: its files pass through one by one, and a few parts of it lie on the disk as
    tokens. Choose it for a set that is larger than your disk, or than what you will train on."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", self.path):
            raise ValueError(f"path must be the name of a data set on the Hub, owner/name, not {self.path!r}")


@dataclass(frozen=True, kw_only=True)
class MixtureSource:
    """A data set in a mixture."""

    dataset: Choice
    """The data set: a name, or a mapping with its options."""

    weight: Positive = 1.0
    """How often an epoch shows its text: 1 once, 3 three times, 0.5 half of its documents, 2.5 all twice and half of
    them a third time. A share of the whole, s, among texts of sizes n is reached by weights in proportion to s / n."""


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """The options of `mixture`."""

    sources: tuple[MixtureSource, ...]
    """The data sets, each with a weight: `[{dataset: tinystories}, {dataset: {name: text, path: a}, weight: 3}]`."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources must not be empty: name at least one data set")
