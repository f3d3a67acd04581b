"""The data set `jsonl`: JSON Lines files, a JSON object per line with the document under one of its keys."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tfs_core.plugins import did_you_mean
from tfs_datasets.bad_input import BadInput
from tfs_datasets.compressed import opened
from tfs_datasets.config import JsonlConfig
from tfs_datasets.local_documents import LocalDocuments


def read_jsonl(file: Path, bad: BadInput, *, text_key: str) -> Iterator[str]:
    """Iterate over the documents of a file. Blank lines are skipped; null is an empty document."""
    with opened(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            text, error = _document(line, text_key)
            if error:
                bad.found(file, f"line {number}{error}")
            else:
                yield text


def _document(line: bytes, text_key: str) -> tuple[str, str]:
    """Return (document, error message) of a line; the message is empty for a valid line."""
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return "", f": byte 0x{line[error.start]:02x} is not UTF-8"
    except (ValueError, RecursionError) as error:
        return "", f" is not JSON: {error}. Each line must be a JSON object"
    if not isinstance(values, dict):
        return "", f" is not a JSON object such as {{{json.dumps(text_key)}: ...}}"
    if text_key not in values:
        hint = did_you_mean(text_key, values) or " Set text_key to the key that holds the text"
        return "", f" has no key '{text_key}'. Its keys: {', '.join(values) or 'none'}.{hint}"
    text = values[text_key]
    if text is None:
        return "", ""
    if not isinstance(text, str):
        return "", f": the value of '{text_key}' must be text, not {type(text).__name__}"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):04X}"
        return "", f": '{text_key}' contains the lone surrogate {surrogate}, half of a character"
    return text, ""


def build(config: JsonlConfig, *, assets: Path, offline: bool) -> LocalDocuments:  # noqa: ARG001
    """Return the documents of the files. Raises DataError when there are none."""
    read = partial(read_jsonl, text_key=config.text_key)
    return LocalDocuments("jsonl", config, config.text_key, assets=assets, read=read)
