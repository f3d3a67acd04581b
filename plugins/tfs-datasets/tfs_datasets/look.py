"""What a batch holds, and what the text is like that batches are made of."""

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfs_core.contracts import Batch, Batching, Tokenizer
from tfs_core.data.batches import Batches
from tfs_core.data.store import TokenSplit
from tfs_datasets.shared_windows import shared_windows

MOST_DOCUMENTS = 1_000_000
"""More are not compared."""


@dataclass(frozen=True)
class Survey:
    """Shares of an epoch, and documents that occur more than once, to the last token."""

    rows: int
    """In an epoch; of a stream, in its beginning."""
    padding_share: float
    """Of the positions that batches have, those that hold no target."""
    truncated_share: float
    """Of the stored tokens, those beyond `max_length`, which no batch holds."""
    compared: int
    """Training documents that were compared."""
    duplicates: int
    """Of them, those that occurred before."""
    validation_compared: int
    overlap: int
    """Validation documents that are among the training documents compared."""
    windows_compared: int
    """Stretches of validation text, of `shared_windows.WINDOW` tokens each, that were looked for in training text."""
    windows_shared: int
    """Of them, those that were found."""


def survey(train: TokenSplit, validation: TokenSplit, batches: Batching, *, batching: str, max_length: int) -> Survey:
    """Return what is lost in an epoch of training, and what occurs more than once; what is not padded is packed."""
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
    """Return the positions of the batches of the first epoch, each as long as its longest row."""
    positions, rows = 0, 0
    for step in range(batches.steps_for_epochs(1)):
        for part in range(batches.rows_per_step // len(batches.row_numbers(0, 0))):
            numbers = batches.row_numbers(step, part)[: batches.rows - rows]
            if len(numbers):
                positions += len(numbers) * int(lengths[numbers].max())
                rows += len(numbers)
    return positions


def _digests(split: TokenSplit) -> NDArray[np.uint64]:
    """Return a hash of each document's tokens, of the first so many documents."""
    documents = min(split.documents, MOST_DOCUMENTS)
    digests = np.empty(documents, dtype=np.uint64)
    offsets = split.offsets[: documents + 1].tolist()
    for document in range(documents):
        content = split.tokens[offsets[document] : offsets[document + 1]].tobytes()
        digests[document] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    return digests


def batch_of(batching: Batching, step: int) -> Batch:
    """Return the first micro-batch of a step; a stream is read from its beginning up to there."""
    with (
        tempfile.TemporaryDirectory() as folder,
        batching.open(Path(folder), step=0, state=None, report=lambda _line: None),
    ):
        for earlier in range(step):  # what a stream keeps of it is deleted to make room for what comes next
            while not batching.ready(earlier):
                pass
        return batching.step(step)[0]


def describe_row(batch: Batch, row: int, tokenizer: Tokenizer, *, positions: int) -> Iterator[str]:
    """Iterate over lines that show a row as the model sees it: what goes in, what is to be predicted."""
    inputs, targets = batch.input_ids[row].tolist(), batch.target_ids[row].tolist()
    valid = [target >= 0 for target in targets]
    begins = [
        position for position, token in enumerate(inputs) if token == tokenizer.end_of_text_id and valid[position]
    ]
    apart = "" if batch.document_ids is None else ", and see none but themselves"
    at = f"documents begin after {', '.join(map(str, begins))}{apart}" if begins else "no document begins in it"
    yield f"row {row}: {len(inputs)} positions, {sum(valid)} targets, {len(inputs) - sum(valid)} masked; {at}"
    for position, (token, target) in enumerate(zip(inputs[:positions], targets, strict=False)):
        predicted = f"{target:>7} {_text(target, tokenizer)}" if target >= 0 else "      - masked"
        yield f"{position:>8} {token:>7} {_text(token, tokenizer):<16} -> {predicted}"
    if len(inputs) > positions:
        yield f"         ... and {len(inputs) - positions} more (--positions)"


def _text(token: int, tokenizer: Tokenizer) -> str:
    """Return a token as Python writes its bytes' text."""
    if token == tokenizer.end_of_text_id:
        return "end of text"
    content = tokenizer.decode_bytes([token])
    try:
        return repr(content.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(content)  # a part of a character
