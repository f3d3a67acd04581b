"""Data sets and tokenizers given on the command line: by name, by path, or as YAML with a name and options."""

from pathlib import Path
from typing import Any

from tfs_core.config.document import Document, Place, read_text
from tfs_core.config.schema import Choice
from tfs_core.config.validation import chosen_component
from tfs_core.contracts import DatasetSource, Tokenizer
from tfs_core.data.documents import TrainingText
from tfs_core.data.network import is_offline_mode
from tfs_core.data.prepare import build_source, build_tokenizer


def choice(kind: str, text: str) -> Choice:
    """Parse a choice such as `byte` or `{name: jsonl, path: a.jsonl}`. Raises ConfigError."""
    document = read_text(text, Place(source="command line", base=Path.cwd()), (kind,))
    return chosen_component(kind, document.values, document)


def dataset(name: str, *, assets: Path) -> DatasetSource:
    """Return the data set given by a name or YAML. Raises TfsErrors when it is not available."""
    return build_source(choice("dataset", name), assets=assets, offline=is_offline_mode())


def dataset_of_files(paths: list[Path], *, format_name: str, options: dict[str, Any], assets: Path) -> DatasetSource:
    """Return the data set `format_name` (text, jsonl, ...) of the files at `paths`."""
    value = {"name": format_name, "path": [str(path) for path in paths], **options}
    document = Document(values=value, places={("dataset",): Place(source="command line", base=Path.cwd())})
    return build_source(chosen_component("dataset", value, document), assets=assets, offline=is_offline_mode())


def tokenizer(name: str, *, assets: Path, documents: TrainingText | None = None) -> Tokenizer:
    """Return the tokenizer given by a name, a path or YAML, trained on `documents` if it needs training."""
    return build_tokenizer(choice("tokenizer", name), assets=assets, offline=is_offline_mode(), documents=documents)
