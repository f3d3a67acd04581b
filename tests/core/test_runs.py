"""Reading run folders: by name, in any state, and without following links out of them."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tfs_core.errors import CheckpointError
from tfs_core.run_folder import RunFolder
from tfs_core.runs import Run, assets_folder, find_checkpoint, find_run, list_runs, read_lines

ROOT = Path(__file__).parent.parent.parent


def make_run(assets: Path, name: str = "story", **info: Any) -> Run:
    folder = assets / "runs" / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished", "started_at": name, **info}))
    return find_run(name, assets)


def make_checkpoint(run: Run, step: int, *, complete: bool = True) -> Path:
    folder = run.folder / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    if complete:
        (folder / "manifest.json").write_text("{}")
    return folder


def point(run: Run, which: str, name: str) -> None:
    (run.folder / "checkpoints" / which).write_text(f"{name}\n")


def link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("this system does not let us make links")


def test_reading_imports_no_torch_numpy_or_pydantic() -> None:
    program = "import sys, tfs_core.runs; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


# Lines


def test_torn_last_line_is_left_and_bad_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n\0\0\0\nnot json\n[1]\n{"step":2}\n{"step":3,"lo')
    lines = read_lines(path)
    assert lines.rows == [{"step": 1}, {"step": 2}]
    assert lines.bad == 3
    assert lines.next_offset == path.read_bytes().rfind(b"\n") + 1


def test_reading_continues_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n{"st')
    first = read_lines(path)
    with path.open("ab") as file:
        file.write(b'ep":2}\n{"step":3}\n')
    second = read_lines(path, first.next_offset)
    assert first.rows + second.rows == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert read_lines(path, second.next_offset).rows == []


def test_text_with_unicode_line_separators_stays_one_line(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes('{"text":"a\u2028b\x85c"}\n'.encode())
    assert read_lines(path).rows == [{"text": "a\u2028b\x85c"}]


def test_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert make_run(tmp_path).metrics() == []


def test_log_file_that_links_out_of_the_run_is_ignored(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"step":1}\n')
    run = make_run(tmp_path)
    link(run.folder / "metrics.jsonl", secret)
    assert run.metrics() == []


def test_name_of_a_log_file_cannot_leave_the_run(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "secret.jsonl").write_text('{"step":1}\n')
    assert make_run(tmp_path).read("../secret").rows == []


# Status


def heartbeat(seconds_ago: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()


def test_status_is_running_while_the_lock_is_held_however_old_the_heartbeat(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, None, "story") as run_folder:
        path = run_folder.folder / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "heartbeat_at": heartbeat(9999)}))
        assert find_run("story", tmp_path).status == "running"
    assert find_run("story", tmp_path).status == "crashed"


def test_status_is_running_with_a_fresh_heartbeat_though_no_lock_is_seen(tmp_path: Path) -> None:
    assert make_run(tmp_path, status="running", heartbeat_at=heartbeat(5)).status == "running"


@pytest.mark.parametrize("at", [None, "yesterday", "2020-01-01T00:00:00"])
def test_status_is_crashed_when_the_heartbeat_is_not_a_time(tmp_path: Path, at: str | None) -> None:
    assert make_run(tmp_path, status="running", heartbeat_at=at).status == "crashed"


def test_status_of_an_ended_run_stays(tmp_path: Path) -> None:
    assert make_run(tmp_path, status="stopped", heartbeat_at=heartbeat(9999)).status == "stopped"


# Finding runs


def test_runs_are_listed_in_the_order_they_were_started(tmp_path: Path) -> None:
    make_run(tmp_path, "a", started_at="2026-02-02")
    make_run(tmp_path, "b", started_at="2026-01-01")
    (tmp_path / "runs" / "not-a-run").mkdir()
    (tmp_path / "runs" / "torn").mkdir()
    (tmp_path / "runs" / "torn" / "run.json").write_text('{"status": "run')
    assert [run.name for run in list_runs(tmp_path)] == ["b", "a"]


def test_link_to_itself_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    link(tmp_path / "runs" / "loop", Path("loop"))
    assert list_runs(tmp_path) == []


def test_run_that_links_out_of_the_runs_is_not_listed(tmp_path: Path) -> None:
    outside = make_run(tmp_path / "elsewhere").folder
    (tmp_path / "runs").mkdir()
    link(tmp_path / "runs" / "linked", outside)
    assert list_runs(tmp_path) == []


def test_run_is_found_by_name_and_by_folder(tmp_path: Path) -> None:
    folder = make_run(tmp_path).folder
    assert find_run("story", tmp_path).folder == folder
    assert find_run(str(folder), tmp_path / "other").folder == folder


def test_missing_run_names_the_nearest_one(tmp_path: Path) -> None:
    make_run(tmp_path, "story")
    make_run(tmp_path, "poem")
    with pytest.raises(CheckpointError, match=r"no run 'storry'.*Did you mean 'story'.*story, poem"):
        find_run("storry", tmp_path)


def test_missing_run_among_none_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no runs yet in .*tfs run --config configs/quickstart\.yaml"):
        find_run("story", tmp_path)
    assert (ROOT / "configs" / "quickstart.yaml").exists()


@pytest.mark.parametrize("target", ["", "../..", "a\0b", "x" * 5000, "runs/../.."])
def test_invalid_target_is_an_error(tmp_path: Path, target: str) -> None:
    with pytest.raises(CheckpointError, match="There is no run"):
        find_checkpoint(target, tmp_path)


# Checkpoints


def test_checkpoints_are_the_complete_ones_oldest_first(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    expected = [make_checkpoint(run, step) for step in (5, 40, 100000000)]
    make_checkpoint(run, 50, complete=False)
    (run.folder / "checkpoints" / ".writing-step-00000060").mkdir()
    assert run.checkpoints() == expected


def test_latest_and_best_are_what_the_pointers_name(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    five, forty = make_checkpoint(run, 5), make_checkpoint(run, 40)
    point(run, "best", "step-00000005")
    point(run, "latest", "step-00000040")
    assert (run.best, run.latest) == (five, forty)


def test_latest_without_a_usable_pointer_is_the_newest(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    newest = [make_checkpoint(run, step) for step in (5, 40)][-1]
    assert run.latest == newest
    point(run, "latest", "../../../elsewhere")
    assert run.latest == newest
    assert run.best is None


def test_find_checkpoint_takes_run_folder_pointer_or_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    five, forty = make_checkpoint(run, 5), make_checkpoint(run, 40)
    point(run, "best", five.name)
    point(run, "latest", forty.name)
    assert find_checkpoint("story", tmp_path) == forty
    assert find_checkpoint("story", tmp_path, "best") == five
    assert find_checkpoint(str(run.folder), tmp_path) == forty
    assert find_checkpoint(str(five), tmp_path) == five
    assert find_checkpoint(str(run.folder / "checkpoints" / "best"), tmp_path) == five


def test_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(CheckpointError, match="'story' has no latest checkpoint: nothing was saved"):
        find_checkpoint("story", tmp_path)
    make_checkpoint(run, 5)
    with pytest.raises(CheckpointError, match=r"no best checkpoint: it was never validated; its latest one is .*step-"):
        find_checkpoint("story", tmp_path, "best")


def test_missing_checkpoint_names_those_there_are(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    make_checkpoint(run, 5)
    with pytest.raises(CheckpointError, match=r"There is no .*'story' has these checkpoints: step-00000005"):
        find_checkpoint(str(run.folder / "checkpoints" / "step-00000006"), tmp_path)


def test_unfinished_checkpoint_is_rejected(tmp_path: Path) -> None:
    torn = make_checkpoint(make_run(tmp_path), 5, complete=False)
    with pytest.raises(CheckpointError, match=r"is not a complete checkpoint: it has no manifest\.json"):
        find_checkpoint(str(torn), tmp_path)


def test_assets_folder_is_option_then_environment_then_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFS_ASSETS", "there")
    assert assets_folder("here") == Path("here")
    assert assets_folder(None) == Path("there")
    monkeypatch.delenv("TFS_ASSETS")
    assert assets_folder(None) == Path("assets")


def test_looking_at_a_run_writes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, status="running")
    before = sorted(os.listdir(run.folder))
    assert (run.status, run.metrics(), run.checkpoints()) == ("crashed", [], [])
    assert sorted(os.listdir(run.folder)) == before
