r"""Fast encoding of byte-level BPE: tiktoken's encoder with the vocabulary of a `tokenizer.json`, several times faster.

Both libraries split text into words by GPT-2's rule and merge the bytes of a word pair by pair. They choose the next
pair differently. `tokenizers` merges pairs that are in its list of merges, earlier merges first. tiktoken merges any
two neighbors whose concatenation is a token, lower ids first, and looks up a word that is itself a token directly. The
resulting ids are equal if

    1. ids increase in the order of the merges, with one merge per token, and
    2. `tokenizers` encodes the bytes of each token as that token.

Proof. Let x, y be two neighbors in a word, at any step of `tokenizers`, whose concatenation is a token t. No merge
so far has crossed the boundaries of this pair. The merges inside it are therefore the same, in the same order, as when
the bytes of t are encoded alone. Encoded alone, they become t (2), by its only merge l, r (1); so the last two parts
are l and r, and x = l, y = r. Hence the pair x, y is in the list of merges: both libraries always have the same
candidate pairs, and choose the same one (1). A token that fails (2) is never produced by `tokenizers`, and is not given
to tiktoken. Files with other features fail the checks below and are encoded by `tokenizers`.

The rule for words is exactly GPT-2's. The alternatives without lookahead are in one group for speed: the regex engine
compiles the group to one automaton. In a run of whitespace the engine stores a backtracking position for every
character and fails after a million of them, so texts above `byte_level.LONGEST_TEXT` are not encoded here.
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
"""Special token between the texts of a batch, which are encoded in one call.

If a text contains the separator, each text is encoded by its own call, where the separator is ordinary text. No proper
prefix of the separator is also its suffix, so the end of a text and the separator cannot form another separator."""


class FastEncoder:
    """Encoder with the same ids as the `tokenizers.Tokenizer` with the same vocabulary. Thread-safe."""

    def __init__(self, bytes_of_id: Mapping[int, bytes]) -> None:
        self._separator_id = max(bytes_of_id) + 1
        self._id_of_bytes = {token_bytes: token_id for token_id, token_bytes in bytes_of_id.items()}
        self._of_thread = threading.local()

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Return the ids of each text: uint32 [tokens]. Raises UnicodeEncodeError for a lone surrogate.

        The texts are encoded in one call, which releases Python's global interpreter lock (GIL).
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
        """Return the encoder of this thread. A shared encoder is slower: threads contend for its regular expression."""
        if not hasattr(self._of_thread, "encoder"):
            self._of_thread.encoder = CoreBPE(self._id_of_bytes, {SEPARATOR: self._separator_id}, WORDS)
        encoder: CoreBPE = self._of_thread.encoder
        return encoder


def fast_encoder(content: str, tokenizer: Tokenizer, bytes_of_id: Sequence[bytes]) -> FastEncoder | None:
    """Return the encoder for a tokenizer; `content` is its `tokenizer.json`.

    Returns None when text is not split by GPT-2's rule or is changed in any other way, or when condition 1 of the
    module docstring does not hold.
    """
    rules = json.loads(content)
    if not _splits_like_gpt2(rules) or not _ids_follow_merges(rules["model"]):
        return None
    vocabulary = rules["model"]["vocab"]
    ids_of_bytes = [token_id for token_id in vocabulary.values() if len(bytes_of_id[token_id]) == 1]
    merged = {text: token_id for text, token_id in vocabulary.items() if len(bytes_of_id[token_id]) > 1}
    reachable = [
        token_id
        for text, token_id in merged.items()
        if [token.id for token in tokenizer.model.tokenize(text)] == [token_id]
    ]
    return FastEncoder({token_id: bytes_of_id[token_id] for token_id in [*ids_of_bytes, *reachable]})


def _splits_like_gpt2(rules: Mapping[str, Any]) -> bool:
    """Return whether text is split by GPT-2's rule and not changed in any other way."""
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


def _ids_follow_merges(model: Mapping[str, Any]) -> bool:
    """Return whether ids increase in the order of the merges, with one merge per token (condition 1)."""
    vocabulary = model["vocab"]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    ids = [vocabulary["".join(pair)] for pair in pairs]
    return all(first < second for first, second in pairwise(ids))
