"""Checkpoint folders: written atomically, verified by checksums, and deleted safely.

    checkpoints/
      step-00000500/    model.safetensors, optimizer.safetensors, state.json, config.yaml, tokenizer/, and
        manifest.json   size in bytes and SHA-256 of every other file; written last
      latest, best      text files with the name of one of the folders

A folder is written under a hidden name (with a leading dot), flushed to the disk, and renamed. A folder with its final
name is therefore complete. The manifest detects damage that the disk causes later.
"""

import json
import os
import posixpath
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from tfs_core.durable import replace, sha256_of, sync_folder, write_durably
from tfs_core.errors import CheckpointError, NewerFormatError
from tfs_core.runs import CHECKPOINT_NAME, check_nothing_leads_out, is_inside
from tfs_core.stored_json import read_json

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_REPLACED = ".replaced-"


def checkpoint_name(step: int) -> str:
    """Return the folder name for a step. Names are zero-padded, so they sort by step (below 100 million)."""
    return f"step-{step:08d}"


def checkpoint_step(folder: Path) -> int:
    """Return the step in the name of a checkpoint folder. Raises CheckpointError for any other name."""
    match = CHECKPOINT_NAME.fullmatch(folder.name)
    if match is None:
        raise CheckpointError(f"{folder}: not the name of a checkpoint; expected one like {checkpoint_name(500)}")
    return int(match[1])


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Return the complete checkpoint folders, ordered by step."""
    if not checkpoints.is_dir():
        return []
    return sorted(
        (path for path in checkpoints.iterdir() if path.is_dir() and CHECKPOINT_NAME.fullmatch(path.name)),
        key=checkpoint_step,
    )


def write_checkpoint_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Create `folder` atomically from the files that `write(path)` creates in a temporary folder.

    An existing folder of that name is replaced. After a failure, such as a full disk, the temporary folder is deleted
    and all other folders are unchanged.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".writing-{folder.name}")
    replaced = folder.with_name(_REPLACED + folder.name)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write(temporary)
        _write_manifest(temporary)
        if folder.exists():
            replace(folder, replaced)
        replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if replaced.exists() and not folder.exists():
            replace(replaced, folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _write_manifest(folder: Path) -> None:
    """Flush every file to the disk, then write the manifest with the size and the checksum of each file."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    manifest = {"format_version": FORMAT_VERSION, "files": files}
    write_durably(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    for subfolder in folder.rglob("*/"):
        sync_folder(subfolder)
    sync_folder(folder)


def verify_checkpoint(folder: Path) -> None:
    """Compare every file with the manifest. Raises CheckpointError, naming the first file that differs."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such checkpoint")
    check_nothing_leads_out(folder)
    shape = {"files": {"state.json": dict, str: {"bytes": int, "sha256": str}}}
    manifest = read_json(folder / MANIFEST, shape, version=FORMAT_VERSION)
    read = [*("config.yaml", "model.safetensors", "optimizer.safetensors"), *_names_below(folder / "tokenizer")]
    for name in read:
        if os.path.lexists(folder / name) and name not in manifest["files"]:
            raise CheckpointError(
                f"{folder}: {MANIFEST} does not describe {name}. Remove it, or choose another checkpoint."
            )
    for name, entry in manifest["files"].items():
        path = folder / name
        try:
            if posixpath.normpath(f"x/{name}") != f"x/{name}" or not path.is_file() or not is_inside(path, folder):
                problem = "is missing, or is no file of this folder"
            elif path.stat().st_size != entry["bytes"] or sha256_of(path) != entry["sha256"]:
                problem = f"is damaged: it is not the file that {MANIFEST} describes"
            else:
                continue
        except (OSError, ValueError) as error:
            problem = f"cannot be read ({error})"
        raise CheckpointError(f"{folder}: {name} {problem}. Choose another checkpoint.")


def _names_below(folder: Path) -> list[str]:
    """Return the names of all files below a folder, relative to its parent."""
    return [path.relative_to(folder.parent).as_posix() for path in folder.rglob("*") if not path.is_dir()]


def newest_valid_checkpoint(checkpoints: Path) -> tuple[Path | None, list[CheckpointError]]:
    """Return the newest valid checkpoint, or None, and the errors of all newer ones.

    Raises NewerFormatError for a checkpoint of a newer tfs: it is valid, and only a newer tfs can resume from it.
    """
    damaged = []
    for folder in reversed(list_checkpoints(checkpoints)):
        try:
            verify_checkpoint(folder)
        except NewerFormatError:
            raise
        except CheckpointError as error:
            damaged.append(error)
        else:
            return folder, damaged
    return None, damaged


def point_to(checkpoints: Path, name: Literal["latest", "best"], step: int | None) -> None:
    """Write the name of the step's checkpoint to `latest` or `best`. Without such a checkpoint, delete the file."""
    if step is not None and (checkpoints / checkpoint_name(step)).is_dir():
        write_durably(checkpoints / name, f"{checkpoint_name(step)}\n".encode())
    else:
        (checkpoints / name).unlink(missing_ok=True)


def rotate(checkpoints: Path, *, keep: int, best_step: int | None) -> None:
    """Delete all but the newest `keep` checkpoints and the best one. Call it after writing a valid checkpoint.

    A folder that cannot be deleted, as on Windows while another process reads it, stays until the next rotation.
    """
    for folder in list_checkpoints(checkpoints)[: -max(keep, 1)]:
        if checkpoint_step(folder) != best_step:
            deleting = folder.with_name(f".deleting-{folder.name}")
            with suppress(OSError):
                replace(folder, deleting)
                shutil.rmtree(deleting)


def remove_leftovers(checkpoints: Path) -> None:
    """Clean up after a process that was killed while it wrote, replaced or deleted a checkpoint.

    The caller must hold the lock of the run.
    """
    for path in checkpoints.glob(".*-step-*"):
        original = path.with_name(path.name.removeprefix(_REPLACED))
        if path.name.startswith(_REPLACED) and not original.exists():
            replace(path, original)
        else:
            shutil.rmtree(path, ignore_errors=True)
    for path in checkpoints.glob(".*"):
        if path.is_file():
            path.unlink()


def move_aside(folders: list[Path], aside: Path) -> None:
    """Move checkpoints to the folder `aside`, so that a run can resume from an older one. Nothing is deleted."""
    for folder in folders:
        aside.mkdir(parents=True, exist_ok=True)
        target = aside / folder.name
        number = 2
        while target.exists():
            target = aside / f"{folder.name}-{number}"
            number += 1
        replace(folder, target)
