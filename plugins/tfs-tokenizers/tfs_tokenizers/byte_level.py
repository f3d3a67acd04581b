"""Byte-level BPE tokenizers, such as GPT-2's, read from a `tokenizer.json`. tiktoken or `tokenizers` encodes the text.

The UTF-8 bytes of a text are merged pair by pair into longer tokens. Merges are applied in the order in which training
found them. Every byte has an id, so encoding is lossless. A tokenizer may have one normalizer, the Unicode normal form
NFC, as Qwen's has: then text that is not in this form (an e followed by a combining accent) comes back in it (é).

Sennrich, Haddow & Birch (2016), "Neural machine translation of rare words with subword units",
https://arxiv.org/abs/1508.07909. On bytes: Radford et al. (2019), "Language models are unsupervised multitask
learners", https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf
"""

import json
import logging
import threading
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tfs_core.errors import DataError
from tfs_tokenizers.config import END_OF_TEXT, LARGEST_VOCABULARY
from tfs_tokenizers.tokenizer_json import (
    FILE_NAME,
    byte_alphabet,
    errors_name,
    read_end_of_text,
    read_tokenizer,
    write_tokenizer,
)
from tfs_tokenizers.unicode_text import as_utf8, check_ids, from_utf8

if TYPE_CHECKING:
    from tfs_tokenizers.fast_encoder import FastEncoder

log = logging.getLogger(__name__)

SUPPORTED = (
    "tfs supports lossless tokenizers: byte-level BPE without a normalizer but NFC (GPT-2's, Llama 3's, Qwen's, or one "
    "made by `tfs tokenizer train`)."
)

NO_SPECIAL_TOKENS = (
    "It has no special tokens: add one with the method `add_special_tokens` of `tokenizers`, and save it again."
)

CHANGE_TEXT = ("continuing_subword_prefix", "end_of_word_suffix")
"""Settings in a `tokenizer.json` that add text to words. Decoding does not remove the added text."""

KEEP_TEXT = frozenset({"ByteLevel", "Digits", "Punctuation", "Split", "UnicodeScripts"})
"""Pre-tokenizers that split text without changing it (unless their `behavior` is "Removed")."""

LONGEST_TEXT = 1 << 18
"""In characters. Longer texts are encoded by `tokenizers`; see `fast_encoder` for the reason."""

FEW_CHARACTERS = 1 << 13
"""In characters. Building the fast encoder (0.1 seconds for a large vocabulary) does not pay off for less text."""


@contextmanager
def panics_as_data_error() -> Iterator[None]:
    """Convert a panic of `tokenizers`, such as for a regular expression that backtracks too long, to a DataError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # it cannot be imported, and is no Exception
            raise
        raise DataError(f"`tokenizers` fails on the rules of this tokenizer: {error}. Choose another one.") from error


class ByteLevelTokenizer:
    """The tokenizer of a `tokenizer.json`.

    `end_of_text` names the special token between documents. Raises DataError when there is no such token, or the
    tokenizer is not byte-level or not lossless.
    """

    def __init__(self, content: str, *, end_of_text: str = END_OF_TEXT) -> None:
        self._content = content
        try:
            rules = json.loads(content)
            check_lossless(rules)
            self.normalization = "NFC" if _steps(rules.get("normalizer"), "normalizers") else None
            """The Unicode normal form of decoded text; None for text that comes back unchanged."""
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise DataError(
                f"this is not a tokenizer that `tokenizers` can read: its structure is invalid ({error!r})"
            ) from error
        try:
            with panics_as_data_error():
                self._tokenizer = Tokenizer.from_str(content)
        except DataError:
            raise
        except Exception as error:  # `tokenizers` raises no narrower exception
            raise DataError(f"this is not a tokenizer that `tokenizers` can read: {error}") from error
        self._tokenizer.encode_special_tokens = True  # a literal <|endoftext|> in a text is text like any other
        self._tokenizer.post_processor = None  # its template may repeat or drop the text, even without special tokens
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.special_tokens = {
            token.content: token_id
            for token_id, token in self._tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        """Ids of the special tokens by name. No text is encoded to one of them."""
        if end_of_text not in self.special_tokens:
            names = ", ".join(self.special_tokens)
            advice = f"Name another with `end_of_text`. Its special tokens: {names}." if names else NO_SPECIAL_TOKENS
            raise DataError(f"the tokenizer has no special token {end_of_text} to separate documents. {advice}")
        self.end_of_text = end_of_text
        self.end_of_text_id = self.special_tokens[end_of_text]
        self._bytes_of_id = self._token_bytes()
        self.vocab_size = len(self._bytes_of_id)
        self._has_warned = threading.Lock()  # locked once the warning of changed text was given

    def _token_bytes(self) -> list[bytes]:
        """Return the bytes of each id, empty for special tokens. Raises DataError unless the BPE is byte-level."""
        byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        added = self._tokenizer.get_added_tokens_decoder()
        largest = max(vocabulary.values())
        if largest >= LARGEST_VOCABULARY:
            raise DataError(
                f"the tokenizer has the id {largest}, and ids must be below {LARGEST_VOCABULARY}: memory grows with "
                "the largest id"
            )
        token_bytes = [b""] * (largest + 1)
        for text, token_id in vocabulary.items():
            if token_id not in added:
                try:
                    token_bytes[token_id] = bytes(byte_of[character] for character in text)
                except KeyError as error:
                    raise DataError(
                        f"the tokenizer is not byte-level: {error} in its vocabulary represents no byte. {SUPPORTED}"
                    ) from error
            elif not added[token_id].special:
                # Written literally, not in the byte alphabet: such a token is matched before text becomes bytes
                token_bytes[token_id] = added[token_id].content.encode("utf-8")
        if len({text for text in token_bytes if len(text) == 1}) < 256:
            raise DataError(f"the tokenizer lacks some of the 256 bytes, and loses text that has them. {SUPPORTED}")
        if len({*vocabulary.values()}) < len(vocabulary):
            raise DataError(
                "several tokens of the tokenizer have the same id, and the text of all but one would be lost"
            )
        for token_id, token in added.items():
            if any(character not in byte_of for character in token.content):
                continue  # no text is written like this in the byte alphabet
            spelled = bytes(byte_of[character] for character in token.content)
            made = [part.id for part in self._tokenizer.model.tokenize(token.content)]
            if made == [token_id] and token_bytes[token_id] != spelled:
                raise DataError(
                    f"the added token {token.content!r} also stands for the text {spelled!r}, which would be "
                    "lost. Give the added token another name."
                )
        return token_bytes

    @cached_property
    def _fast(self) -> "FastEncoder | None":
        from tfs_tokenizers.fast_encoder import fast_encoder

        return fast_encoder(self._content, self._tokenizer, self._bytes_of_id)

    def encode_batch(self, texts: Sequence[str]) -> Sequence[list[int] | NDArray[np.uint32]]:
        """Return the ids of each text, a list or uint32 [n_tokens]. Raises DataError for a lone surrogate.

        Logs a warning at the first text that `normalization` changes.
        """
        if self.normalization is not None:
            self._warn_of_change(texts)
        lengths = [len(text) for text in texts]
        try:
            if sum(lengths) > FEW_CHARACTERS and max(lengths) <= LONGEST_TEXT and self._fast is not None:
                return self._fast.encode_batch(texts)
            with panics_as_data_error():
                encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            for text in texts:
                as_utf8(text)  # raises DataError for the text with a lone surrogate
            raise
        return [encoding.ids for encoding in encoded]

    def _warn_of_change(self, texts: Sequence[str]) -> None:
        if self._has_warned.locked():
            return
        for text in texts:
            if not unicodedata.is_normalized("NFC", text) and self._has_warned.acquire(blocking=False):
                normalized = unicodedata.normalize("NFC", text)
                at = next((i for i, (old, new) in enumerate(zip(text, normalized, strict=False)) if old != new), 0)
                log.warning(
                    "the tokenizer changes text to the Unicode normal form NFC, in which characters are composed: %a "
                    "comes back as %a, for example. Bits per byte count the bytes of the composed text.",
                    text[at : at + 2],
                    unicodedata.normalize("NFC", text[at : at + 2]),
                )

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of the ids; special ids have none."""
        check_ids(ids, self.vocab_size)
        return b"".join(self._bytes_of_id[token_id] for token_id in ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids. Invalid UTF-8 is decoded as U+FFFD."""
        return from_utf8(self.decode_bytes(ids))

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the number of bytes of each id, 0 for special ids: int64 [vocab_size].

        With a `normalization`, these are bytes of the normalized text, which the model predicts. Bits per byte are then
        comparable with those of tokenizers that keep text, as long as the text is in the normal form: a decomposed text
        has more bytes than its normalized form.
        """
        return np.array([len(token_bytes) for token_bytes in self._bytes_of_id], dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Write the unchanged `tokenizer.json`, and a `tokenizer_config.json` with the end of text."""
        write_tokenizer(folder, self._content, end_of_text=self.end_of_text)

    def to_json(self) -> str:
        """Return the content of `tokenizer.json`."""
        return self._content

    def fingerprint(self) -> str:
        """Return a hash of `tokenizer.json` and the end of text."""
        other = "" if self.end_of_text == END_OF_TEXT else self.end_of_text
        return f"byte-level-1-{sha256((self._content + other).encode('utf-8')).hexdigest()[:20]}"


def check_lossless(rules: Mapping[str, Any]) -> None:
    """Raise DataError when a `tokenizer.json` changes text otherwise than to NFC, encodes it randomly, or is not
    byte-level.
    """
    model = rules["model"]
    if model["type"] != "BPE":
        raise DataError(f"the tokenizer ({model['type']}) is not byte-level BPE. {SUPPORTED}")
    steps = _steps(rules.get("pre_tokenizer"), "pretokenizers")
    byte_level = [step for step in steps if step["type"] == "ByteLevel"]
    normalizers = [step["type"] for step in _steps(rules.get("normalizer"), "normalizers")]
    changes = [name for name in normalizers if name != "NFC"]
    changes += [step["type"] for step in steps if step["type"] not in KEEP_TEXT]
    changes += [f"{step['type']} ({step['behavior']})" for step in steps if step.get("behavior") == "Removed"]
    changes += ["ByteLevel with add_prefix_space" for step in byte_level if step.get("add_prefix_space", True)]
    changes += [f"{key} {model[key]!r}" for key in CHANGE_TEXT if model.get(key)]
    changes += [
        f"the added token {token['content']!r}, which removes whitespace around it"
        for token in rules.get("added_tokens") or []
        if not token["special"] and (token["lstrip"] or token["rstrip"])
    ]
    changes += [
        f"the added token {token['content']!r}, which is not in the normal form NFC"
        for token in rules.get("added_tokens") or []
        if normalizers and not unicodedata.is_normalized("NFC", token["content"])
    ]
    if changes:
        raise DataError(f"the tokenizer changes text: {', '.join(changes)}. {SUPPORTED}")
    if len(byte_level) > 1:
        raise DataError("the tokenizer has several ByteLevel steps, and decoding undoes only one of them")
    if not byte_level:
        raise DataError(f"the tokenizer ({model['type']}) is not byte-level BPE. {SUPPORTED}")
    if model.get("dropout"):
        raise DataError(
            f"the tokenizer encodes text randomly: its model has a dropout of {model['dropout']}. "
            'Set "dropout" to null in the file.'
        )


def _steps(rule: Mapping[str, Any] | None, many: str) -> list[Mapping[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer, with nested sequences flattened."""
    if rule is None:
        return []
    return [step for part in rule[many] for step in _steps(part, many)] if rule["type"] == "Sequence" else [rule]


def load(folder: Path) -> ByteLevelTokenizer:
    """Return the tokenizer saved in a folder. Raises DataError when there is none, or one of another kind."""
    content = read_tokenizer(folder)
    with errors_name(folder / FILE_NAME):
        return ByteLevelTokenizer(content, end_of_text=read_end_of_text(folder) or END_OF_TEXT)
