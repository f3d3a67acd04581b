"""Cache of trained tokenizers under `assets/tokenizers`: the same text and options are trained only once."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from tfs_core.data.documents import TrainingText
from tfs_core.errors import DataError
from tfs_tokenizers.tokenizer_json import CONFIG_FILE_NAME, FILE_NAME, read_tokenizer, write_tokenizer

log = logging.getLogger(__name__)

Kept = TypeVar("Kept")


def trained_once(
    name: str,
    options: Mapping[str, object],
    *,
    assets: Path,
    documents: TrainingText | None,
    train: Callable[[Iterator[str]], str],
    load: Callable[[str], Kept],
) -> Kept:
    """Return the tokenizer that `load` makes of the cached `tokenizer.json`. Without one, train and cache it first.

    The folder name is a hash of the options and the fingerprint of the text. A lock ensures that concurrent processes
    train the same tokenizer only once. A file that `load` refuses with DataError is damaged: it is trained again.
    Raises DataError when there is no text, or the folder cannot be written.
    """
    if documents is None:
        raise DataError(f"the tokenizer '{name}' needs training text, and none was given")
    key = json.dumps([name, options, documents.fingerprint], sort_keys=True)
    folder = assets / "tokenizers" / f"{name}-{hashlib.sha256(key.encode('utf-8')).hexdigest()[:20]}"
    if (cached := _read(folder, load)) is not None:
        return cached
    with locked(folder):
        if (cached := _read(folder, load)) is not None:  # trained by another process in the meantime
            return cached
        content = train(documents())
        trained = load(content)
        with write_errors(folder):
            for name in (FILE_NAME, CONFIG_FILE_NAME):  # damaged
                (folder / name).unlink(missing_ok=True)
            write_tokenizer(folder, content)
        return trained


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create a folder and hold its lock (context manager). Raises DataError when it cannot be written.

    Logs a warning when another process holds the lock, and waits for it.
    """
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            log.warning("another process is training this tokenizer: waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Convert an OSError in the block, which writes a tokenizer to the folder, to a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder / FILE_NAME} cannot be written: {error.strerror or error}. "
            "Make room, change its permissions, or choose another place with --assets (or --output, when training)."
        ) from error


def _read(folder: Path, load: Callable[[str], Kept]) -> Kept | None:
    """Return the cached tokenizer of a folder; None when it is missing or damaged."""
    try:
        return load(read_tokenizer(folder))
    except DataError:
        return None
