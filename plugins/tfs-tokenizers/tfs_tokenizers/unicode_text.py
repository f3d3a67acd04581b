"""Conversion between text and UTF-8, and checks of token ids."""

from collections.abc import Sequence

from tfs_core.errors import DataError


def as_utf8(text: str) -> bytes:
    """Return the UTF-8 bytes of a text. Raises DataError for a lone surrogate (half of a surrogate pair)."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"character {error.start + 1} of a text is the lone surrogate U+{ord(text[error.start]):04X}: half of a "
            "character, which cannot be encoded. Replace it in the source of the text."
        ) from error


def from_utf8(data: bytes) -> str:
    """Return the text of the bytes. Invalid UTF-8 is decoded as U+FFFD."""
    return data.decode("utf-8", errors="replace")


def check_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Raise DataError for an id outside the vocabulary."""
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            raise DataError(f"{token_id} is not a token id: ids are 0 to {vocab_size - 1}")
