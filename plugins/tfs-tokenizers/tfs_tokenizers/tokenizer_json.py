"""Reading and writing of `tokenizer.json`, the file format of Hugging Face `tokenizers`, used by all tokenizers here.

`transformers` can load it directly: `PreTrainedTokenizerFast(tokenizer_file="tokenizer.json")`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfs_core.durable import write_durably
from tfs_core.errors import DataError
from tfs_tokenizers.config import END_OF_TEXT

FILE_NAME = "tokenizer.json"
CONFIG_FILE_NAME = "tokenizer_config.json"
USUAL_ENDS_OF_TEXT = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
"""Common names of the end of text, tried in this order when no configuration names it."""


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
    """Write `tokenizer.json` to an existing folder, with a `tokenizer_config.json` for `transformers`."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_of_text,
        "split_special_tokens": True,  # encode a literal <|endoftext|> as ordinary text
        "clean_up_tokenization_spaces": False,
    }
    about = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    write_durably(folder / CONFIG_FILE_NAME, about.encode("utf-8"))
    write_durably(folder / FILE_NAME, content.encode("utf-8"))


def read_end_of_text(folder: Path) -> str | None:
    """Return the `eos_token` of the folder's `tokenizer_config.json`; None when it has none."""
    try:
        token = json.loads((folder / CONFIG_FILE_NAME).read_bytes())["eos_token"]
        name = token["content"] if isinstance(token, dict) else token
    except (OSError, ValueError, KeyError, TypeError):  # no such file, or no such entry
        return None
    return name if isinstance(name, str) else None


def read_tokenizer(folder: Path) -> str:
    """Return the content of the `tokenizer.json` of a folder. Raises DataError when it is missing or not JSON."""
    return read_json_file(folder / FILE_NAME)


def read_json_file(file: Path) -> str:
    """Return the content of a `tokenizer.json`. Raises DataError when it is missing or not a JSON object."""
    try:
        content = file.read_bytes().decode("utf-8")
        if not isinstance(json.loads(content), dict):
            raise ValueError("it is not a JSON object")
    except FileNotFoundError as error:
        raise DataError(f"{file.parent}: there is no {file.name}, the file format of tokenizers") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}. Replace it by another copy.") from error
    return content


def check_same(content: str, expected: str, name: str) -> None:
    """Raise DataError unless `content` is the same JSON as `expected`, which the tokenizer `name` writes."""
    if json.loads(content) != json.loads(expected):
        raise DataError(f"the {FILE_NAME} was not written by the tokenizer '{name}', or is damaged")
