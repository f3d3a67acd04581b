"""The text of HTML: without tags, scripts, styles and the title of the window, a line for each block."""

import re
from collections.abc import Iterable, Iterator
from html import unescape
from html.parser import HTMLParser

LOOKS_LIKE_HTML = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:(?><!--.*?-->)\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
"""Matches the first bytes of an HTML page."""

SKIPPED = frozenset({"script", "style", "title"})
BLOCKS = re.compile(
    "address|article|aside|blockquote|body|br|caption|center|dd|details|dialog|div|dl|dt|fieldset|figcaption|figure|"
    "footer|form|h[1-6r]|head|header|html|legend|li|main|nav|ol|option|p|pre|section|summary|table|tbody|tfoot|thead|"
    "tr|ul"
)
"""Matches the names of the elements that begin a line."""

CELLS = frozenset({"td", "th"})


def html_text(blocks: Iterable[str]) -> Iterator[str]:
    """Iterate over the text of an HTML page that is given in blocks.

    Each block element is a line, and so is a table row, its cells divided by tabs. White space is collapsed, as a
    browser shows it, except in `<pre>`. Raises OSError for HTML that cannot be read.
    """
    parser = _Parser()
    waiting, n_waiting = [], 0
    for block in blocks:
        waiting.append(block)
        n_waiting += len(block)
        if n_waiting >= len(parser.rawdata):  # an unfinished tag is scanned again each time, so let it double
            yield parser.text_of("".join(waiting))
            waiting, n_waiting = [], 0
    yield parser.text_of("".join(waiting), is_last=True)
    if parser.has_text:
        yield "\n"


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._pending = ""  # white space to write before the next text
        self._skipped = 0
        self._preformatted = 0
        self._row_has_text = False
        self.has_text = False

    def text_of(self, part: str, *, is_last: bool = False) -> str:
        """Read a part of the page, and return its text. In the last part, a tag without an end is text.

        Raises OSError when the library fails, for example on a character reference with thousands of digits.
        """
        try:
            self.feed(part)
            if is_last:
                if ">" not in self.rawdata:  # the library would look for an end from each "<" on
                    self.handle_data(unescape(self.rawdata))
                    self.rawdata = ""
                self.close()
        except ValueError as error:
            raise OSError(f"it is not valid HTML: {error}") from error
        text = "".join(self._parts)
        self._parts.clear()
        return text

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """Return the end of a section such as `<![if a]>`. One that the library refuses is skipped, as browsers do."""
        try:
            return super().parse_marked_section(i, report)
        except AssertionError:
            return self.parse_bogus_comment(i)

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self._skipped += tag in SKIPPED
        self._preformatted += tag == "pre"
        if tag in CELLS and self._row_has_text:
            self._pending = "\t"
        self._divide(tag)

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= tag in SKIPPED and self._skipped > 0
        self._preformatted -= tag == "pre" and self._preformatted > 0
        self._divide(tag)

    def _divide(self, tag: str) -> None:
        if tag == "tr":
            self._row_has_text = False
            self._pending = "\n"
        elif BLOCKS.fullmatch(tag) and self._pending != "\t":  # a paragraph that begins a cell is no line
            self._pending = "\n"

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        words = [data] if self._preformatted else data.split()
        if words and words[0]:
            starts_with_space = not self._preformatted and data[0].isspace()
            self._parts.append((self._pending or " " * starts_with_space) if self.has_text else "")
            self._parts.append(" ".join(words))
            self.has_text = self._row_has_text = True
            self._pending = " " if not self._preformatted and data[-1].isspace() else ""
        elif data:
            self._pending = self._pending or " "
