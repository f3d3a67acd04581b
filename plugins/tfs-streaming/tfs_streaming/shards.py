"""Shards: parts of a token stream on disk, all of the same size. Each can be rebuilt from its start position.

shard-00000012.tokens.npy   uint16 (uint32 above 65,536 ids) [1 + size]: the token before the shard, then its tokens
shard-00000012.json         identity of the stream, start and end position of the shard, checksums; written last
"""

import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfs_core.data.store import as_data_error, check_ids, checksum_of, open_array, token_dtype
from tfs_core.durable import replace, sha256_of, sync_folder, write_durably
from tfs_core.errors import CheckpointError
from tfs_core.stored_json import read_json

FORMAT_VERSION = 1

PLACE = {"epoch": int, "document": [int], "token": int}
INFO = {"start": PLACE, "end": PLACE, "sha256?": str, "checksum?": str}
"""The shape of a shard's JSON file (see `tfs_core.stored_json`). Shards of an older tfs have no checksums."""

_NAME = re.compile(r"shard-(\d{8,})\.tokens\.npy")


@dataclass(frozen=True)
class StreamPlace:
    """A position in the endless stream of tokens."""

    epoch: int = 0
    """Complete passes over the source before this position."""

    document: tuple[int, ...] = ()
    """Position of the document in the source, in the source's own numbering; empty for the first document."""

    token: int = 0
    """Number of tokens of this document, end of text included, before this position."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "StreamPlace":
        """Return the position from the values of `to_json`, which must have the shape `PLACE`."""
        return cls(values["epoch"], tuple(values["document"]), values["token"])

    def to_json(self) -> dict[str, Any]:
        """Return the position as JSON values."""
        return asdict(self) | {"document": list(self.document)}


@dataclass(frozen=True)
class Shard:
    """A memory-mapped part of the stream."""

    token_before: int  # end of text for the first shard of the stream
    tokens: NDArray[Any]  # uint16 or uint32 [size]
    start: StreamPlace
    end: StreamPlace  # start of the next shard


class ShardFolder:
    """The folder with the shards of one stream. Only one process at a time may write and delete."""

    def __init__(self, folder: Path, *, identity: dict[str, Any], size: int, vocab_size: int) -> None:
        """`identity` identifies the stream: shards with another identity are ignored. `size` is in tokens per shard."""
        self.folder = folder
        self._vocab_size = vocab_size
        self._identity = identity | {"format_version": FORMAT_VERSION, "size": size}
        self._size = size

    def open(self, number: int) -> Shard | None:
        """Return a shard, after reading it completely; None when it is missing, damaged, or from another stream."""
        tokens_file, info_file = self._files(number)
        try:
            info = read_json(info_file, INFO, version=FORMAT_VERSION)
            if {key: info.get(key) for key in self._identity} != self._identity:
                return None
            if "checksum" in info and info["checksum"] != checksum_of(info):
                return None
            tokens = open_array(tokens_file, 1 + self._size, token_dtype(self._vocab_size))
            if info.get("sha256") not in (None, sha256_of(tokens_file)):
                return None
            check_ids(tokens, self._vocab_size, tokens_file)
        except (OSError, CheckpointError):
            return None
        return Shard(
            int(tokens[0]), tokens[1:], StreamPlace.from_json(info["start"]), StreamPlace.from_json(info["end"])
        )

    def write(self, number: int, tokens: NDArray[Any], start: StreamPlace, end: StreamPlace) -> None:
        """Write a shard atomically. Raises DataError when the folder cannot be written.

        `tokens` [1 + size] begins with the token before the shard.
        """
        tokens_file, info_file = self._files(number)
        with as_data_error(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            info_file.unlink(missing_ok=True)
            unfinished = self.folder / "unfinished.npy"
            unfinished.unlink(missing_ok=True)
            try:
                with unfinished.open("xb") as file:
                    np.save(file, tokens)
                    file.flush()
                    os.fsync(file.fileno())
                sha256 = sha256_of(unfinished)
                replace(unfinished, tokens_file)
            finally:
                unfinished.unlink(missing_ok=True)  # after a failed write, free the space
            sync_folder(self.folder)
            info = self._identity | {"start": start.to_json(), "end": end.to_json(), "sha256": sha256}
            write_durably(info_file, (json.dumps(info | {"checksum": checksum_of(info)}) + "\n").encode())

    def numbers(self) -> list[int]:
        """Return the numbers of the shards on disk, in order."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def delete(self, number: int) -> None:
        """Delete a shard. A shard that a process has open stays on Windows until the next call."""
        with suppress(OSError):
            for file in self._files(number):
                file.unlink(missing_ok=True)

    def _files(self, number: int) -> tuple[Path, Path]:
        return self.folder / f"shard-{number:08d}.tokens.npy", self.folder / f"shard-{number:08d}.json"
