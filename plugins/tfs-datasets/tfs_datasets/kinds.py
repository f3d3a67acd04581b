"""What a file is, by its first bytes: text, or one of the kinds of a table, with advice for each."""

import re
import tarfile
from dataclasses import dataclass

_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
MOST_CONTROL_CHARACTERS = 0.08
"""Share of control characters up to which a file counts as text. One of random bytes has 0.11."""


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name in the singular, and how to get at its text, a sentence."""

    name: str
    advice: str = ""
    holds_text: bool = False
    """The file probably holds text that the user wants: what to do is told even when other files were read."""

    def described(self) -> str:
        """Return the name with its article: "an MP3 recording"."""
        return f"{'an' if re.match('[AEIOaeiou]|M[P4]|RTF|HDF|LZ4', self.name) else 'a'} {self.name}"

    def counted(self, count: int) -> str:
        """Return a count of files: "1 PNG image", "2 PNG images"."""
        if count == 1:
            return f"1 {self.name}"
        return f"{count:,} {self.name[:-1] + 'ies' if self.name.endswith('y') else self.name + 's'}"


_IMAGE = "To use the text in it, extract it with a program for text recognition (OCR)."
_SOUND = "To use what is said in it, transcribe it into a text file."
_SAVE = "Open it in its program and save it as plain text (.txt, UTF-8) or as a Word document (.docx)."
_EXPORT = "Open it in its program and export the table as CSV (UTF-8), for the data set `csv`."
_EXTRA = "The data set `text` reads it after: pip install 'tfs-datasets[documents]'"
_UNPACK = "Unpack it and name the folder instead."
_NO_TEXT = "Name a file or a folder of text instead."

TEXT = Kind("text file", "Choose the data set that fits it: `text`, `jsonl` or `csv`.")
ZIP = Kind("zip archive", "Decompress the file, and name the archive.", holds_text=True)  # `members` reads others
TAR = Kind("tar archive")
NESTED_ARCHIVE = Kind("nested archive", "Unpack the outer archive and name the folder.", holds_text=True)
COMPRESSED_TWICE = Kind("twice compressed file", "Decompress it once, and name the result.", holds_text=True)
ENCRYPTED = Kind("encrypted file", "Unpack the archive with its password and name the folder instead.", holds_text=True)
LINK = Kind("archived link", "Unpack the archive and name the folder instead.")
DOCX = Kind("Word document", _EXTRA, holds_text=True)
PDF = Kind("PDF document", _EXTRA, holds_text=True)
EPUB = Kind("EPUB book", "The data set `text` reads it.", holds_text=True)
SCANNED_PDF = Kind(
    "scanned PDF document",
    "Its pages are pictures: make them text with a program for text recognition (OCR).",
    holds_text=True,
)
ENCRYPTED_PDF = Kind("encrypted PDF document", "Save it without its password.", holds_text=True)
PARQUET = Kind("Parquet file", "Choose the data set `parquet`.", holds_text=True)
BINARY = Kind("binary file", _NO_TEXT)
_UNMARKED = "Set encoding: {0} (--set data.dataset.encoding={0})."
UTF16_LE = Kind("unmarked UTF-16 file", _UNMARKED.format("utf-16-le"), holds_text=True)
UTF16_BE = Kind("unmarked UTF-16 file", _UNMARKED.format("utf-16-be"), holds_text=True)


_PARTS = rb"(?:\[Content_Types\]\.xml|_rels/|docProps/|customXml/|word/|xl/|ppt/)"
_OPEN_XML = rb"PK\x03\x04(?=.{26}" + _PARTS + rb")(?=.*"  # by the first name: an archive may hold such a document
_OPEN_DOCUMENT = rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis\.opendocument\."
_RIFF = rb"RIFF.{4}"

_TABLE: list[tuple[bytes, Kind]] = [
    # Documents
    (rb"%PDF-", PDF),
    (_OPEN_XML + rb"word/)", DOCX),
    (_OPEN_XML + rb"xl/)", Kind("Excel workbook", _EXPORT, holds_text=True)),
    (_OPEN_XML + rb"ppt/)", Kind("PowerPoint presentation", _SAVE, holds_text=True)),
    (rb"PK\x03\x04.{26}mimetypeapplication/epub\+zip", EPUB),
    (_OPEN_DOCUMENT + rb"spreadsheet", Kind("OpenDocument spreadsheet", _EXPORT, holds_text=True)),
    (_OPEN_DOCUMENT, Kind("OpenDocument file", _SAVE, holds_text=True)),
    (rb"PK\x03\x04.*\.iwa", Kind("Apple iWork document", _SAVE, holds_text=True)),
    (rb"\{\\rtf", Kind("RTF document", _SAVE, holds_text=True)),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind("old Microsoft Office document", _SAVE, holds_text=True)),
    (rb".{60}BOOKMOBI", Kind("Kindle book", "Convert it to EPUB or plain text.", holds_text=True)),
    (rb"AT&TFORM.{4}DJV", Kind("DjVu document", "Convert it to plain text.", holds_text=True)),
    (rb"%!PS-", Kind("PostScript document", "Convert it to PDF or plain text.", holds_text=True)),
    (rb"bplist00", Kind("Safari web archive or property list", "Save the page as HTML.", holds_text=True)),
    # Archives
    (rb"PK\x03\x04.{26}[^/\0]*/data\.pkl", Kind("PyTorch checkpoint", _NO_TEXT)),
    (rb"PK\x03\x04.{26}[^/]*\.npy", Kind("NumPy archive", _NO_TEXT)),
    (rb"PK\x03\x04|PK\x05\x06", ZIP),
    (rb"7z\xbc\xaf\x27\x1c", Kind("7z archive", _UNPACK, holds_text=True)),
    (rb"Rar!\x1a\x07", Kind("RAR archive", _UNPACK, holds_text=True)),
    (rb"MSCF\0\0\0\0", Kind("cabinet archive", _UNPACK, holds_text=True)),
    (rb"!<arch>\n", Kind("ar archive", _UNPACK)),
    (rb"\x04\x22\x4d\x18", Kind("LZ4 file", "Decompress it, and name the result.", holds_text=True)),
    (rb"\x1f[\x9d\xa0]", Kind(".Z file", "Decompress it, and name the result.", holds_text=True)),
    (rb"LZIP", Kind("lzip file", "Decompress it, and name the result.", holds_text=True)),
    (rb"\x1f\x8b|BZh.1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd", COMPRESSED_TWICE),
    # Images, sound, video, fonts
    (rb"\x89PNG\r\n\x1a\n", Kind("PNG image", _IMAGE)),
    (rb"\xff\xd8\xff", Kind("JPEG image", _IMAGE)),
    (rb"GIF8[79]a.{0,40}\0", Kind("GIF image", _IMAGE)),
    (rb"BM.{4}\0\0\0\0", Kind("BMP image", _IMAGE)),
    (rb"II\*\0|MM\0\*", Kind("TIFF image", _IMAGE)),
    (_RIFF + rb"WEBP", Kind("WebP image", _IMAGE)),
    (rb".{4}ftyp(?:heic|heix|mif1|msf1|avif)", Kind("HEIC image", _IMAGE)),
    (rb"\0\0\x01\0[^\0]\0", Kind("icon", _IMAGE)),
    (rb"8BPS\0", Kind("Photoshop image", _IMAGE)),
    (rb"ID3[\x02-\x04]|\xff[\xf2\xf3\xfb][^\0]{1,3}.{0,1024}\0\0", Kind("MP3 recording", _SOUND)),
    (rb"fLaC", Kind("FLAC recording", _SOUND)),
    (rb"OggS\0", Kind("Ogg recording", _SOUND)),
    (_RIFF + rb"WAVE", Kind("WAV recording", _SOUND)),
    (rb"MThd\0\0", Kind("MIDI file", _NO_TEXT)),
    (rb".{4}ftypM4A", Kind("M4A recording", _SOUND)),
    (rb".{4}ftyp", Kind("MP4 video", _SOUND)),
    (_RIFF + rb"AVI ", Kind("AVI video", _SOUND)),
    (rb"\x1aE\xdf\xa3", Kind("Matroska or WebM video", _SOUND)),
    (rb"FLV\x01", Kind("Flash video", _SOUND)),
    (rb"wOF[F2]|OTTO\0|\0\x01\0\0\0[^\0]", Kind("font", _NO_TEXT)),
    # Data and programs
    (rb"PAR1", PARQUET),
    (rb"SQLite format 3\0", Kind("SQLite database", "Export the table that holds the text as CSV.", holds_text=True)),
    (rb"\x93NUMPY", Kind("NumPy array", _NO_TEXT)),
    (rb"ARROW1\0\0", Kind("Arrow file", "Write the table as Parquet, for the data set `parquet`.", holds_text=True)),
    (
        rb"Obj\x01|ORC[^\x20-\x7e\n\r\t]",
        Kind("Avro or ORC table", "Write it as Parquet.", holds_text=True),
    ),
    (rb"\x89HDF\r\n\x1a\n", Kind("HDF5 file", _NO_TEXT)),
    (rb"GGUF[\x01-\x09]\0\0\0", Kind("GGUF model", _NO_TEXT)),
    (rb".{6}\0\0\{", Kind("safetensors file", _NO_TEXT)),
    (rb"\x80[\x02-\x05][\x95}\](cX]", Kind("Python pickle", _NO_TEXT)),
    (rb"\x7fELF|\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe|\0asm|MZ.{0,100}\0", Kind("program", _NO_TEXT)),
]
_KINDS = [(re.compile(pattern, re.DOTALL), kind) for pattern, kind in _TABLE]


def kind_of(start: bytes, decoded: str) -> Kind:
    """Return the kind of a file from its first bytes, and from the text that they are in the file's encoding."""
    for pattern, kind in _KINDS:
        if pattern.match(start):
            return kind
    if _is_tar(start):
        return TAR
    if len(_CONTROL.findall(decoded)) > MOST_CONTROL_CHARACTERS * len(decoded):
        return _utf16(start) or BINARY
    return TEXT


def _is_tar(start: bytes) -> bool:
    """Return whether the bytes begin with a header of a tar archive, by its checksum."""
    try:
        tarfile.TarInfo.frombuf(start[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _utf16(start: bytes) -> Kind | None:
    """Return the kind of UTF-16 without a byte-order mark that the bytes can be."""
    for encoding, kind in (("utf-16-le", UTF16_LE), ("utf-16-be", UTF16_BE)):
        try:
            text = start[: len(start) // 2 * 2].decode(encoding)
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                continue
            text = start[: error.start].decode(encoding)
        plain = sum(character.isascii() and (character.isprintable() or character.isspace()) for character in text)
        if all(character.isprintable() or character.isspace() for character in text) and plain * 20 >= len(text):
            return kind
    return None
