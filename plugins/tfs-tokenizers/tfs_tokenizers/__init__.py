"""Tokenizers (byte, character, BPE, GPT-2's, any byte-level `tokenizer.json`), and tools to train and compare them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfs_tokenizers.analysis import analyze_dataset
    from tfs_tokenizers.comparison import compare_tokenizers
    from tfs_tokenizers.pretokenized import load_pretokenized, pretokenize_dataset
    from tfs_tokenizers.training import train_tokenizer, train_tokenizer_from_files

__all__ = [
    "analyze_dataset",
    "compare_tokenizers",
    "load_pretokenized",
    "pretokenize_dataset",
    "train_tokenizer",
    "train_tokenizer_from_files",
]

_MODULES = {
    "analyze_dataset": "analysis",
    "compare_tokenizers": "comparison",
    "load_pretokenized": "pretokenized",
    "pretokenize_dataset": "pretokenized",
    "train_tokenizer": "training",
    "train_tokenizer_from_files": "training",
}


def __getattr__(name: str) -> Any:  # the type depends on the name
    """Lazy import: return a function of `__all__`. Its module is imported on first access."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
