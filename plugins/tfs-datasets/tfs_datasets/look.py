"""Inspection of batches, and statistics of the data set: padding, truncation, duplicates, overlap."""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfs_core.contracts import Batch, Batching, Tokenizer
from tfs_core.data.batches import Batches
from tfs_core.data.store import TokenSplit
from tfs_core.terminal import counted
from tfs_datasets.shared_windows import shared_windows

MOST_DOCUMENTS = 1_000_000
"""Maximum number of documents to compare, from the beginning of each split."""


@dataclass(frozen=True)
class Survey:
    """Padding and truncation of an epoch, and repeated text. Equal documents have the same tokens."""

    rows: int
    """Rows in an epoch; for a stream, rows in its stored beginning."""
    padding_share: float
    """Share of batch positions without a target."""
    truncated_share: float
    """Share of the stored tokens that are cut off at `max_length` and are in no batch."""
    compared: int
    """Number of training documents compared."""
    duplicates: int
    """Number of compared training documents that are equal to an earlier one."""
    validation_compared: int
    overlap: int
    """Number of validation documents that are equal to a compared training document."""
    windows_compared: int
    """Number of windows of `shared_windows.WINDOW` validation tokens that were searched for in the training text."""
    windows_shared: int
    """Number of these windows that were found in the training text."""


def survey(train: TokenSplit, validation: TokenSplit, batches: Batching, *, batching: str, max_length: int) -> Survey:
    """Return the statistics of an epoch of training. `batching` is "padded"; any other value means packed."""
    if batching == "padded":
        assert isinstance(batches, Batches)
        rows, lengths = batches.rows, np.minimum(np.diff(train.offsets), max_length)
        targets, positions = int(lengths.sum()), _padded_positions(batches, lengths)
    else:
        rows = -(-train.n_tokens // max_length)
        targets, positions = train.n_tokens, rows * max_length
    seen, of_validation = _digests(train), _digests(validation)
    windows_shared, windows_compared = shared_windows(train, validation)
    return Survey(
        rows=rows,
        padding_share=1 - targets / positions,
        truncated_share=1 - targets / train.n_tokens,
        compared=len(seen),
        duplicates=len(seen) - len(np.unique(seen)),
        validation_compared=len(of_validation),
        overlap=int(np.isin(of_validation, seen).sum()),
        windows_compared=windows_compared,
        windows_shared=windows_shared,
    )


def _padded_positions(batches: Batches, lengths: NDArray[np.int64]) -> int:
    """Return the number of positions in the batches of the first epoch. Each batch is padded to its longest row."""
    positions, rows = 0, 0
    for step in range(batches.steps_for_epochs(1)):
        for part in range(batches.rows_per_step // len(batches.row_numbers(0, 0))):
            numbers = batches.row_numbers(step, part)[: batches.rows - rows]
            if len(numbers):
                positions += len(numbers) * int(lengths[numbers].max())
                rows += len(numbers)
    return positions


def _digests(split: TokenSplit) -> NDArray[np.uint64]:
    """Return a hash of the tokens of each of the first `MOST_DOCUMENTS` documents: uint64 [documents]."""
    documents = min(split.documents, MOST_DOCUMENTS)
    digests = np.empty(documents, dtype=np.uint64)
    offsets = split.offsets[: documents + 1].tolist()
    for document in range(documents):
        content = split.tokens[offsets[document] : offsets[document + 1]].tobytes()
        digests[document] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    return digests


def batch_of(batching: Batching, step: int, *, state: Mapping[str, Any] | None = None) -> Batch:
    """Return the first micro-batch of a step. A stream is read from its beginning up to that step.

    `state` is the content of the state.json of the run's newest checkpoint, None without a run or for a stream.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        batching.open(Path(folder), step=0, state=state, report=lambda _line: None),
    ):
        for earlier in range(step):  # a stream writes its shards in order, and deletes them in order
            while not batching.ready(earlier):
                pass
        return batching.step(step)[0]


def describe_row(batch: Batch, row: int, tokenizer: Tokenizer, *, positions: int) -> Iterator[str]:
    """Iterate over lines that show a row as the model sees it: input and target tokens."""
    inputs, targets = batch.input_ids[row].tolist(), batch.target_ids[row].tolist()
    valid = [target >= 0 for target in targets]
    begins = [
        position for position, token in enumerate(inputs) if token == tokenizer.end_of_text_id and valid[position]
    ]
    apart = "" if batch.document_ids is None else ", and attend only to themselves"
    at = f"documents begin after {', '.join(map(str, begins))}{apart}" if begins else "no document begins in it"
    counts = f"{counted(len(inputs), 'position')}, {counted(sum(valid), 'target')}"
    yield f"row {row}: {counts}, {len(inputs) - sum(valid)} masked; {at}"
    for position, (token, target) in enumerate(zip(inputs[:positions], targets, strict=False)):
        predicted = f"{target:>7} {_text(target, tokenizer)}" if target >= 0 else "      - masked"
        yield f"{position:>8} {token:>7} {_text(token, tokenizer):<16} -> {predicted}"
    if len(inputs) > positions:
        yield f"         ... and {len(inputs) - positions} more (--positions)"


def _text(token: int, tokenizer: Tokenizer) -> str:
    """Return the text of a token as a Python literal."""
    if token == tokenizer.end_of_text_id:
        return "end of text"
    content = tokenizer.decode_bytes([token])
    try:
        return repr(content.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(content)  # an incomplete character
