"""A byte-level BPE tokenizer, such as GPT-2's, from its `tokenizer.json`; Hugging Face `tokenizers` does the work.

A text's UTF-8 bytes are joined, pair by pair, into longer and longer ids, in the order in which training found the
pairs most frequent. Nothing is normalized and every byte has an id, so that any text survives.

Sennrich, Haddow & Birch (2016), "Neural machine translation of rare words with subword units",
https://arxiv.org/abs/1508.07909. On bytes: Radford et al. (2019), "Language models are unsupervised multitask
learners", https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tfs_core.errors import DataError
from tfs_tokenizers.tokenizer_json import (
    END_OF_TEXT,
    byte_alphabet,
    read_end_of_text,
    read_tokenizer,
    write_tokenizer,
)
from tfs_tokenizers.unicode_text import as_utf8, check_ids, from_utf8

if TYPE_CHECKING:
    from tfs_tokenizers.fast_encoder import FastEncoder

SUPPORTED = (
    "tfs takes tokenizers that give every text back: byte-level BPE without a normalizer (GPT-2's, Llama 3's, or one "
    "that `tfs tokenizer train` made)."
)

GIVE_IT_ONE = (
    "It has no special token at all: give it one with the `add_special_tokens` of `tokenizers`, and save it again."
)

CHANGE_TEXT = ("continuing_subword_prefix", "end_of_word_suffix")
"""What a model may write into words. It does not come out again."""

KEEP_TEXT = frozenset({"ByteLevel", "Digits", "Punctuation", "Split", "UnicodeScripts"})
"""The steps before encoding that cut text and keep all of it (unless their behavior is to remove what they find)."""

LONGEST_TEXT = 1 << 18
"""In characters. Longer texts are left to `tokenizers`: `fast_encoder` says why."""


FEW_CHARACTERS = 1 << 13
"""So little text is not worth the making of the fast encoder, a tenth of a second for a large vocabulary."""


class ByteLevelTokenizer:
    """The tokenizer that a `tokenizer.json` describes.

    `end_of_text` names the special token that stands between documents. Raises DataError when there is no such token,
    or when the tokenizer is not byte-level and lossless.
    """

    def __init__(self, content: str, *, end_of_text: str = END_OF_TEXT) -> None:
        self._content = content
        try:
            check_lossless(json.loads(content))
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"this is no tokenizer that `tokenizers` can read: it is not built like one ({error!r})"
            ) from error
        try:
            self._tokenizer = Tokenizer.from_str(content)
        except Exception as error:  # `tokenizers` raises nothing narrower
            raise DataError(f"this is no tokenizer that `tokenizers` can read: {error}") from error
        self._tokenizer.encode_special_tokens = True  # a literal <|endoftext|> in a text is text like any other
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.special_tokens = {
            token.content: token_id
            for token_id, token in self._tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        """The ids of the special tokens by name. Text never makes one."""
        if end_of_text not in self.special_tokens:
            there = ", ".join(self.special_tokens)
            ways_out = f"Name another with `end_of_text`. Its special tokens: {there}." if there else GIVE_IT_ONE
            raise DataError(f"the tokenizer has no special token {end_of_text}, to stand between documents. {ways_out}")
        self.end_of_text = end_of_text
        self.end_of_text_id = self.special_tokens[end_of_text]
        self._bytes_of_id = self._spell_out()
        self.vocab_size = len(self._bytes_of_id)

    def _spell_out(self) -> list[bytes]:
        """Return the bytes that each id stands for."""
        byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        added = self._tokenizer.get_added_tokens_decoder()
        spelled = [b""] * (max(vocabulary.values()) + 1)
        for text, token_id in vocabulary.items():
            if token_id not in added:
                try:
                    spelled[token_id] = bytes(byte_of[character] for character in text)
                except KeyError as error:
                    raise DataError(
                        f"the tokenizer is not byte-level: {error} in its vocabulary stands for no byte. {SUPPORTED}"
                    ) from error
            elif not added[token_id].special:
                spelled[token_id] = added[token_id].content.encode("utf-8")  # as written: it is found before the bytes
        if len({text for text in spelled if len(text) == 1}) < 256:
            raise DataError(f"the tokenizer lacks some of the 256 bytes, and loses text that holds them. {SUPPORTED}")
        return spelled

    @cached_property
    def _fast(self) -> "FastEncoder | None":
        from tfs_tokenizers.fast_encoder import fast_encoder

        return fast_encoder(self._content, self._tokenizer, self._bytes_of_id)

    def encode_batch(self, texts: Sequence[str]) -> Sequence[list[int] | NDArray[np.uint32]]:
        """Return the ids of each text. Raises DataError for a lone surrogate."""
        lengths = [len(text) for text in texts]
        try:
            if sum(lengths) > FEW_CHARACTERS and max(lengths) <= LONGEST_TEXT and self._fast is not None:
                return self._fast.encode_batch(texts)
            encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            for text in texts:
                as_utf8(text)  # raises for the one that is no text
            raise
        return [encoding.ids for encoding in encoded]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the bytes that the ids stand for; special ids give none."""
        check_ids(ids, self.vocab_size)
        return b"".join(self._bytes_of_id[token_id] for token_id in ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids; bytes that are no UTF-8 come out as U+FFFD."""
        return from_utf8(self.decode_bytes(ids))

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the bytes that each id stands for, 0 for special ids."""
        return np.array([len(spelled) for spelled in self._bytes_of_id], dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, to the byte as it was, and what is the end of text."""
        write_tokenizer(folder, self._content, end_of_text=self.end_of_text)

    def to_json(self) -> str:
        """Return the content of `tokenizer.json`."""
        return self._content

    def fingerprint(self) -> str:
        """Return a hash of `tokenizer.json` and of what is the end of text."""
        other = "" if self.end_of_text == END_OF_TEXT else self.end_of_text
        return f"byte-level-1-{sha256((self._content + other).encode('utf-8')).hexdigest()[:20]}"


def check_lossless(rules: Mapping[str, Any]) -> None:
    """Raise DataError when a `tokenizer.json` changes text, encodes it at random, or is not byte-level."""
    model = rules["model"]
    if model["type"] != "BPE":
        raise DataError(f"the tokenizer ({model['type']}) is not byte-level BPE. {SUPPORTED}")
    steps = _steps(rules.get("pre_tokenizer"), "pretokenizers")
    byte_level = [step for step in steps if step["type"] == "ByteLevel"]
    changes = [step["type"] for step in _steps(rules.get("normalizer"), "normalizers")]
    changes += [step["type"] for step in steps if step["type"] not in KEEP_TEXT]
    changes += [f"{step['type']} ({step['behavior']})" for step in steps if step.get("behavior") == "Removed"]
    changes += ["ByteLevel with add_prefix_space" for step in byte_level if step.get("add_prefix_space", True)]
    changes += [f"{key} {model[key]!r}" for key in CHANGE_TEXT if model.get(key)]
    changes += [
        f"the added token {token['content']!r}, which takes the blanks around it"
        for token in rules.get("added_tokens") or []
        if not token["special"] and (token["lstrip"] or token["rstrip"])
    ]
    if changes:
        raise DataError(f"the tokenizer does not keep text as it is: {', '.join(changes)}. {SUPPORTED}")
    if not byte_level:
        raise DataError(f"the tokenizer ({model['type']}) is not byte-level BPE. {SUPPORTED}")
    if model.get("dropout"):
        raise DataError(
            f"the tokenizer encodes the same text now so, now so: its model has a dropout of {model['dropout']}. "
            'Set "dropout" to null in the file.'
        )


def _steps(rule: Mapping[str, Any] | None, many: str) -> list[Mapping[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer, of a sequence in a sequence too."""
    if rule is None:
        return []
    return [step for part in rule[many] for step in _steps(part, many)] if rule["type"] == "Sequence" else [rule]


def load(folder: Path) -> ByteLevelTokenizer:
    """Return the tokenizer that was saved in a folder. Raises DataError when none was, or one of another kind."""
    return ByteLevelTokenizer(read_tokenizer(folder), end_of_text=read_end_of_text(folder) or END_OF_TEXT)
