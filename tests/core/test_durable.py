"""Atomic and durable file replacement, and a test for locks that does not modify the lock file.

A file is synced before it is renamed to its final name: checked by recording fsyncs and renames.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from tfs_core.checkpoint import save_checkpoint
from tfs_core.checkpoint_folder import point_to
from tfs_core.contracts import ModelConfig
from tfs_core.data.prepare import prepare_tokens
from tfs_core.durable import is_locked, write_durably
from tfs_core.models import AutogradModel
from tfs_core.run_folder import RunFolder

FILELOCK = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire(blocking=False)
print("held", flush=True)
time.sleep(20)
"""

FLOCK = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("held", flush=True)
time.sleep(20)
"""
"""The lock of tfs versions before filelock."""


def test_write_durably_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_durably(path, b"old")
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["run.json"]


def test_write_durably_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_durably(path, b"old")

    def disk_is_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize(
    "hold",
    [FILELOCK, pytest.param(FLOCK, marks=pytest.mark.skipif(sys.platform == "win32", reason="no flock on Windows"))],
    ids=["filelock", "flock"],
)
def test_is_locked_until_the_process_that_holds_the_lock_is_killed(hold: str, tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with subprocess.Popen([sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert is_locked(path)
        with pytest.raises(Timeout):
            FileLock(path).acquire(blocking=False)
        other.kill()
    assert not is_locked(path)
    with FileLock(path, blocking=False):
        assert is_locked(path)


def test_asking_does_not_release_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with FileLock(path):
        assert is_locked(path)
        assert is_locked(path)
        with pytest.raises(Timeout):
            FileLock(path).acquire(blocking=False)


def test_is_locked_makes_no_file(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "run.lock")
    assert os.listdir(tmp_path) == []


def test_is_locked_needs_no_permission_to_write(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with FileLock(path):
        path.chmod(0o444)
        tmp_path.chmod(0o555)
        try:
            assert is_locked(path)
        finally:
            tmp_path.chmod(0o755)
    assert not is_locked(path)


# The order of writes, fsyncs and renames.

SEALS = ("manifest.json", "tokens.json")
"""Files that mark their folder as complete."""


class Disk:
    """Simulated disk state: the files that were synced, and the fsyncs and renames so far.

    A file is durable while its content equals that of its last fsync, and a folder while its names do: any later write
    makes it non-durable. `problems` lists renames of non-durable files.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, Path]] = []  # ("sync", path) or ("rename", target)
        self.problems: list[str] = []
        self.sealed: dict[str, object] = {}  # the files when the last seal was renamed, by their paths in the folder
        self._synced: dict[int, object] = {}  # inode -> content, or names, at the last fsync

    def sync(self, descriptor: int) -> None:
        """Record an fsync."""
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self._synced[path.stat().st_ino] = content_of(path)
        self.events.append(("sync", path))

    def rename(self, source: Path, target: Path, really: Callable[[Any, Any], None]) -> None:
        """Rename, and note what of the source, or of the folder that this file seals, is not durable."""
        published = [source, *source.rglob("*")]
        if target.name in SEALS:
            files = [path for path in target.parent.rglob("*") if path.is_file() and path != source]
            self.sealed = {path.relative_to(target.parent).as_posix(): content_of(path) for path in files}
            published += files
        for path in published:
            if self._synced.get(path.stat().st_ino) != content_of(path):
                self.problems.append(f"{path.name} is not durable when {source.name} becomes {target.name}")
        really(source, target)
        self.events.append(("rename", target))

    def published(self, path: Path) -> bool:
        """Return whether every rename to `path` was followed at once by an fsync of the folder that has the name."""
        renamed_at = [at for at, event in enumerate(self.events) if event == ("rename", path)]
        assert renamed_at, f"nothing was renamed to {path}"
        return all(self.events[at + 1 : at + 2] == [("sync", path.parent)] for at in renamed_at)


def content_of(path: Path) -> object:
    """Return the bytes of a file, or the names in a folder."""
    return frozenset(os.listdir(path)) if path.is_dir() else path.read_bytes()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Return a recorder of all fsyncs and renames from now on."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name what a descriptor is")
    disk = Disk()
    fsync = os.fsync

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        disk.sync(descriptor)

    monkeypatch.setattr("os.fsync", sync)
    for name in ("replace", "rename"):
        really = getattr(os, name)

        def rename(source: Any, target: Any, really: Callable[[Any, Any], None] = really) -> None:
            disk.rename(Path(source), Path(target), really)

        monkeypatch.setattr(f"os.{name}", rename)
    return disk


class Table(AutogradModel):
    """A model of one parameter."""

    def __init__(self) -> None:
        super().__init__(ModelConfig(), vocab_size=3)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.bias.expand(*input_ids.shape, 3)


class Letters:
    """A tokenizer of bytes, saved as two files, one of them in a folder."""

    vocab_size = 257
    end_of_text_id = 256

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def fingerprint(self) -> str:
        return "bytes"

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")
        (folder / "words").mkdir()
        (folder / "words" / "all.txt").write_text("a b c")


class Texts:
    """A source of a few documents."""

    def splits(self) -> Sequence[str]:
        return ("train",)

    def documents(self, split: str) -> Iterator[str]:
        yield from (f"document {i}" for i in range(9))

    def fingerprint(self) -> str:
        return "nine documents"


def test_checkpoint_is_durable_before_its_name_and_its_name_after(tmp_path: Path, disk: Disk) -> None:
    model = Table()
    optimizer = torch.optim.AdamW(model.parameters())
    model.loss(torch.tensor([[0, 1]]), torch.tensor([[1, 2]]))
    model.backward(1.0)
    optimizer.step()
    folder = tmp_path / "checkpoints" / "step-00000001"
    for step in (1, 1):  # the second time, the folder is replaced
        save_checkpoint(
            folder,
            model=model,
            optimizer=optimizer,
            state={"step": step},
            config_yaml="experiment_name: tiny\n",
            tokenizer=Letters(),  # type: ignore[arg-type]  # the part that is used
        )
        point_to(folder.parent, "latest", step)
    assert disk.problems == []
    for published in (folder, folder.parent / "latest"):
        assert disk.published(published)
    files = {path.relative_to(folder).as_posix(): content_of(path) for path in folder.rglob("*") if path.is_file()}
    del files["manifest.json"]
    assert set(files) >= {"model.safetensors", "optimizer.safetensors", "state.json", "tokenizer/words/all.txt"}
    assert disk.sealed == files, "the manifest is the last file"


def test_token_store_is_durable_before_its_name_and_its_name_after(tmp_path: Path, disk: Disk) -> None:
    source: Any = Texts()
    letters: Any = Letters()
    folder = prepare_tokens(source, letters, assets=tmp_path, validation_fraction=0.3).folder
    assert disk.problems == []
    assert disk.published(folder)
    files = {path.name: content_of(path) for path in folder.iterdir()}
    del files["tokens.json"], files["verified.json"]  # the latter is written when the store is opened
    assert len(files) == 4
    assert disk.sealed == files, "tokens.json is the last file"


def test_run_json_is_durable_before_its_name_and_its_name_after(tmp_path: Path, disk: Disk) -> None:
    with RunFolder.create(tmp_path, "tiny", "tiny") as run_folder:
        run_folder.write_info(tags=["durable"])
        run_folder.end("finished")
    path = run_folder.folder / "run.json"
    assert disk.problems == []
    synced_as = path.with_name(f".run.json.{os.getpid()}")
    once = [("sync", synced_as), ("rename", path), ("sync", run_folder.folder)]
    assert disk.events == once * 3  # on entering, the change, and the end


def test_file_written_after_its_fsync_is_a_problem(tmp_path: Path, disk: Disk) -> None:
    for name, late in (("good", b""), ("bad", b"late")):
        with (tmp_path / name).open("wb") as file:
            file.write(b"early")
            file.flush()
            os.fsync(file.fileno())
            file.write(late)
        os.replace(tmp_path / name, tmp_path / f"{name}.json")
    assert disk.problems == ["bad is not durable when bad becomes bad.json"]
    assert not disk.published(tmp_path / "good.json"), "the folder was not synced"
