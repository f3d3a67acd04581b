"""The tokenizer `character`: one id per character of the training text.

Ids 0 to 255 are bytes, which include the ASCII characters. The other characters follow in the order of their code
points, then end of text. A character that is not in the training text is encoded as its UTF-8 bytes (byte fallback), so
encoding is lossless.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfs_core.data.documents import TrainingText
from tfs_core.progress import progress
from tfs_tokenizers.config import CharacterConfig
from tfs_tokenizers.kept import trained_once
from tfs_tokenizers.tokenizer_json import (
    FILE_NAME,
    check_same,
    errors_name,
    read_tokenizer,
    tokenizer_json,
    write_tokenizer,
)
from tfs_tokenizers.unicode_text import as_utf8, check_ids, from_utf8

N_BYTES = 256
N_ASCII = 128
N_CODE_POINTS = 0x110000


class CharacterTokenizer:
    """Ids for the bytes, for `characters` (beyond ASCII, in the order of code points), and for end of text."""

    def __init__(self, characters: str) -> None:
        self._characters = characters
        self.vocab_size = N_BYTES + len(characters) + 1
        self.end_of_text_id = self.vocab_size - 1
        self._bytes_of_id = [bytes([byte]) for byte in range(N_BYTES)]
        self._bytes_of_id += [character.encode("utf-8") for character in characters] + [b""]
        self._id_of_code_point = np.full(N_CODE_POINTS, -1, dtype=np.int32)  # -1: byte fallback
        self._id_of_code_point[:N_ASCII] = np.arange(N_ASCII)
        self._id_of_code_point[_code_points(characters)] = np.arange(N_BYTES, self.end_of_text_id)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the ids of each text: int32 [tokens]. Raises DataError for a lone surrogate."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> NDArray[np.int32]:
        as_utf8(text)  # raises for a lone surrogate
        code_points = _code_points(text)
        ids = self._id_of_code_point[code_points]
        unknown = np.flatnonzero(ids < 0)
        if not len(unknown):
            return ids
        pieces, start = [], 0
        for position in unknown.tolist():
            utf8 = np.frombuffer(chr(code_points[position]).encode("utf-8"), dtype=np.uint8)
            pieces += [ids[start:position], utf8.astype(np.int32)]
            start = position + 1
        return np.concatenate([*pieces, ids[start:]])

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of the ids; end of text has none."""
        check_ids(ids, self.vocab_size)
        return b"".join(self._bytes_of_id[token_id] for token_id in ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids. Invalid UTF-8 is decoded as U+FFFD."""
        return from_utf8(self.decode_bytes(ids))

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the number of bytes of each id, 0 for end of text: int64 [vocab_size]."""
        return np.array([len(text) for text in self._bytes_of_id], dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`."""
        write_tokenizer(folder, self.to_json())

    def to_json(self) -> str:
        """Return the content of `tokenizer.json`."""
        vocabulary = {chr(byte): byte for byte in range(N_ASCII)}
        vocabulary |= {f"<0x{byte:02X}>": byte for byte in range(N_ASCII, N_BYTES)}
        vocabulary |= {character: N_BYTES + i for i, character in enumerate(self._characters)}
        return tokenizer_json(
            vocabulary=vocabulary,
            end_of_text_id=self.end_of_text_id,
            pre_tokenizer=None,
            decoder={"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
            byte_fallback=True,
        )

    def fingerprint(self) -> str:
        """Return a hash of the characters."""
        return f"character-1-{sha256(self._characters.encode('utf-8')).hexdigest()[:20]}"


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def train(documents: Iterator[str], *, min_frequency: int) -> CharacterTokenizer:
    """Return the tokenizer of the characters that occur at least `min_frequency` times, and show the progress.

    Raises DataError for a lone surrogate.
    """
    counts = np.zeros(N_CODE_POINTS, dtype=np.int64)
    with progress("counting characters", unit="B") as advance:
        for text in documents:
            n_bytes = len(as_utf8(text))  # raises for a lone surrogate
            seen, times = np.unique(_code_points(text), return_counts=True)
            counts[seen] += times
            advance(n_bytes)
    frequent = np.flatnonzero(counts >= min_frequency)
    return CharacterTokenizer("".join(map(chr, frequent[frequent >= N_ASCII].tolist())))


def from_json(content: str) -> CharacterTokenizer:
    """Return the tokenizer of a `tokenizer.json`. Raises DataError when `character` did not write it."""
    model = json.loads(content).get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    texts = vocabulary if isinstance(vocabulary, dict) else ()
    characters = sorted(text for text in texts if len(text) == 1 and ord(text) >= N_ASCII)
    tokenizer = CharacterTokenizer("".join(characters))
    check_same(content, tokenizer.to_json(), "character")
    return tokenizer


def build(
    config: CharacterConfig,
    *,
    assets: Path,
    offline: bool,  # noqa: ARG001 (no network is needed)
    documents: TrainingText | None,
) -> CharacterTokenizer:
    """Return the tokenizer of the training text, trained now or taken from the cache."""
    return trained_once(
        "character",
        asdict(config),
        assets=assets,
        documents=documents,
        train=lambda texts: train(texts, min_frequency=config.min_frequency).to_json(),
        load=from_json,
    )


def load(folder: Path) -> CharacterTokenizer:
    """Return the tokenizer saved in a folder. Raises DataError when there is none, or one of another kind."""
    content = read_tokenizer(folder)
    with errors_name(folder / FILE_NAME):
        return from_json(content)
