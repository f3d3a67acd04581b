"""Compressed files as streams of bytes. The format is detected by the first bytes of a file, not by its name."""

import bz2
import gzip
import io
import lzma
from typing import IO, Any

from tfs_datasets.needed import need

BLOCK_BYTES = 1 << 16

# No UTF-8 text begins with one of these.
GZIP = b"\x1f\x8b"
BZIP2 = (b"BZh", b"1AY&SY")  # with a digit between them
XZ = b"\xfd7zXZ\0"
ZSTANDARD = b"\x28\xb5\x2f\xfd"


def is_compressed(start: bytes) -> bool:
    """Return whether the first bytes of a file are those of a compressed one."""
    bzip2 = start.startswith(BZIP2[0]) and start[4:10] == BZIP2[1]
    return bzip2 or start.startswith((GZIP, XZ, ZSTANDARD))


def decompressed(raw: io.BufferedReader, name: str) -> io.BufferedReader:
    """Return the decompressed bytes of a stream at its beginning, or itself if it is not compressed.

    Reading raises EOFError, OSError, zlib.error or lzma.LZMAError for damaged data. Raises DataError, with the name of
    the file, when a library is missing.
    """
    start = raw.peek()
    stream: Any  # each library has its own type of IO[bytes]
    if not is_compressed(start):
        return raw
    if start.startswith(GZIP):
        stream = gzip.GzipFile(fileobj=raw)
    elif start.startswith(XZ):
        stream = lzma.LZMAFile(raw)  # noqa: SIM115
    elif start.startswith(ZSTANDARD):
        stream = _Zstandard(raw, name)
    else:
        stream = bz2.BZ2File(raw)
    return io.BufferedReader(stream, BLOCK_BYTES)


class _Zstandard(io.RawIOBase):
    """The decompressed bytes of all Zstandard frames of a file."""

    def __init__(self, raw: IO[bytes], name: str) -> None:
        need("zstandard", for_what=name, extra="zst")
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
        filled = 0
        while filled < len(buffer):
            if not self._ready and not self._decompress_block():
                break
            n = min(len(buffer) - filled, len(self._ready))
            buffer[filled : filled + n], self._ready = self._ready[:n], self._ready[n:]
            filled += n
        return filled

    def _decompress_block(self) -> bool:
        """Decompress the next block into `_ready`. Return False at the end."""
        block = self._compressed or self._raw.read(BLOCK_BYTES)
        if not block:
            if self._frame is not None and not self._frame.eof:
                raise EOFError
            return False
        if self._frame is None or self._frame.eof:
            self._frame = self._library.ZstdDecompressor().decompressobj()
        try:
            self._ready = memoryview(self._frame.decompress(block))
        except self._library.ZstdError as error:
            raise OSError(f"it is not valid Zstandard data: {error}") from error
        self._compressed = self._frame.unused_data if self._frame.eof else b""
        return True
