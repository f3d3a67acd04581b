"""Shards: parts of a token stream on disk, all of the same size. Each can be rebuilt from its start position.

shard-00000012.tokens.npy   uint16 (uint32 above 65,536 ids) [1 + size]: the token before the shard, then its tokens
shard-00000012.json         identity of the stream, start and end position of the shard; written last
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

from tfs_core.data.store import as_data_error
from tfs_core.durable import replace, sync_folder, write_durably

FORMAT_VERSION = 1
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
        """Return the position from the values of `to_json`."""
        return cls(int(values["epoch"]), tuple(map(int, values["document"])), int(values["token"]))

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

    def __init__(self, folder: Path, *, identity: dict[str, Any], size: int) -> None:
        """`identity` identifies the stream: shards with another identity are ignored. `size` is in tokens per shard."""
        self.folder = folder
        self._identity = identity | {"format_version": FORMAT_VERSION, "size": size}
        self._size = size

    def open(self, number: int) -> Shard | None:
        """Return a shard; None when it is missing, incomplete, or from another stream."""
        tokens_file, info_file = self._files(number)
        try:
            info = json.loads(info_file.read_bytes())
            tokens = np.load(tokens_file, mmap_mode="r", allow_pickle=False)
            if {key: info[key] for key in self._identity} != self._identity or tokens.shape != (1 + self._size,):
                return None
            start, end = StreamPlace.from_json(info["start"]), StreamPlace.from_json(info["end"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Shard(int(tokens[0]), tokens[1:], start, end)

    def write(self, number: int, tokens: NDArray[Any], start: StreamPlace, end: StreamPlace) -> None:
        """Write a shard atomically. Raises DataError when the folder cannot be written.

        `tokens` [1 + size] begins with the token before the shard.
        """
        tokens_file, info_file = self._files(number)
        info = self._identity | {"start": start.to_json(), "end": end.to_json()}
        with as_data_error(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            info_file.unlink(missing_ok=True)
            unfinished = self.folder / "unfinished.npy"
            try:
                with unfinished.open("wb") as file:
                    np.save(file, tokens)
                    file.flush()
                    os.fsync(file.fileno())
                replace(unfinished, tokens_file)
            finally:
                unfinished.unlink(missing_ok=True)  # after a failed write, free the space
            sync_folder(self.folder)
            write_durably(info_file, (json.dumps(info) + "\n").encode())

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
