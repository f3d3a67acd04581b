"""run.json and the lock: one process at a time, atomic writes, no private data."""

import json
import os
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tfs_core.errors import CheckpointError, TrainingError, UsageError
from tfs_core.run_folder import RunFolder, git_state, package_versions
from tfs_core.runs import HEARTBEAT_SECONDS


def info(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return read


def test_folders_of_one_experiment_are_numbered(tmp_path: Path) -> None:
    names = [RunFolder.create(tmp_path, None, "story").folder.name for _ in range(3)]
    assert names == ["story", "story-2", "story-3"]


def test_folders_made_at_once_are_all_different(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: RunFolder.create(tmp_path, None, "story").folder, range(24)))
    assert len(set(folders)) == 24


def test_chosen_name_that_exists_is_rejected(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "mine", "story")
    with pytest.raises(UsageError, match=r"exists already.*--resume mine"):
        RunFolder.create(tmp_path, "mine", "story")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".", "..", ".hidden", "-x", "a\\b", "bell\a", "con", "x" * 300])
def test_name_that_is_not_a_folder_name_is_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a run"):
        RunFolder.create(tmp_path, name, "story")
    assert not list(tmp_path.rglob("run*"))


def test_run_json_has_every_key_from_the_start(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, None, "story") as run_folder:
        keys = list(info(run_folder.folder))
        run_folder.write_info(device="cpu", summary={"last_step": 5})
        written = info(run_folder.folder)
    assert sorted(written) == sorted(keys)
    assert written["status"] == "running"
    assert written["device"] == "cpu"
    assert written["versions"]["tfs-core"]


def test_end_writes_status_and_time(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, None, "story") as run_folder:
        run_folder.end("finished", summary={"last_step": 9})
    written = info(run_folder.folder)
    assert (written["status"], written["summary"]) == ("finished", {"last_step": 9})
    assert datetime.fromisoformat(written["ended_at"]) <= datetime.now(UTC)


@pytest.mark.parametrize(("error", "status"), [(ValueError, "failed"), (KeyboardInterrupt, "stopped")])
def test_exception_that_ends_the_run_is_recorded(tmp_path: Path, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), RunFolder.create(tmp_path, None, "story"):
        raise error
    assert info(tmp_path / "runs" / "story")["status"] == status


def test_exception_after_the_end_leaves_the_status(tmp_path: Path) -> None:
    run_folder = RunFolder.create(tmp_path, None, "story")

    def fail_late() -> None:
        with run_folder:
            run_folder.end("finished")
            raise ValueError("late")

    with pytest.raises(ValueError, match="late"):
        fail_late()
    assert info(run_folder.folder)["status"] == "finished"


def test_open_keeps_identity_and_start_time(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, None, "story") as first:
        first.end("stopped", total_steps=100)
    before = info(first.folder)
    with RunFolder.open(first.folder):
        during = info(first.folder)
    assert (during["status"], during["ended_at"]) == ("running", None)
    for key in ("run_id", "name", "started_at", "total_steps"):
        assert during[key] == before[key]


def test_copy_of_a_run_is_a_run_of_its_own(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "story", "story") as run_folder:
        run_folder.end("finished", summary={"last_step": 5, "best_validation": None})
    copy = tmp_path / "runs" / "copy"
    shutil.copytree(run_folder.folder, copy)
    original = info(run_folder.folder)
    with RunFolder.open(copy) as copied:
        copied.end("finished")
    assert info(copy)["run_id"] != original["run_id"]
    assert info(copy)["name"] == "copy"
    assert info(copy)["forked_from"] == {"run": "story", "step": 5}

    moved = tmp_path / "runs" / "moved"
    run_folder.folder.rename(moved)
    with RunFolder.open(moved) as renamed:
        renamed.end("finished")
    assert info(moved)["run_id"] == original["run_id"]


def test_open_rejects_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"run\.json cannot be read"):
        RunFolder.open(tmp_path)


def test_open_rejects_another_format(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format_version": 99}')
    with pytest.raises(CheckpointError, match="has format 99"):
        RunFolder.open(tmp_path)


def test_run_in_use_is_rejected_and_names_the_process(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, None, "story") as run_folder:
        before = info(run_folder.folder)
        with (
            pytest.raises(TrainingError, match=rf"'story' is in use by process {os.getpid()} on "),
            RunFolder.open(run_folder.folder),
        ):
            pass
        assert info(run_folder.folder) == before


def test_lock_that_is_a_symbolic_link_is_rejected(tmp_path: Path) -> None:
    run_folder = RunFolder.create(tmp_path, None, "story")
    (run_folder.folder / "run.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrainingError, match=r"run\.lock cannot be locked"), run_folder:
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_heartbeat_writes_at_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder.create(tmp_path, None, "story") as run_folder:
        run_folder.heartbeat(summary={"last_step": 1})
        assert info(run_folder.folder)["summary"]["last_step"] == 0
        monkeypatch.setattr(run_folder, "_written_at", run_folder._written_at - HEARTBEAT_SECONDS)
        before = info(run_folder.folder)["heartbeat_at"]
        run_folder.heartbeat(summary={"last_step": 2})
    written = info(run_folder.folder)
    assert written["summary"] == {"last_step": 2}
    assert written["heartbeat_at"] >= before


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_git_state_is_commit_and_dirty_flag_and_no_remote(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "a.txt").write_text("a")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    git(tmp_path, "remote", "add", "origin", "https://user:secret@example.org/x.git")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "a.txt").write_text("b")
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}


def test_git_state_runs_no_program_that_a_repository_names(tmp_path: Path) -> None:
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "one")
    git(tmp_path, "config", "core.fsmonitor", "touch pwned; false")
    git_state(tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_git_state_runs_no_filter_of_a_repository(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / ".gitattributes").write_text("*.txt filter=evil")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    for kind in ("clean", "smudge", "process"):
        git(tmp_path, "config", f"filter.evil.{kind}", "touch pwned; cat")
    (tmp_path / ".git/info/attributes").write_text("* filter=evil")
    (tmp_path / "a.txt").write_text("b")  # as long as before: git has to compare the contents
    state = git_state(tmp_path)
    assert state is not None
    assert state["dirty"]
    assert not (tmp_path / "pwned").exists()


def test_git_state_is_none_without_repository_or_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path.cwd()) is None


def test_git_state_is_none_after_a_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("tfs_core.run_folder.GIT_SECONDS", 0.2)
    assert git_state(tmp_path) is None


def test_package_versions_are_none_for_what_is_not_installed() -> None:
    versions = package_versions(["tfs-core", "no-such-distribution"])
    assert versions["tfs-core"]
    assert versions["no-such-distribution"] is None


def test_run_json_holds_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    with RunFolder.create(tmp_path, None, "story") as run_folder:
        text = (run_folder.folder / "run.json").read_text(encoding="utf-8")
    assert "hf_very_secret" not in text
    assert str(tmp_path) not in text, "the folder can be moved: no absolute path"
    assert socket.gethostname() in text
