"""Options of the tokenizers.

The classes raise ValueError for invalid values.
"""

import re
from dataclasses import dataclass
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"
SMALLEST_BPE = 257
"""Minimum number of ids: the 256 bytes, so that any text can be encoded, and end of text."""

LARGEST_VOCABULARY = 1 << 22
"""Maximum number of ids, also in files: four times the largest vocabulary in use. Larger ones are mistakes or attacks,
and memory grows with the largest id."""

LARGEST_FREQUENCY = 1 << 32


def _check_min_frequency(min_frequency: int) -> None:
    if min_frequency < 1:
        raise ValueError(f"min_frequency must be at least 1, not {min_frequency}")
    if min_frequency > LARGEST_FREQUENCY:
        raise ValueError(f"min_frequency must be at most {LARGEST_FREQUENCY}, not {min_frequency}")


@dataclass(frozen=True, kw_only=True)
class CharacterConfig:
    """Options of `character`."""

    min_frequency: int = 1
    """Characters that occur fewer times in the training text get no id of their own; they are encoded as UTF-8 bytes.
    Raise it for text with thousands of different characters."""

    def __post_init__(self) -> None:
        _check_min_frequency(self.min_frequency)


@dataclass(frozen=True, kw_only=True)
class BpeConfig:
    """Options of `bpe`."""

    vocab_size: int = 4096
    """Number of ids. More ids make the text shorter but the model's embedding larger: 512 to 4096 for models of a few
    million parameters, 8192 and above for larger ones."""

    min_frequency: int = 2
    """Minimum number of occurrences for a pair of ids to be merged."""

    special_tokens: tuple[str, ...] = ()
    """Names of additional special tokens, such as `<|user|>`. Their ids count toward `vocab_size`, and no text is
    encoded to them. `<|endoftext|>` is always included."""

    def __post_init__(self) -> None:
        smallest = SMALLEST_BPE + len(self.special_tokens)
        if self.vocab_size < smallest:
            raise ValueError(
                f"vocab_size must be at least {smallest} (256 bytes and the special tokens), not {self.vocab_size}"
            )
        if self.vocab_size > LARGEST_VOCABULARY:
            raise ValueError(f"vocab_size must be at most {LARGEST_VOCABULARY}, not {self.vocab_size}")
        if "" in self.special_tokens or len({*self.special_tokens, END_OF_TEXT}) <= len(self.special_tokens):
            raise ValueError(f"special_tokens must be different names, none of them empty or {END_OF_TEXT}")
        if any("\ud800" <= character <= "\udfff" for name in self.special_tokens for character in name):
            raise ValueError("special_tokens must be valid Unicode text, and one of them is not")
        _check_min_frequency(self.min_frequency)


@dataclass(frozen=True, kw_only=True)
class _ReadConfig:
    """Options shared by the tokenizers that are read from a file."""

    end_of_text: str | None = None
    """The special token between documents, such as `<|im_end|>`; null for the `eos_token` of the
    `tokenizer_config.json` in the same folder, or else a common one such as `<|endoftext|>`."""


@dataclass(frozen=True, kw_only=True)
class FileConfig(_ReadConfig):
    """Options of `file`."""

    path: Path
    """A `tokenizer.json`, or the folder that contains it."""


@dataclass(frozen=True, kw_only=True)
class HubConfig(_ReadConfig):
    """Options of `hub`."""

    repository: str
    """Name of the repository on the Hugging Face Hub, such as `openai-community/gpt2`."""

    revision: str = "main"
    """The version on the Hub: a branch, a tag or a commit. Only a commit never changes."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.repository):
            raise ValueError(f"repository must be a name such as openai-community/gpt2, not {self.repository!r}")
