"""Text in other encodings, and bytes that are invalid in the encoding."""

import codecs
import encodings
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfs_datasets import text
from tfs_datasets.config import CsvConfig, JsonlConfig, TextConfig
from tfs_datasets.encodings import MARK_ERRORS, encoding_at, find_invalid, is_text_encoding
from tfs_datasets.text import TextFiles

from tfs_core.config.schema import Choice
from tfs_core.data.prepare import build_source, build_tokenizer, prepare_tokens
from tfs_core.errors import DataError

GERMAN = "Der Fluß überquert die Straße.\r\nSchöne Grüße für alle Mädchen, die Äpfel mögen.\r\n"


def text_files(path: Path, **options: Any) -> TextFiles:
    return TextFiles(TextConfig(path=path, **options), assets=path.parent)


def documents(path: Path, **options: Any) -> list[str]:
    source = text_files(path, **options)
    found = list(source.documents("train"))
    assert list(source.documents("train")) == found  # a second pass gives the same
    return found


def written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_byte_order_mark_decides_and_is_left_out(tmp_path: Path, mark: bytes, encoding: str) -> None:
    file = written(tmp_path / "a.txt", mark + (GERMAN + "🦊").encode(encoding))
    assert documents(file) == [GERMAN + "🦊"]
    assert documents(file, encoding="cp1252") == [GERMAN + "🦊"]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16", "utf-16-be", "utf-8", "mac_roman", "gb18030"])
def test_encoding_is_an_option_of_all_data_sets_of_text(tmp_path: Path, encoding: str) -> None:
    assert documents(written(tmp_path / "a", GERMAN.encode(encoding)), encoding=encoding) == [GERMAN]
    for name, config, content in (
        ("jsonl", JsonlConfig, '{"text": "Grüße"}\n{"text": "ü"}\n'),
        ("csv", CsvConfig, "id,text\n1,Grüße\n2,ü\n"),
    ):
        file = written(tmp_path / name, content.encode(encoding))
        source = build_source(Choice(name, config(path=file, encoding=encoding)), assets=tmp_path, offline=True)
        assert list(source.documents("train")) == ["Grüße", "ü"]


def test_encoding_is_part_of_the_fingerprint_whatever_it_is_called(tmp_path: Path) -> None:
    file = written(tmp_path / "a", b"text")
    names = (None, "cp1252", "windows-1252", "latin-1")
    plain, cp1252, same, latin = (text_files(file, encoding=name).fingerprint() for name in names)
    assert len({plain, cp1252, latin}) == 3
    assert same == cp1252


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cp12522", "'cp12522' is not a text encoding of Python. Did you mean 'cp1252'"),
        ("windows1252", "Did you mean 'windows-1252'"),
        ("klingon", "Examples: utf-8, utf-16, cp1252"),
        ("rot13", "not a text encoding"),
        ("idna", "not a text encoding"),
        ("a\0b", "not a text encoding"),
        ("", "not a text encoding"),
    ],
)
def test_unknown_encoding_is_an_error_with_the_nearest_name(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextConfig(path=Path("a"), encoding=name)


@pytest.mark.parametrize(
    ("content", "guess"),
    [
        (GERMAN.encode("cp1252"), "cp1252"),
        (("plain ASCII\n" * 20_000).encode() + "Das Café ist schön.".encode("cp1252"), "cp1252"),
        ("Привет, как дела? Это обычный русский текст.\n".encode("cp1251"), "cp1251"),
        ("Привет, как дела? Это обычный русский текст.\n".encode("koi8_r"), "koi8_r"),
        ("Привет, как дела? Это обычный русский текст.\n".encode("cp866"), "cp866"),
        ("สวัสดีชาวโลก วันนี้อากาศดีมาก\n".encode("cp874") * 5, "cp874"),
        ("これは日本語のテキストです。漢字もあります。\n".encode("shift_jis"), "cp932"),
        ("Zażółć gęślą jaźń. Wszystko będzie dobrze, świat się śmieje.\n".encode("cp1250"), "cp1250"),
        (b'<html><meta charset="iso-8859-15">\nprix: 5 \xa4</html>', "iso-8859-15"),
    ],
)
def test_guess_of_the_encoding_is_offered_and_not_taken(tmp_path: Path, content: bytes, guess: str) -> None:
    file = written(tmp_path / "a.txt", content)
    advice = rf"It may be {guess}.*: set encoding: {guess} \(--set data\.dataset\.encoding={guess}\)\. "
    with pytest.raises(DataError, match=rf"a\.txt, line .* is not UTF-8\. {advice}"):
        documents(file)
    assert documents(file, encoding=guess) == [content.decode(guess)]


def test_damaged_utf8_is_not_another_encoding(tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "naïve café".encode()[:-1])  # cut off within a character
    with pytest.raises(DataError, match=r"byte 0xc3 is not UTF-8\. Its other characters are UTF-8, so it is cut off"):
        documents(file)


def test_advice_names_the_encoding_before_replace_and_skip(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set encoding.*on_error: replace.*on_error: skip"):
        documents(written(tmp_path / "a.txt", GERMAN.encode("cp1252")))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("content", ["Notes of a day\r\nin a file of Windows\r\n", "Привет, как дела?\n"])
def test_utf16_without_a_mark_is_recognized(tmp_path: Path, encoding: str, content: str) -> None:
    file = written(tmp_path / "a.txt", content.encode(encoding))
    with pytest.raises(DataError, match=f"it is an unmarked UTF-16 file. Set encoding: {encoding}"):
        documents(file)
    assert documents(file, encoding=encoding) == [content]


@pytest.mark.parametrize("length", [0, 65_535])  # a character across the end of the first block
def test_file_of_utf8_that_is_read_in_another_encoding_is_reported(tmp_path: Path, length: int) -> None:
    written(tmp_path / "a.txt", GERMAN.encode("cp1252"))
    written(tmp_path / "b.txt", f"{'a' * length}ü{GERMAN}".encode())
    source = text_files(tmp_path, encoding="cp1252")
    assert next(iter(list(source.documents("train")))) == GERMAN
    assert source.left_out() == [f"{tmp_path / 'b.txt'} is valid UTF-8, but read as cp1252: compare the text"]


class TestOnError:
    """`on_error` of `text`: no letters are lost in silence."""

    BAD = b"one\nt\xffw\xc3o\n--\nthree\n--\nf\xe9ur"

    def test_skip_leaves_out_whole_documents(self, tmp_path: Path) -> None:
        written(tmp_path / "a.txt", "naïve café Müller".encode("cp1252"))
        written(tmp_path / "b.txt", b"fine")
        source = text_files(tmp_path, on_error="skip")
        assert list(source.documents("train")) == ["fine"]
        (report,) = source.left_out()
        assert report.startswith(f"{tmp_path / 'a.txt'}: 1 left out, the first: line 1: byte 0xef is not UTF-8")

    def test_skip_leaves_out_parts_between_separators(self, tmp_path: Path) -> None:
        source = text_files(written(tmp_path / "a.txt", self.BAD), on_error="skip", separator="\n--\n")
        for _ in range(2):  # a second pass counts anew
            assert list(source.documents("train")) == ["three"]
            (report,) = source.left_out()
            assert report.startswith(f"{tmp_path / 'a.txt'}: 2 left out, the first: line 2: byte 0xff is not UTF-8")

    def test_replace_keeps_every_letter_and_counts(self, tmp_path: Path) -> None:
        source = text_files(written(tmp_path / "a.txt", self.BAD), on_error="replace")
        assert list(source.documents("train")) == ["one\nt\ufffdw\ufffdo\n--\nthree\n--\nf\ufffdur"]
        (report,) = source.left_out()
        assert report.startswith(
            f"{tmp_path / 'a.txt'}: 3 invalid bytes replaced by U+FFFD, the first: line 2: byte 0xff"
        )

    def test_nothing_but_invalid_documents_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no document could be read.*1 left out, the first: line 2: byte 0xff"):
            documents(written(tmp_path / "a.txt", self.BAD), on_error="skip")

    def test_each_value_has_its_fingerprint(self, tmp_path: Path) -> None:
        file = written(tmp_path / "a.txt", self.BAD)
        values = ("refuse", "skip", "replace")
        assert len({text_files(file, on_error=value).fingerprint() for value in values}) == 3

    def test_skipped_large_document_is_read_in_parts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text, "BLOCK_CHARACTERS", 1000)
        written(tmp_path / "a.txt", b"x" * 100_000 + b"\xff")
        written(tmp_path / "b.txt", b"y" * 100_000)
        parts = list(text_files(tmp_path, on_error="skip").pieces("train"))
        assert "".join(part for part, _ in parts) == "y" * 100_000
        assert max(len(part) for part, _ in parts) <= 1000
        assert [ends for _, ends in parts].count(True) == 1

    def test_preparation_reports_what_was_replaced(self, tmp_path: Path) -> None:
        said: list[str] = []
        tokenizer = build_tokenizer(Choice("byte"), assets=tmp_path, offline=True, documents=None)
        source = text_files(written(tmp_path / "a.txt", self.BAD), on_error="replace")
        prepare_tokens(source, tokenizer, assets=tmp_path, progress=said.append)
        assert "3 invalid bytes replaced by U+FFFD" in said[-1]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    content=st.text(st.sampled_from("ab éß字🦊\n\r"), max_size=40),
    encoding=st.sampled_from(["utf-8", "utf-16-le", "utf-32-be", "gb18030", "utf-7"]),
)
def test_character_across_two_blocks_is_decoded(
    content: str, encoding: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "blocks.txt"
    long = "x" * 8189 + content  # Python decodes 8,192 bytes at once
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK_CHARACTERS", 3)
        assert documents(written(file, long.encode(encoding)), encoding=encoding) == [long]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=st.binary(max_size=60))
def test_replaced_text_has_the_valid_characters_and_a_mark_for_each_invalid_byte(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    marked = content.decode("utf-8", "surrogateescape")
    expected = "".join("\ufffd" if "\udc80" <= character <= "\udcff" else character for character in marked)
    file = written(tmp_path_factory.getbasetemp() / "any.txt", b"a line of ASCII " * 99 + content)
    assert documents(file, on_error="replace") == ["a line of ASCII " * 99 + expected]


@pytest.mark.parametrize("encoding", sorted(set(filter(is_text_encoding, encodings.aliases.aliases.values()))))
def test_every_encoding_marks_or_decodes_any_bytes(encoding: str) -> None:
    content = bytes(range(256)) * 3
    unmarked, _ = encoding_at(content, encoding)
    decoded = io.TextIOWrapper(io.BytesIO(content), unmarked, errors=MARK_ERRORS, newline="").read()
    assert decoded
    assert (find_invalid(decoded) is None) == (decoded.isascii() or all(c < "\ud800" or c > "\udfff" for c in decoded))
