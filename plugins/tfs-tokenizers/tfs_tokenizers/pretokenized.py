"""A data set encoded ahead of training: the token store that a run with the same data and tokenizer then finds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfs_core.data.documents import TrainingText
from tfs_core.data.prepare import prepare_tokens
from tfs_core.data.store import SPLITS, TokenSplit, TokenStore, open_store
from tfs_core.errors import DataError
from tfs_core.runs import assets_folder
from tfs_tokenizers import named


@dataclass(frozen=True)
class LengthReport:
    """What becomes of a split when its rows are so long."""

    split: str
    max_length: int
    documents: int
    tokens: int
    bytes_per_token: float
    truncated_documents: int
    """Documents longer than a row, when a row is a document (`batching: padded`)."""

    truncated_tokens: int
    """The tokens of theirs that are cut off."""

    padding_tokens: int
    """What fills the rows up, when all are `max_length` long; padding to the longest of a batch is less."""

    packed_padding_tokens: int
    """The same with `batching: packed`, which cuts nothing off: what fills the last row."""

    def summary(self) -> str:
        """Return the report as lines of text."""
        kept = self.tokens - self.truncated_tokens
        lost = f"{self.truncated_documents:,} documents cut ({self.truncated_documents / self.documents:.1%})"
        return "\n".join(
            [
                f"{self.split}: {self.documents:,} documents, {self.tokens:,} tokens, "
                f"{self.bytes_per_token:.2f} bytes a token; in rows of {self.max_length}:",
                f"  batching: padded   {lost}, {self.truncated_tokens / self.tokens:.1%} of the tokens lost, "
                f"padding at most {self.padding_tokens / (kept + self.padding_tokens):.1%} of the rows",
                f"  batching: packed   nothing lost, {self.packed_padding_tokens:,} tokens of padding in the last row",
            ]
        )


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
) -> tuple[Path, list[LengthReport]]:
    """Write a data set's token store, unless it is there, and return its folder and what `max_length` means for it.

    The store holds whole documents: `max_length` decides nothing but the report. `tokenizer_path` is a path, a
    registered name, or YAML. A run with the same data set, tokenizer and subset finds the store. Raises TfsErrors.
    """
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
    return prepared.folder, length_reports(prepared, max_length)


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


def load_pretokenized(path: str | Path, split: str = "train") -> TokenSplit:
    """Return a split of a store's folder, memory-mapped. Raises DataError when there is no whole store, or no split."""
    store = open_store(Path(path), identity={})
    if store is None:
        raise DataError(f"{path}: there is no token store, or it is damaged. `tfs tokenizer pretokenize` writes one.")
    if split not in SPLITS:
        raise DataError(f"{path}: there is no split '{split}'. There are: {', '.join(SPLITS)}.")
    found: TokenSplit = getattr(store, split)
    return found
