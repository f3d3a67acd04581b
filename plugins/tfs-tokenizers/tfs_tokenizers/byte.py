"""The tokenizer `byte`: the ids are the 256 values of UTF-8 bytes, and end of text. The simplest lossless tokenizer.

A text has as many tokens as bytes: two to four times as many as with a trained `bpe`. A context of the same length
therefore holds two to four times less text.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfs_tokenizers.tokenizer_json import (
    FILE_NAME,
    byte_alphabet,
    check_same,
    errors_name,
    read_tokenizer,
    tokenizer_json,
    write_tokenizer,
)
from tfs_tokenizers.unicode_text import as_utf8, check_ids, from_utf8


class ByteTokenizer:
    """Ids 0 to 255 are the bytes; 256 is end of text."""

    vocab_size = 257
    end_of_text_id = 256

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint8]]:
        """Return the bytes of each text: uint8 [bytes]. Raises DataError for a lone surrogate."""
        return [np.frombuffer(as_utf8(text), dtype=np.uint8) for text in texts]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of the ids; end of text has none."""
        check_ids(ids, self.vocab_size)
        return bytes(token_id for token_id in ids if token_id != self.end_of_text_id)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids. Invalid UTF-8 is decoded as U+FFFD."""
        return from_utf8(self.decode_bytes(ids))

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return 1 for each byte and 0 for end of text: int64 [vocab_size]."""
        return np.array([1] * 256 + [0], dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`."""
        write_tokenizer(folder, self.to_json())

    def to_json(self) -> str:
        """Return the content of `tokenizer.json`."""
        return tokenizer_json(
            vocabulary={character: byte for byte, character in enumerate(byte_alphabet())},
            end_of_text_id=self.end_of_text_id,
            pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            decoder={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        )

    def fingerprint(self) -> str:
        """Return the same fingerprint for all byte tokenizers, because they are equal."""
        return "byte-1"


def build(config: None, *, assets: Path, offline: bool, documents: object) -> ByteTokenizer:  # noqa: ARG001
    """Return the tokenizer, which has no options and needs no training."""
    return ByteTokenizer()


def load(folder: Path) -> ByteTokenizer:
    """Return the tokenizer saved in a folder. Raises DataError when there is none, or one of another kind."""
    tokenizer = ByteTokenizer()
    content = read_tokenizer(folder)
    with errors_name(folder / FILE_NAME):
        check_same(content, tokenizer.to_json(), "byte")
    return tokenizer
