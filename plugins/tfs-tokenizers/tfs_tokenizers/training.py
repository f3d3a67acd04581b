"""Training of a byte-level BPE on a data set or on files, saved in a folder that a configuration can name."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tfs_core.contracts import DatasetSource
from tfs_core.data.documents import TrainingText, describe, read_pieces
from tfs_core.errors import DataError, UsageError
from tfs_core.runs import assets_folder
from tfs_tokenizers import bpe, named
from tfs_tokenizers.byte_level import ByteLevelTokenizer
from tfs_tokenizers.config import BpeConfig
from tfs_tokenizers.tokenizer_json import write_tokenizer

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
    `<assets>/tokenizers/<name>_bpe_<vocab_size>`. Raises TfsErrors when the data cannot be read or the folder written.
    """
    root = assets_folder(assets)
    config = _config(vocab_size, min_frequency, special_tokens)
    text = TrainingText(named.dataset(name, assets=root), subset_size)
    label = re.sub(r"[^\w.-]+", "-", named.choice("dataset", name).name)
    return _train(text(), config, Path(output or root / "tokenizers" / f"{label}_bpe_{vocab_size}"))


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
    Raises TfsErrors when no file is given, a file cannot be read, or the folder cannot be written.
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
    return _train(_all_text(sources), config, Path(output or root / "tokenizers" / f"{label}_bpe_{vocab_size}"))


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


def _train(texts: Iterator[str], config: BpeConfig, folder: Path) -> Path:
    content = bpe.train(
        texts,
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=config.special_tokens,
    )
    bpe.warn_if_small(ByteLevelTokenizer(content), config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tokenizer(folder, content)
    except OSError as error:
        raise DataError(f"{folder}: the tokenizer cannot be written: {error.strerror or error}") from error
    return folder
