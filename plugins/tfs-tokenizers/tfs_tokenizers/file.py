"""The tokenizer `file`: any lossless byte-level `tokenizer.json`, given by its path or folder."""

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
    errors_name,
    read_end_of_text,
    read_json_file,
)

TEXT_ADVICE = "If it is text, give it as the data set: with --data, or in a configuration as data.dataset."


def read(file: Path, *, end_of_text: str | None = None) -> Tokenizer:
    """Return the tokenizer of a `tokenizer.json`.

    The end of text is `end_of_text`, or else the `eos_token` of the `tokenizer_config.json` in the same folder, or else
    one of `USUAL_ENDS_OF_TEXT`. Raises DataError when the file is missing or damaged, the tokenizer is not lossless, or
    it has no such special token.
    """
    content = read_json_file(file)
    with errors_name(file):
        if end_of_text is None and _is_character_tokenizer(json.loads(content)):
            return character.from_json(content)
        return ByteLevelTokenizer(content, end_of_text=end_of_text or _end_of_text(file.parent, content))


def _is_character_tokenizer(rules: Mapping[str, Any]) -> bool:
    """Return whether the file is one that `character` writes: BPE with byte fallback and without merges."""
    model = rules.get("model")
    return (
        isinstance(model, dict)
        and model.get("type") == "BPE"
        and model.get("byte_fallback") is True
        and not model.get("merges")
    )


def _end_of_text(folder: Path, content: str) -> str:
    if (configured := read_end_of_text(folder)) is not None:
        return configured
    try:
        special = [token["content"] for token in json.loads(content).get("added_tokens") or [] if token.get("special")]
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(f"its added_tokens are not those of a tokenizer ({error!r})") from error
    return next((name for name in USUAL_ENDS_OF_TEXT if name in special), USUAL_ENDS_OF_TEXT[0])


def build(
    config: FileConfig,
    *,
    assets: Path,
    offline: bool,  # noqa: ARG001 (no network is needed)
    documents: object,  # noqa: ARG001 (nothing is trained)
) -> Tokenizer:
    """Return the tokenizer at the path: a `tokenizer.json`, or the folder that contains it. Raises DataError."""
    path = config.path / FILE_NAME if config.path.is_dir() else config.path
    if not path.exists():
        found = sorted(str(file.parent) for file in (assets / "tokenizers").glob(f"*/{FILE_NAME}"))
        trained = f" Under {assets / 'tokenizers'}: {', '.join(found)}." if found else ""
        raise DataError(
            f"{config.path}: there is no {FILE_NAME}, the file format of tokenizers. {TEXT_ADVICE}{trained}"
        )
    try:
        read_json_file(path)
    except DataError as error:
        if path.name == FILE_NAME:
            raise
        raise DataError(f"{path} is not a tokenizer, whose file format is {FILE_NAME}. {TEXT_ADVICE}") from error
    return read(path, end_of_text=config.end_of_text)


def load(folder: Path) -> Tokenizer:
    """Return the tokenizer saved in a folder. Raises DataError when there is none."""
    return read(folder / FILE_NAME)
