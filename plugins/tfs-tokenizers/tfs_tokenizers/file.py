"""`file`: any `tokenizer.json` that keeps text as it is, from a file or from a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfs_core.contracts import Tokenizer
from tfs_core.errors import DataError
from tfs_tokenizers import character
from tfs_tokenizers.byte_level import ByteLevelTokenizer
from tfs_tokenizers.config import FileConfig
from tfs_tokenizers.tokenizer_json import (
    FILE_NAME,
    USUAL_ENDS_OF_TEXT,
    read_end_of_text,
    read_json_file,
)


def read(file: Path, *, end_of_text: str | None = None) -> Tokenizer:
    """Return the tokenizer of a `tokenizer.json`.

    The end of text is the one named, else the one that the `tokenizer_config.json` beside it names, else a usual one.
    Raises DataError when the file is missing or damaged, or the tokenizer loses text or has no such special token.
    """
    content = read_json_file(file)
    try:
        if end_of_text is None and _is_of_characters(json.loads(content)):
            return character.from_json(content)
        return ByteLevelTokenizer(content, end_of_text=end_of_text or _end_of_text(file.parent, content))
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def _is_of_characters(rules: Mapping[str, Any]) -> bool:
    """Return whether the rules are such as `character` writes: bytes for what has no id, and nothing is joined."""
    model = rules.get("model") or {}
    return model.get("type") == "BPE" and model.get("byte_fallback") is True and not model.get("merges")


def _end_of_text(folder: Path, content: str) -> str:
    if (said := read_end_of_text(folder)) is not None:
        return said
    special = [token["content"] for token in json.loads(content).get("added_tokens") or [] if token.get("special")]
    return next((name for name in USUAL_ENDS_OF_TEXT if name in special), USUAL_ENDS_OF_TEXT[0])


def build(
    config: FileConfig,
    *,
    assets: Path,
    offline: bool,  # noqa: ARG001 (nothing here needs the network)
    documents: object,  # noqa: ARG001 (nothing is trained)
) -> Tokenizer:
    """Return the tokenizer at the path: a `tokenizer.json`, or the folder it is in."""
    path = config.path / FILE_NAME if config.path.is_dir() else config.path
    if not path.is_file():
        there = sorted(str(file.parent) for file in (assets / "tokenizers").glob(f"*/{FILE_NAME}"))
        trained = f" Under {assets / 'tokenizers'}: {', '.join(there)}." if there else ""
        raise DataError(f"{config.path}: there is no {FILE_NAME}, which a tokenizer is saved as.{trained}")
    return read(path, end_of_text=config.end_of_text)


def load(folder: Path) -> Tokenizer:
    """Return the tokenizer that was saved in a folder. Raises DataError when none was."""
    return read(folder / FILE_NAME)
