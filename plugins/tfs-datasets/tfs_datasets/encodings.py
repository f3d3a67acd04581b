"""Text encodings: byte-order marks, decoding that marks invalid bytes, and guesses.

An invalid byte is marked in the text by the lone surrogate U+DC00 + byte. No valid text contains one, and the marks
work for every codec and across the blocks of a stream.
"""

import codecs
import encodings
import re

from tfs_core.plugins import did_you_mean

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

INVALID = re.compile("[\udc00-\udcff]")
"""The mark of an invalid byte in decoded text."""

MARK_ERRORS = "tfs_datasets.mark"
"""The error handler that marks invalid bytes, for Python's `errors=`."""

GUESSED = (
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r", "mac_roman"),
    *("cp850", "cp437", "cp866", "cp874", "cp932", "euc_jp", "gb18030", "big5", "cp949"),
)
"""The encodings that may be guessed."""

MOST_USED = "cp1252"
"""Comes first if it is as likely as others: in much text of Western Europe, equal bytes are equal letters in cp1250."""

NAMED = re.compile(rb"(?:charset|coding)\s*[:=]\s*[\"']?([A-Za-z][\w.-]*)")
"""The name of an encoding in a page of HTML or XML, or in a source file."""

MOST_GUESSES = 3
GUESSED_CHARACTERS = 10_000

NOT_OF_FILES = frozenset({"idna", "punycode", "undefined"})


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(MARK_ERRORS, _mark)


def encoding_at(start: bytes, chosen: str | None) -> tuple[str, int]:
    """Return (encoding, bytes of the byte-order mark) of a file: as its mark says, else as chosen, else UTF-8."""
    for mark, encoding in MARKS:
        if start.startswith(mark):
            return encoding, len(mark)
    unmarked = codecs.lookup(chosen or "utf-8").name
    return f"{unmarked}-le" if unmarked in ("utf-16", "utf-32") else unmarked, 0  # the byte order of most machines


def is_text_encoding(name: str) -> bool:
    """Return whether Python has a codec of this name that decodes text files."""
    try:
        codec = codecs.lookup(name)
    except (LookupError, ValueError):  # ValueError: a zero byte
        return False
    return codec._is_text_encoding and codec.name not in NOT_OF_FILES


def check_encoding(name: str) -> None:
    """Raise ValueError unless Python has a codec of this name that decodes text files."""
    if not is_text_encoding(name):
        names = {alias.replace("_", "-") for pair in encodings.aliases.aliases.items() for alias in pair}
        hint = did_you_mean(name, filter(is_text_encoding, names)) or " Examples: utf-8, utf-16, cp1252, shift_jis."
        raise ValueError(f"encoding '{name}' is not a text encoding of Python.{hint}")


def find_invalid(text: str) -> re.Match[str] | None:
    """Return the match of the first marked byte of a text."""
    try:
        text.encode("utf-8")  # several times as fast as a search
    except UnicodeEncodeError:
        return INVALID.search(text)
    return None


def encoding_advice(text: str, encoding: str, start: bytes) -> str:
    """Return advice for text with marked bytes: the encoding that the first bytes of the file name, or guesses."""
    guesses = []
    if (named := NAMED.search(start)) and is_text_encoding(name := named[1].decode("ascii")):
        guesses = [name] if codecs.lookup(name) != codecs.lookup(encoding) else []
    if not guesses and encoding == "utf-8":
        valid = sum(character > "\x7f" for character in INVALID.sub("", text))
        if valid >= len(INVALID.findall(text)):
            return "Its other characters are UTF-8, so it is cut off or damaged there"
        guesses = _guesses(text)
    if not guesses:
        return "Set encoding to the encoding of the file"
    setting = f"set encoding: {guesses[0]} (--set data.dataset.encoding={guesses[0]})"
    return f"It may be {' or '.join(guesses)}: {setting}"


def _guesses(text: str) -> list[str]:
    """Return the most likely encodings of text that was decoded as UTF-8 with marks, at most `MOST_GUESSES`."""
    from charset_normalizer import from_bytes

    lines = [line for line in text.splitlines(keepends=True) if INVALID.search(line)]
    content = "".join(lines)[:GUESSED_CHARACTERS].encode("utf-8", "surrogateescape")
    found = from_bytes(content, cp_isolation=list(GUESSED))
    best = found.best()
    if best is None:
        return []
    likely = [
        name
        for match in found  # the most likely first
        if match.chaos <= best.chaos + 0.05 and match.coherence >= best.coherence - 0.1
        for name in (match.encoding, *match.could_be_from_charset)
    ]
    distinct = dict.fromkeys(name for name in likely if name in GUESSED)
    return sorted(distinct, key=lambda name: name != MOST_USED)[:MOST_GUESSES]
