"""Comparison of tokenizers on the same text: bytes per token, and speed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tfs_core.contracts import Tokenizer
from tfs_core.data.documents import TrainingText
from tfs_core.errors import DataError
from tfs_core.runs import assets_folder
from tfs_tokenizers import named

COMPARED_BYTES = 4_000_000
ROUNDS = 3
_BATCH = 128


@dataclass(frozen=True)
class ComparedTokenizer:
    """Measurements of a tokenizer."""

    name: str
    vocab_size: int
    tokens: int
    bytes_per_token: float
    megabytes_per_second: float
    """Best of `ROUNDS` rounds; the rounds of the tokenizers are interleaved."""

    lossless: bool
    """True if decoding restores the text."""


def compare_tokenizers(
    names: Sequence[str],
    *,
    dataset: str = "python-stdlib",
    subset_size: int | None = None,
    assets: str | Path | None = None,
) -> list[ComparedTokenizer]:
    """Return the measurements of each tokenizer on the first `COMPARED_BYTES` bytes (4 MB) of a training text.

    The names are registered names, paths, or YAML with options. Raises TfsErrors when one is not available or
    there is no text.
    """
    root = assets_folder(assets)
    text = TrainingText(named.dataset(dataset, assets=root), subset_size)
    tokenizers = [named.tokenizer(name, assets=root, documents=text) for name in names]
    texts, n_bytes = _beginning(text)
    if not n_bytes:
        raise DataError(f"{dataset}: there is no text to compare on")
    seconds = [float("inf")] * len(names)
    for _ in range(ROUNDS):
        for i, tokenizer in enumerate(tokenizers):
            seconds[i] = min(seconds[i], _seconds(tokenizer, texts))
    compared = []
    for name, tokenizer, best in zip(names, tokenizers, seconds, strict=True):
        encoded = [ids for batch in _batches(texts) for ids in tokenizer.encode_batch(batch)]
        tokens = sum(map(len, encoded))
        lossless = all(tokenizer.decode(ids) == original for ids, original in zip(encoded, texts, strict=True))  # type: ignore[arg-type]
        speed = n_bytes / 1e6 / best
        compared.append(ComparedTokenizer(name, tokenizer.vocab_size, tokens, n_bytes / tokens, speed, lossless))
    return compared


def _beginning(text: TrainingText) -> tuple[list[str], int]:
    texts, n_bytes = [], 0
    for piece in text():
        texts.append(piece)
        n_bytes += len(piece.encode("utf-8"))
        if n_bytes >= COMPARED_BYTES:
            break
    return texts, n_bytes


def _batches(texts: Sequence[str]) -> list[list[str]]:
    remaining = iter(texts)
    return list(iter(lambda: list(islice(remaining, _BATCH)), []))


def _seconds(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    started_at = time.perf_counter()
    for batch in _batches(texts):
        tokenizer.encode_batch(batch)
    return time.perf_counter() - started_at
