"""Batches of texts for `Tokenizer.encode_batch`, small enough that Ctrl-C is obeyed between two of them."""

from collections.abc import Iterable, Iterator

BATCH_CHARACTERS = 1 << 19
BATCH_TEXTS = 1 << 8
"""A batch ends with the text that reaches one of these numbers."""


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Iterate over the texts in batches."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS or len(batch) == BATCH_TEXTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
