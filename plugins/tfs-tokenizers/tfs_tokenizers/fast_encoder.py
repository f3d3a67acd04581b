r"""The ids of a byte-level BPE, several times faster: tiktoken's encoder, given the vocabulary of a `tokenizer.json`.

Both split text into words by GPT-2's rule and join the bytes of a word pair by pair. But `tokenizers` joins the pairs
that it has a merge for, earlier merges first; tiktoken joins any two neighbors that spell a token, lower ids first,
and takes a word that is a token at once. The ids are the same when

    1. ids grow in the order of the merges, one merge to a token, and
    2. `tokenizers` encodes the bytes of each token as that token.

Why: take two neighbors x, y that spell a token t, in any word, and say that `tokenizers` has come so far. Nothing was
joined across the ends of x y, so what was joined inside went as it goes when the bytes of t stand alone: the same
merges, in the same order. Alone they end as t (2), by its only merge l, r (1): the last two parts are l and r, and so
x, y are l, r. The two encoders therefore always have the same pairs to choose from, and choose alike (1). A token that
fails 2 is never made at all: tiktoken does not get it. What else a `tokenizer.json` may ask for is refused here, and
then encoded by `tokenizers`.

The rule for words is GPT-2's to the letter; the group around what needs no look ahead is for speed (the regular
expression engine turns it into one automaton). Of a run of blanks the engine remembers every place, and gives up after
a million of them: texts must not be longer.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiktoken._tiktoken import CoreBPE  # type: ignore[import-untyped]
from tokenizers import Tokenizer

WORDS = r"(?:'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)|\s+(?!\S)|\s+"

SEPARATOR = "\x00<|tfs: the next text|>"
"""Stands between texts that are encoded in one go. When a text holds it, each is encoded by itself: there it is text.

It does not begin with what it ends with, so that the end of a text and the separator do not make another of it."""


class FastEncoder:
    """Encodes texts as the `tokenizers.Tokenizer` does from whose vocabulary it was made."""

    def __init__(self, bytes_of_id: Mapping[int, bytes]) -> None:
        self._separator_id = max(bytes_of_id) + 1
        self._id_of_bytes = {spelled: token_id for token_id, spelled in bytes_of_id.items()}
        self._of_thread = threading.local()

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Return the ids of each text. Raises UnicodeEncodeError for a lone surrogate.

        The texts are encoded in one go, and nothing of Python is needed meanwhile: other threads run.
        """
        joined = SEPARATOR.join(texts)
        if joined.count(SEPARATOR) != len(texts) - 1:
            return [self._ids(text, separated=False) for text in texts]
        ids = self._ids(joined, separated=True)
        ends = np.flatnonzero(ids == self._separator_id).tolist()
        return [ids[start:end] for start, end in zip([0, *(end + 1 for end in ends)], [*ends, len(ids)], strict=True)]

    def _ids(self, text: str, *, separated: bool) -> NDArray[np.uint32]:
        special = {SEPARATOR} if separated else set()
        return np.frombuffer(self._encoder().encode_to_tiktoken_buffer(text, special), dtype=np.uint32)

    def _encoder(self) -> CoreBPE:
        """Return this thread's encoder: threads that share one wait for each other at its regular expression."""
        if not hasattr(self._of_thread, "encoder"):
            self._of_thread.encoder = CoreBPE(self._id_of_bytes, {SEPARATOR: self._separator_id}, WORDS)
        encoder: CoreBPE = self._of_thread.encoder
        return encoder


def fast_encoder(content: str, tokenizer: Tokenizer, bytes_of_id: Sequence[bytes]) -> FastEncoder | None:
    """Return the encoder for the `tokenizer.json` that `tokenizer` was read from; None when its rules do not fit."""
    rules = json.loads(content)
    if not _rules_fit(rules) or not _merges_fit(rules["model"]):
        return None
    vocabulary = rules["model"]["vocab"]
    ids_of_bytes = [token_id for token_id in vocabulary.values() if len(bytes_of_id[token_id]) == 1]
    joined = {text: token_id for text, token_id in vocabulary.items() if len(bytes_of_id[token_id]) > 1}
    reached = [
        token_id
        for text, token_id in joined.items()
        if [token.id for token in tokenizer.model.tokenize(text)] == [token_id]
    ]
    return FastEncoder({token_id: bytes_of_id[token_id] for token_id in [*ids_of_bytes, *reached]})


def _rules_fit(rules: Mapping[str, Any]) -> bool:
    """Return whether the text is split as GPT-2 does and nothing else is done to it."""
    model, words = rules["model"], rules.get("pre_tokenizer") or {}
    return (
        model.get("type") == "BPE"
        and not any(model.get(key) for key in ("byte_fallback", "ignore_merges"))
        and rules.get("normalizer") is None
        and words.get("type") == "ByteLevel"
        and not words.get("add_prefix_space", True)
        and bool(words.get("use_regex", True))
        and all(token["special"] for token in rules.get("added_tokens") or [])
    )


def _merges_fit(model: Mapping[str, Any]) -> bool:
    """Return whether ids grow in the order of the merges, one merge to a token."""
    vocabulary = model["vocab"]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    ids = [vocabulary["".join(pair)] for pair in pairs]
    return all(first < second for first, second in pairwise(ids))
