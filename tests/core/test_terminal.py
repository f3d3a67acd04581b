"""Control characters in text from models and data are escaped on the terminal."""

import pytest

from tfs_core.terminal import counted, escape_control_characters


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("bell\x07 and back\x08", "bell\\x07 and back\\x08"),
        ("over\rwritten", "over\\rwritten"),
        ("\x9b2J", "\\x9b2J"),
        ("abc\u202ecba", "abc\\u202ecba"),
        ("lone \ud800", "lone \\ud800"),
        ("\x00\x7f", "\\x00\\x7f"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert escape_control_characters(text) == shown


@pytest.mark.parametrize("text", ["[bold]not markup[/bold]\n", "a\tb", "naïve 日本語 עברית 👩‍💻", "back\\slash \ufffd"])
def test_printable_text_is_not_escaped(text: str) -> None:
    assert escape_control_characters(text) == text


def test_number_has_a_noun_in_its_number() -> None:
    assert [counted(number, "file") for number in (0, 1, 2, 2000)] == ["0 files", "1 file", "2 files", "2,000 files"]


def test_escaped_text_has_no_control_character_but_newline_and_tab() -> None:
    shown = escape_control_characters("".join(map(chr, range(0x2100))))
    assert {character for character in shown if not character.isprintable() and ord(character) < 0xA0} == {"\n", "\t"}
