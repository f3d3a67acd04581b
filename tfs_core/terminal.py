"""The way out for text to a terminal: everything that tfs prints is escaped, against escape sequences.

Names of files and runs, text of data sets and models, and the messages of errors that quote them are untrusted.
"""

import unicodedata

import click

_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def say(text: object = "", *, err: bool = False, nl: bool = True, bold: bool = False) -> None:
    """Print text on stdout, or on stderr with `err=True`, escaped. `nl=False` adds no newline."""
    click.secho(escape_control_characters(str(text)), err=err, nl=nl, bold=bold or None)


def escape_control_characters(text: str) -> str:
    r"""Return the text with control characters and bidirectional overrides escaped, such as `\x1b`.

    Newlines, tabs and all printable characters, emoji included, are unchanged.
    """
    return "".join(character if _prints(character) else _escaped(character) for character in text)


def _prints(character: str) -> bool:
    if character in "\n\t":
        return True
    return unicodedata.category(character) not in ("Cc", "Cs") and character not in _BIDIRECTIONAL


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
