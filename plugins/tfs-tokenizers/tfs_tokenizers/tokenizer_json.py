"""Reading and writing of `tokenizer.json`, the file format of Hugging Face `tokenizers`, used by all tokenizers here.

`transformers` can load it directly: `PreTrainedTokenizerFast(tokenizer_file="tokenizer.json")`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfs_core.durable import write_durably
from tfs_core.errors import CheckpointError, DataError
from tfs_core.stored_json import parse_json, read_bytes
from tfs_tokenizers.config import END_OF_TEXT

FILE_NAME = "tokenizer.json"
CONFIG_FILE_NAME = "tokenizer_config.json"
USUAL_ENDS_OF_TEXT = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
"""Common names of the end of text, tried in this order when no configuration names it."""

LONGEST_MESSAGE = 1000
LARGEST_FILE = 256 << 20
"""Maximum size in bytes of a file that is read or written: ten times the largest `tokenizer.json` in use."""


def byte_alphabet() -> list[str]:
    """Return the printable character that represents each byte, 0 to 255, in byte-level vocabularies.

    Printable Latin-1 characters represent themselves; the other bytes are represented by U+0100 and following.
    Radford et al. (2019), "Language models are unsupervised multitask learners": `bytes_to_unicode` of GPT-2.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    characters, next_character = [], 0x100
    for byte in range(256):
        characters.append(chr(byte if byte in printable else next_character))
        next_character += byte not in printable
    return characters


def tokenizer_json(
    *,
    vocabulary: Mapping[str, int],
    end_of_text_id: int,
    pre_tokenizer: Mapping[str, Any] | None,
    decoder: Mapping[str, Any],
    byte_fallback: bool = False,
) -> str:
    """Return the content of the file for a tokenizer without merges."""
    end_of_text: dict[str, Any] = {"id": end_of_text_id, "content": END_OF_TEXT, "special": True}
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end_of_text | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": byte_fallback,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }
    return json.dumps(content, ensure_ascii=False)


def write_tokenizer(folder: Path, content: str, *, end_of_text: str = END_OF_TEXT) -> None:
    """Write `tokenizer.json` to an existing folder, with a `tokenizer_config.json` for `transformers`.

    Nothing is replaced: raises DataError when the folder has one of these files with other content. Also raises
    DataError for a tokenizer above `LARGEST_FILE`, and OSError when the folder cannot be written.
    """
    files = {CONFIG_FILE_NAME: config_json(end_of_text), FILE_NAME: content.encode("utf-8")}
    if len(files[FILE_NAME]) > LARGEST_FILE:
        raise DataError(
            f"{folder / FILE_NAME} would have {len(files[FILE_NAME]) >> 20:,} MiB, and at most "
            f"{LARGEST_FILE >> 20} MiB can be read. Choose a smaller vocabulary."
        )
    for name, new in files.items():
        check_replaces_nothing(folder / name, new)
    for name, new in files.items():
        write_durably(folder / name, new)


def config_json(end_of_text: str) -> bytes:
    """Return the content of `tokenizer_config.json`."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_of_text,
        "split_special_tokens": True,  # encode a literal <|endoftext|> as ordinary text
        "clean_up_tokenization_spaces": False,
    }
    return (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def check_replaces_nothing(file: Path, content: bytes) -> None:
    """Raise DataError when the file exists with other content."""
    try:
        same = read_bytes(file, limit=LARGEST_FILE) == content
    except FileNotFoundError:
        return
    except (OSError, CheckpointError):  # whatever it is, it is not this content
        same = False
    if not same:
        raise DataError(
            f"{file} exists with other content, and is not replaced: something may depend on it. Choose another place "
            "for the new one, or delete the old one."
        )


def read_end_of_text(folder: Path) -> str | None:
    """Return the `eos_token` of the folder's `tokenizer_config.json`; None when it has none, or there is no such file.

    Raises DataError when the file is damaged.
    """
    try:
        token = json.loads(_read_object(folder / CONFIG_FILE_NAME)).get("eos_token")
    except FileNotFoundError:
        return None
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) else None


def read_tokenizer(folder: Path) -> str:
    """Return the content of the `tokenizer.json` of a folder. Raises DataError when it is missing or not JSON."""
    return read_json_file(folder / FILE_NAME)


def read_json_file(file: Path) -> str:
    """Return the content of a `tokenizer.json`.

    Raises DataError when it is missing, not a regular file of at most `LARGEST_FILE` bytes, or not a JSON object.
    """
    try:
        return _read_object(file)
    except FileNotFoundError as error:
        raise DataError(f"{file.parent}: there is no {file.name}, the file format of tokenizers") from error


def _read_object(file: Path) -> str:
    """Return the JSON object in a file, as text. Raises FileNotFoundError, and DataError for all other problems."""
    try:
        content = read_bytes(file, limit=LARGEST_FILE)
        if not isinstance(parse_json(content), dict):
            raise ValueError("it is not a JSON object")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}. Replace it by another copy.") from error
    except CheckpointError as error:  # not a regular file, or too large
        raise DataError(str(error)) from error
    return content.decode("utf-8")


@contextmanager
def errors_name(file: Path) -> Iterator[None]:
    """Begin the message of a DataError in the block, which interprets the content of a file, with its path.

    Messages quote the file; they are shortened to `LONGEST_MESSAGE` characters.
    """
    try:
        yield
    except DataError as error:
        message = str(error)
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[:LONGEST_MESSAGE]}..."
        raise DataError(f"{file}: {message}") from error


def check_same(content: str, expected: str, name: str) -> None:
    """Raise DataError unless `content` is the same JSON as `expected`, which the tokenizer `name` writes."""
    if json.loads(content) != json.loads(expected):
        raise DataError(f"the file was not written by the tokenizer '{name}', or is damaged")
