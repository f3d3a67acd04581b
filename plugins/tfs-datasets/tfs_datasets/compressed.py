"""Compressed files as streams of bytes. The format is detected by the first bytes of a file, not by its name."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tfs_core.errors import DataError
from tfs_datasets.needed import need

BLOCK_BYTES = 1 << 16

# No UTF-8 text begins with one of these.
GZIP = b"\x1f\x8b"
BZIP2 = (b"BZh", b"1AY&SY")  # with a digit between them
XZ = b"\xfd7zXZ\0"
ZSTANDARD = b"\x28\xb5\x2f\xfd"


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, with transparent decompression. Raises DataError when it is damaged or truncated."""
    try:
        with file.open("rb") as raw:
            start = raw.read(10)
            raw.seek(0)
            yield _decompressed(raw, start, file)
    except EOFError as error:
        raise DataError(f"{file} is truncated: its compressed data has no end. Copy or download it again.") from error
    except (OSError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _decompressed(raw: IO[bytes], start: bytes, file: Path) -> Any:  # each library has its own type of IO[bytes]
    if start.startswith(GZIP):
        return gzip.GzipFile(fileobj=raw)
    if start.startswith(BZIP2[0]) and start[4:] == BZIP2[1]:
        return bz2.BZ2File(raw)
    if start.startswith(XZ):
        return lzma.LZMAFile(raw)
    if start.startswith(ZSTANDARD):
        return io.BufferedReader(_Zstandard(raw, file), BLOCK_BYTES)
    return raw


class _Zstandard(io.RawIOBase):
    """The decompressed bytes of all Zstandard frames of a file."""

    def __init__(self, raw: IO[bytes], file: Path) -> None:
        need("zstandard", for_what=str(file), extra="zst")
        import zstandard

        self._library = zstandard
        self._raw = raw
        self._frame: Any = None  # a decompressor of `zstandard`
        self._compressed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """Return True: the stream can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into the buffer and return the number of bytes, 0 at the end. Raises EOFError and OSError."""
        while not self._ready:
            block = self._compressed or self._raw.read(BLOCK_BYTES)
            if not block:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._library.ZstdDecompressor().decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(block))
            except self._library.ZstdError as error:
                raise OSError(f"it is not valid Zstandard data: {error}") from error
            self._compressed = self._frame.unused_data if self._frame.eof else b""
        n = min(len(buffer), len(self._ready))
        buffer[:n], self._ready = self._ready[:n], self._ready[n:]
        return n
