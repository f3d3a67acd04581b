"""The options of the tokenizers."""

import re
from dataclasses import dataclass
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"
SMALLEST_BPE = 257
"""The 256 bytes, without which some text could not be encoded, and end of text."""


@dataclass(frozen=True, kw_only=True)
class CharacterConfig:
    """The options of `character`."""

    min_frequency: int = 1
    """Characters that the training text has fewer times get no id of their own: they are spelled in bytes. Raise it
    for text with thousands of different characters."""

    def __post_init__(self) -> None:
        if self.min_frequency < 1:
            raise ValueError(f"min_frequency must be at least 1, not {self.min_frequency}")


@dataclass(frozen=True, kw_only=True)
class BpeConfig:
    """The options of `bpe`."""

    vocab_size: int = 4096
    """How many ids. More make text shorter, and the model's embedding, which is paid for per id, larger: 512 to 4096
    for models of a few million parameters, 8192 and above for bigger ones."""

    min_frequency: int = 2
    """A pair of ids is joined only if it occurs so often."""

    special_tokens: tuple[str, ...] = ()
    """Names of further special tokens, such as `<|user|>`: ids of their own, among the `vocab_size`, which no text
    makes. `<|endoftext|>` is always there."""

    def __post_init__(self) -> None:
        smallest = SMALLEST_BPE + len(self.special_tokens)
        if self.vocab_size < smallest:
            raise ValueError(
                f"vocab_size must be at least {smallest} (256 bytes and the special tokens), not {self.vocab_size}"
            )
        if "" in self.special_tokens or len({*self.special_tokens, END_OF_TEXT}) <= len(self.special_tokens):
            raise ValueError(f"special_tokens must be different names, none of them empty or {END_OF_TEXT}")
        if self.min_frequency < 1:
            raise ValueError(f"min_frequency must be at least 1, not {self.min_frequency}")


@dataclass(frozen=True, kw_only=True)
class _ReadConfig:
    """What tokenizers that are read, not trained, are told."""

    end_of_text: str | None = None
    """The special token that stands between documents, such as `<|im_end|>`; null for the one that the
    `tokenizer_config.json` beside the tokenizer names, else a usual one."""


@dataclass(frozen=True, kw_only=True)
class FileConfig(_ReadConfig):
    """The options of `file`."""

    path: Path
    """A `tokenizer.json`, or the folder it is in."""


@dataclass(frozen=True, kw_only=True)
class HubConfig(_ReadConfig):
    """The options of `hub`."""

    repository: str
    """Its name on the Hugging Face Hub, such as `openai-community/gpt2`."""

    revision: str = "main"
    """The version on the Hub: a branch, a tag, or a commit, which alone can never change."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.repository):
            raise ValueError(f"repository must be a name such as openai-community/gpt2, not {self.repository!r}")
