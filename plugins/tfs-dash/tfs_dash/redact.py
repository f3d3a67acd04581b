"""Redaction of secrets and absolute paths, on pages and in reports, since both may be shared."""

import re
from itertools import pairwise
from typing import Any

HIDDEN = "[not shown]"

SECRET_WORDS = {"apikey", "auth", "authorization", "bearer", "credential", "credentials", "passphrase", "passwd",
                "password", "pwd", "secret", "secrets", "token"}  # fmt: skip
"""A setting with one of these words in its name is a secret. `tokens` and `tokenizer` do not match `token`."""

KEY_WORDS = {"access", "api", "encryption", "private", "secret", "signing", "ssh"}
"""A setting with one of these words directly before `key` in its name is a secret."""

# Each of these patterns takes time in proportion to the length of the text, whatever it is.
_WORD = re.compile(r"[^\s'\"<>|,;()\[\]{}]+")
_PATH_START = re.compile(r"(?<![\w:/.])(?:~?/|[A-Za-z]:[\\/]|\\\\)")
_CREDENTIALS = re.compile(r"(?<=\w://)[^\s/@]+@")
_TOKEN_VALUE = re.compile(r"\b(?:sk-|hf_|ghp_|gho_|github_pat_|glpat-|xox[bp]-|AKIA)[A-Za-z0-9_-]{8,}")


def is_secret(name: str) -> bool:
    """Return True if a setting of this name holds a secret."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]
    pairs = pairwise(words)
    return any(word in SECRET_WORDS for word in words) or any(a in KEY_WORDS and b == "key" for a, b in pairs)


def without_secrets(value: Any, name: str = "") -> Any:  # any JSON value
    """Return a configuration, or a part of it, with secrets replaced by HIDDEN and absolute paths shortened."""
    if name and is_secret(name) and value is not None:
        return HIDDEN
    if isinstance(value, dict):
        return {key: without_secrets(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return public_text(value) if isinstance(value, str) else value


def public_text(text: str) -> str:
    """Return a text with absolute paths cut to `…/name`, and without credentials in URLs and well-known API tokens."""
    text = _TOKEN_VALUE.sub(HIDDEN, _CREDENTIALS.sub("", text))
    return _WORD.sub(_without_folders, text)


def _without_folders(match: re.Match[str]) -> str:
    """Return a word with the absolute path in it, if there is one, cut to `…/name`."""
    word = match[0]
    start = _PATH_START.search(word)
    end = len(word.rstrip("\\/"))
    name = max(word.rfind("/", 0, end), word.rfind("\\", 0, end)) + 1
    return word if start is None or name <= start.end() else f"{word[: start.start()]}…/{word[name:]}"
