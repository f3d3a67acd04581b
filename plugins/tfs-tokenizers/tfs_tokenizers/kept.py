"""Cache of trained tokenizers under `assets/tokenizers`: the same text and options are trained only once."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock

from tfs_core.data.documents import TrainingText
from tfs_core.errors import DataError
from tfs_tokenizers.tokenizer_json import FILE_NAME, read_tokenizer, write_tokenizer


def trained_once(
    name: str,
    options: Mapping[str, object],
    *,
    assets: Path,
    documents: TrainingText | None,
    train: Callable[[Iterator[str]], str],
) -> str:
    """Return the content of the cached `tokenizer.json`. If there is none, train the tokenizer and cache it first.

    The folder name is a hash of the options and the fingerprint of the text. A lock ensures that concurrent processes
    train the same tokenizer only once. Raises DataError when there is no text, or the folder cannot be written.
    """
    if documents is None:
        raise DataError(f"the tokenizer '{name}' needs training text, and none was given")
    key = json.dumps([name, options, documents.fingerprint], sort_keys=True)
    folder = assets / "tokenizers" / f"{name}-{hashlib.sha256(key.encode('utf-8')).hexdigest()[:20]}"
    if (cached := _read(folder)) is not None:
        return cached
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        lock.acquire()
    except OSError as error:
        raise _write_error(folder, error) from error
    try:
        if (cached := _read(folder)) is not None:  # trained by another process in the meantime
            return cached
        content = train(documents())
        try:
            write_tokenizer(folder, content)
        except OSError as error:
            raise _write_error(folder, error) from error
        return content
    finally:
        lock.release()


def _read(folder: Path) -> str | None:
    """Return the cached `tokenizer.json` of a folder; None when it is missing or damaged."""
    try:
        return read_tokenizer(folder)
    except DataError:
        return None


def _write_error(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"{folder / FILE_NAME} cannot be written: {error.strerror or error}. "
        "Make room, change its permissions, or choose another place with --assets."
    )
