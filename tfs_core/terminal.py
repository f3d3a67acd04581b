"""The way out for text to a terminal: everything that tfs prints is escaped, against escape sequences.

Names of files and runs, text of data sets and models, and the messages of errors that quote them are untrusted.
"""

import re
import sys

import click

_ESCAPED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for newline and tab, marks of the writing direction, and halves of characters."""


def say(text: object = "", *, err: bool = False, nl: bool = True, bold: bool = False) -> None:
    """Print text on stdout, or on stderr with `err=True`, escaped. `nl=False` adds no newline."""
    # Not click's own stream: a progress bar replaces these, to print lines above itself.
    stream = sys.stderr if err else sys.stdout
    click.secho(escape_control_characters(str(text)), file=stream, nl=nl, bold=bold or None)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 document, 2,000 documents."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def escape_control_characters(text: str) -> str:
    r"""Return the text with control characters and bidirectional overrides escaped, such as `\x1b`.

    Newlines, tabs and all printable characters, emoji included, are unchanged.
    """
    return _ESCAPED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
