"""Training of a byte-level BPE on a data set or on files, saved in a folder that a configuration can name."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from tfs_core.contracts import DatasetSource
from tfs_core.data.documents import TrainingText, describe, hash_of, read_pieces
from tfs_core.durable import write_durably
from tfs_core.errors import DataError, UsageError
from tfs_core.runs import assets_folder
from tfs_core.stored_json import read_bytes, read_json
from tfs_core.terminal import escape_control_characters
from tfs_tokenizers import bpe, named
from tfs_tokenizers.byte_level import ByteLevelTokenizer
from tfs_tokenizers.config import END_OF_TEXT, BpeConfig
from tfs_tokenizers.kept import locked, write_errors
from tfs_tokenizers.tokenizer_json import (
    CONFIG_FILE_NAME,
    FILE_NAME,
    LARGEST_FILE,
    check_replaces_nothing,
    config_json,
    write_tokenizer,
)

log = logging.getLogger(__name__)

RECORD_NAME = "training.json"
"""File beside a trained `tokenizer.json`: the fingerprint of the training text, the options, and the SHA-256 of the
tokenizer."""

FORMATS = {"csv": "csv", "json": "jsonl", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}
"""File extension -> name of the data set that reads it. The data set `text` reads all other files."""

TEXT_OPTIONS = {"jsonl": "text_key", "csv": "column", "parquet": "column"}
"""Data set -> its option that names the key or column of the text."""

COMPRESSED = ("bz2", "gz", "xz", "zst")


def train_tokenizer(
    name: str,
    vocab_size: int,
    *,
    output: str | Path | None = None,
    subset_size: int | None = None,
    min_frequency: int = 2,
    special_tokens: Sequence[str] = (),
    assets: str | Path | None = None,
) -> Path:
    """Train a BPE on the training text of a data set and return the folder with its `tokenizer.json`.

    `name` is a registered name, or YAML with options. Only the first `subset_size` training documents are read, without
    the documents that a run holds out for validation. The folder is `output`, or by default
    `<assets>/tokenizers/<name>_bpe_<vocab_size>`. A tokenizer in it is never replaced: if it was trained on the same
    text with the same options, it is reused; otherwise the training is refused before it begins. Raises TfsErrors when
    it is refused, the data cannot be read, or the folder cannot be written.
    """
    root = assets_folder(assets)
    config = _config(vocab_size, min_frequency, special_tokens)
    text = TrainingText(named.dataset(name, assets=root), subset_size)
    label = re.sub(r"[^\w.-]+", "-", named.choice("dataset", name).name)
    folder = Path(output or root / "tokenizers" / f"{label}_bpe_{vocab_size}")
    return _train(text(), config, folder, fingerprint=text.fingerprint)


def train_tokenizer_from_files(
    files: Sequence[str | Path],
    vocab_size: int,
    *,
    output: str | Path | None = None,
    text_key: str = "text",
    min_frequency: int = 2,
    special_tokens: Sequence[str] = (),
    assets: str | Path | None = None,
) -> Path:
    """Train a BPE on the whole text of files and return the folder with its `tokenizer.json`.

    Text, JSONL, CSV and Parquet are distinguished by file extension; `text_key` is the key or column of the text.
    A tokenizer in the folder is reused or the training refused, as by `train_tokenizer`. Raises TfsErrors when it is
    refused, no file is given, a file cannot be read, or the folder cannot be written.
    """
    if not files:
        raise UsageError("name at least one file to train on")
    root = assets_folder(assets)
    config = _config(vocab_size, min_frequency, special_tokens)
    sources = [
        named.dataset_of_files(
            paths,
            format_name=format_name,
            options={TEXT_OPTIONS[format_name]: text_key} if format_name in TEXT_OPTIONS else {},
            assets=root,
        )
        for format_name, paths in _by_format([Path(file) for file in files]).items()
    ]
    label = re.sub(r"[^\w.-]+", "-", Path(files[0]).name.partition(".")[0]) or "files"
    folder = Path(output or root / "tokenizers" / f"{label}_bpe_{vocab_size}")
    fingerprint = hash_of(["whole", [source.fingerprint() for source in sources]])
    return _train(_all_text(sources), config, folder, fingerprint=fingerprint)


def _config(vocab_size: int, min_frequency: int, special_tokens: Sequence[str]) -> BpeConfig:
    try:
        return BpeConfig(vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=tuple(special_tokens))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _by_format(files: list[Path]) -> Mapping[str, list[Path]]:
    formats: dict[str, list[Path]] = {}
    for file in files:
        extensions = [suffix.lower().lstrip(".") for suffix in file.suffixes]
        extension = next((extension for extension in reversed(extensions) if extension not in COMPRESSED), "")
        formats.setdefault(FORMATS.get(extension, "text"), []).append(file)
    return formats


def _all_text(sources: Sequence[DatasetSource]) -> Iterator[str]:
    """Iterate over the text of all sources. Raises DataError when there is none."""
    empty = True
    for source in sources:
        for piece in read_pieces(source, "train"):
            if piece.text:
                empty = False
                yield piece.text
    if empty:
        raise DataError(f"there is no text in {', '.join(describe(source) for source in sources)}")


def _train(texts: Iterator[str], config: BpeConfig, folder: Path, *, fingerprint: str) -> Path:
    """Train a BPE into a folder, unless the folder already has it. `fingerprint` is that of the text."""
    training = {"text": fingerprint, **asdict(config), "special_tokens": list(config.special_tokens)}
    with write_errors(folder):
        if _is_trained(folder, training):
            return folder
    content = bpe.train(texts, **asdict(config))
    bpe.warn_if_small(ByteLevelTokenizer(content), config)
    with locked(folder), write_errors(folder):
        if not _is_trained(folder, training):  # by another process in the meantime
            record = training | {"sha256": sha256(content.encode("utf-8")).hexdigest()}
            write_durably(folder / RECORD_NAME, (json.dumps(record, indent=2) + "\n").encode("utf-8"))
            write_tokenizer(folder, content)  # `tokenizer.json` last: a folder that has one is complete
    return folder


def _is_trained(folder: Path, training: Mapping[str, object]) -> bool:
    """Return whether the folder has the tokenizer of this training, False for a folder without a tokenizer.

    Raises DataError when the folder has another tokenizer, or cannot get one.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Choose another place with --output.")
    if not (folder / FILE_NAME).exists():
        check_replaces_nothing(folder / CONFIG_FILE_NAME, config_json(END_OF_TEXT))
        return False
    if not (folder / RECORD_NAME).exists():
        reason = f"without a {RECORD_NAME} that says how it was trained"
    else:
        record = read_json(folder / RECORD_NAME, {"sha256": str})
        different = [name for name, value in training.items() if record.get(name) != value]
        digest = sha256(read_bytes(folder / FILE_NAME, limit=LARGEST_FILE)).hexdigest()
        if different:
            reason = f"trained with another {', '.join(different)}"
        elif digest != record["sha256"]:
            reason = "changed after its training"
        else:
            place = escape_control_characters(str(folder))
            log.warning("%s: nothing to do, it was trained on the same text with the same options", place)
            return True
    raise DataError(
        f"{folder} already has a tokenizer, {reason}. It is not replaced, since a run may depend on it: choose another "
        "folder with --output, or delete this one."
    )
