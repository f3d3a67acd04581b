"""Comparison of tokenizers on the same text: bytes per token, and speed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tfs_core.contracts import Tokenizer
from tfs_core.data.documents import TrainingText
from tfs_core.errors import DataError
from tfs_core.progress import progress
from tfs_core.runs import assets_folder
from tfs_tokenizers import named
from tfs_tokenizers.batches import batches

COMPARED_BYTES = 4_000_000
ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class ComparedTokenizer:
    """Measurements of a tokenizer."""

    name: str
    vocab_size: int
    tokens: int
    bytes_per_token: float
    megabytes_per_second: float
    """Best of `ROUNDS` rounds; the rounds of the tokenizers are interleaved."""

    normalization: str | None
    """The Unicode normal form of decoded text, such as NFC; None for a tokenizer that keeps text as it is."""

    texts: int
    changed_texts: int
    """Number of texts, pieces of long ones counted separately, and of those that decoding does not restore."""

    lossless: bool
    """True if decoding restores all texts."""


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
    tokens, changed_texts = [0] * len(names), [0] * len(names)
    with progress("comparing", total=n_bytes * len(names) * (ROUNDS + 1), unit="B") as advance:
        for i, tokenizer in enumerate(tokenizers):
            for batch in batches(texts):
                for original, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
                    tokens[i] += len(ids)
                    changed_texts[i] += tokenizer.decode(ids) != original  # type: ignore[arg-type]
                    advance(len(original.encode("utf-8")))
        for _ in range(ROUNDS):
            for i, tokenizer in enumerate(tokenizers):
                seconds[i] = min(seconds[i], _seconds(tokenizer, texts))
                advance(n_bytes)
    return [
        ComparedTokenizer(
            name=name,
            vocab_size=tokenizer.vocab_size,
            tokens=tokens[i],
            bytes_per_token=n_bytes / tokens[i],
            megabytes_per_second=n_bytes / 1e6 / seconds[i],
            normalization=getattr(tokenizer, "normalization", None),
            texts=len(texts),
            changed_texts=changed_texts[i],
            lossless=not changed_texts[i],
        )
        for i, (name, tokenizer) in enumerate(zip(names, tokenizers, strict=True))
    ]


def _beginning(text: TrainingText) -> tuple[list[str], int]:
    texts, n_bytes = [], 0
    for piece in text():
        texts.append(piece)
        n_bytes += len(piece.encode("utf-8"))
        if n_bytes >= COMPARED_BYTES:
            break
    return texts, n_bytes


def _seconds(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    started_at = time.perf_counter()
    for batch in batches(texts):
        tokenizer.encode_batch(batch)
    return time.perf_counter() - started_at
