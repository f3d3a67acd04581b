"""Tokenizers that were trained, kept under `assets/tokenizers`: the same text and options never train twice."""

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
    """Return the `tokenizer.json` that `train` makes of the text, from the last time if there was one.

    Its folder is named after the options and the fingerprint of the text. While one process trains, another that
    wants the same waits for it. Raises DataError when there is no text, or the folder cannot be written.
    """
    if documents is None:
        raise DataError(f"the tokenizer '{name}' is trained on the text of a run, and none was given")
    key = json.dumps([name, options, documents.fingerprint], sort_keys=True)
    folder = assets / "tokenizers" / f"{name}-{hashlib.sha256(key.encode('utf-8')).hexdigest()[:20]}"
    if (kept := _read(folder)) is not None:
        return kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        lock.acquire()
    except OSError as error:
        raise _cannot_be_kept(folder, error) from error
    try:
        if (kept := _read(folder)) is not None:  # another process trained it while this one waited
            return kept
        content = train(documents())
        try:
            write_tokenizer(folder, content)
        except OSError as error:
            raise _cannot_be_kept(folder, error) from error
        return content
    finally:
        lock.release()


def _read(folder: Path) -> str | None:
    """Return what is kept in a folder; None when nothing is, or it is damaged and has to be made again."""
    try:
        return read_tokenizer(folder)
    except DataError:
        return None


def _cannot_be_kept(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"{folder / FILE_NAME} cannot be written: {error.strerror or error}. "
        "Make room, change its permissions, or choose another place with --assets."
    )
