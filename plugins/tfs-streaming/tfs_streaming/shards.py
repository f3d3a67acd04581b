"""Shards: a stream of tokens on disk, in parts of a fixed size, any of which can be made again from its place.

shard-00000012.tokens.npy   uint16 (uint32 past 65,536 ids) [1 + size]: the token before, and the shard's own
shard-00000012.json         what it was made from, and where in the stream it begins and ends; written last
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

from tfs_core.data.store import saying_why_not
from tfs_core.durable import replace, sync_folder, write_durably

FORMAT_VERSION = 1
_NAME = re.compile(r"shard-(\d{8,})\.tokens\.npy")


@dataclass(frozen=True)
class StreamPlace:
    """A place in the endless stream of tokens."""

    epoch: int = 0
    """Readings of the whole source before it."""

    document: tuple[int, ...] = ()
    """Which document, as the source counts; empty for the first."""

    token: int = 0
    """How many of the document's tokens, end of text included, come before."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "StreamPlace":
        """Return the place that `to_json` wrote down."""
        return cls(int(values["epoch"]), tuple(map(int, values["document"])), int(values["token"]))

    def to_json(self) -> dict[str, Any]:
        """Return the place as JSON values."""
        return asdict(self) | {"document": list(self.document)}


@dataclass(frozen=True)
class Shard:
    """A part of the stream, on disk; reading an element reads its page."""

    token_before: int  # end of text, if it is the stream's first
    tokens: NDArray[Any]  # uint16 or uint32 [size]
    start: StreamPlace
    end: StreamPlace  # the next one's start


class ShardFolder:
    """The shards of one stream, of which one process at a time writes and deletes."""

    def __init__(self, folder: Path, *, identity: dict[str, Any], size: int) -> None:
        """`identity` is what the tokens are made from, `size` how many of them a shard has."""
        self.folder = folder
        self._identity = identity | {"format_version": FORMAT_VERSION, "size": size}
        self._size = size

    def open(self, number: int) -> Shard | None:
        """Return a shard; None when it is not there, not whole, or made from something else."""
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
        """Put a shard there, in one piece. `tokens` begin with the one before. Raises DataError when it cannot be."""
        tokens_file, info_file = self._files(number)
        info = self._identity | {"start": start.to_json(), "end": end.to_json()}
        with saying_why_not(self.folder):
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
                unfinished.unlink(missing_ok=True)  # a full disk is not left fuller
            sync_folder(self.folder)
            write_durably(info_file, (json.dumps(info) + "\n").encode())

    def numbers(self) -> list[int]:
        """Return which shards are there."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def delete(self, number: int) -> None:
        """Delete a shard. One that cannot be, because somebody reads it on Windows, stays until the next time."""
        with suppress(OSError):
            for file in self._files(number):
                file.unlink(missing_ok=True)

    def _files(self, number: int) -> tuple[Path, Path]:
        return self.folder / f"shard-{number:08d}.tokens.npy", self.folder / f"shard-{number:08d}.json"
