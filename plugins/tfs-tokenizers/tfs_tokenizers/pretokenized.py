"""Encoding of a data set ahead of training, into the token store that a run with the same data and tokenizer uses."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfs_core.data.documents import TrainingText
from tfs_core.data.prepare import prepare_tokens
from tfs_core.data.store import SPLITS, TokenSplit, TokenStore, open_store
from tfs_core.errors import DataError, UsageError
from tfs_core.runs import assets_folder
from tfs_core.terminal import counted
from tfs_tokenizers import named

LONGEST_ROW = 1 << 31
"""Maximum length of a row, so that the padding of a data set can be counted in 64 bits."""


@dataclass(frozen=True)
class LengthReport:
    """Truncation and padding of a split in rows of `max_length` tokens."""

    split: str
    max_length: int
    documents: int
    tokens: int
    bytes_per_token: float
    truncated_documents: int
    """Number of documents longer than a row, with `batching: padded` (a row per document)."""

    truncated_tokens: int
    """Number of tokens that are cut off from the truncated documents."""

    padding_tokens: int
    """Padding when all rows are `max_length` long: an upper bound, since batches are padded to their longest row."""

    packed_padding_tokens: int
    """Padding of the last row with `batching: packed`, which truncates nothing."""

    def summary(self) -> str:
        """Return the report as lines of text."""
        kept = self.tokens - self.truncated_tokens
        share = self.truncated_documents / self.documents
        cut = f"{counted(self.truncated_documents, 'document')} truncated ({share:.1%})"
        packed_padding = counted(self.packed_padding_tokens, "token")
        return "\n".join(
            [
                f"{self.split}: {counted(self.documents, 'document')}, {counted(self.tokens, 'token')}, "
                f"{self.bytes_per_token:.2f} bytes a token; in rows of {self.max_length}:",
                f"  batching: padded   {cut}, {self.truncated_tokens / self.tokens:.1%} of the tokens lost, "
                f"padding at most {self.padding_tokens / (kept + self.padding_tokens):.1%} of the rows",
                f"  batching: packed   nothing lost, {packed_padding} of padding in the last row",
            ]
        )


class Pretokenized(NamedTuple):
    """The result of `pretokenize_dataset`. It can be used as the path of its folder."""

    folder: Path
    """The folder of the token store."""

    reports: Sequence[LengthReport]
    """A report for each split."""

    def __fspath__(self) -> str:
        """Return the path of the folder."""
        return str(self.folder)


def pretokenize_dataset(
    name: str,
    tokenizer_path: str | Path,
    max_length: int = 1024,
    *,
    num_proc: int | None = None,
    subset_size: int | None = None,
    val_subset_size: int | None = None,
    validation_fraction: float = 0.01,
    assets: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Pretokenized:
    """Write the token store of a data set, unless it exists, and return its folder and a report for each split.

    The store holds whole documents; `max_length` affects only the reports. `tokenizer_path` is a path, a registered
    name, or YAML. A run with the same data set, tokenizer and subset uses the store. Raises TfsErrors.
    """
    if not 1 <= max_length <= LONGEST_ROW:
        raise UsageError(f"max_length must be 1 to {LONGEST_ROW}, not {max_length}")
    root = assets_folder(assets)
    source = named.dataset(name, assets=root)
    text = TrainingText(source, subset_size, validation_fraction)
    tokenizer = named.tokenizer(str(tokenizer_path), assets=root, documents=text)
    prepared = prepare_tokens(
        source,
        tokenizer,
        assets=root,
        subset_size=subset_size,
        val_subset_size=val_subset_size,
        validation_fraction=validation_fraction,
        threads=num_proc,
        progress=progress,
    )
    return Pretokenized(prepared.folder, length_reports(prepared, max_length))


def length_reports(prepared: TokenStore, max_length: int) -> list[LengthReport]:
    """Return the report of each split of a store."""
    return [
        _length_report("train", prepared.train, max_length),
        _length_report("validation", prepared.validation, max_length),
    ]


def _length_report(name: str, split: TokenSplit, max_length: int) -> LengthReport:
    lengths = np.diff(split.offsets)
    over = lengths[lengths > max_length] - max_length
    return LengthReport(
        split=name,
        max_length=max_length,
        documents=split.documents,
        tokens=split.n_tokens,
        bytes_per_token=split.n_bytes / split.n_tokens,
        truncated_documents=len(over),
        truncated_tokens=int(over.sum()),
        padding_tokens=int(np.maximum(max_length - lengths, 0).sum()),
        packed_padding_tokens=-split.n_tokens % max_length,
    )


def load_pretokenized(path: str | os.PathLike[str], split: str = "train") -> TokenSplit:
    """Return a memory-mapped split of a token store. Raises DataError when the store or the split does not exist."""
    store = open_store(Path(path), identity={})
    if store is None:
        raise DataError(
            f"{os.fspath(path)}: there is no token store, or it is damaged. `tfs tokenizer pretokenize` writes one."
        )
    if split not in SPLITS:
        raise DataError(f"{os.fspath(path)}: there is no split '{split}'. Splits: {', '.join(SPLITS)}.")
    found: TokenSplit = getattr(store, split)
    return found
