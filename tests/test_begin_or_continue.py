"""`tfs run --config X --resume auto` for a job script: the same command begins a run or continues it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from filelock import FileLock

import tfs_core
import tfs_core.run
from tfs_core.cli.main import tfs
from tfs_core.errors import CheckpointError, TrainingError, UsageError
from tfs_core.run_folder import RunFolder
from tfs_core.runs import find_run, list_runs


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return the file of a small configuration."""
    (tmp_path / "text.txt").write_text("\n".join(f"{i} and {i} are {2 * i}." for i in range(200)), encoding="utf-8")
    values = {
        "experiment_name": "small",
        "data": {"dataset": {"name": "text", "path": "text.txt", "separator": ".\n"}, "tokenizer": "byte"},
        "model": {"name": "torch", "d_model": 8, "n_heads": 2, "n_blocks": 1, "max_seq_len": 256},
        "training": {"max_steps": 3, "batch_size": 1, "eval_every": None},
        "runtime": {"threads": 1, "matmul": "highest"},
    }
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


@pytest.fixture
def job(config: Path, tmp_path: Path) -> Callable[..., Result]:
    """Return `job(*arguments)`: the command of a job script with more arguments."""

    def run(*arguments: str) -> Result:
        assets = ["--assets", str(tmp_path / "assets")]
        return CliRunner().invoke(tfs, ["run", "--config", str(config), "--resume", "auto", *assets, *arguments])

    return run


def killed(folder: Path) -> None:
    """Change a finished run to one that was killed before its first checkpoint."""
    for path in sorted((folder / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    info = json.loads((folder / "run.json").read_bytes())
    (folder / "run.json").write_text(json.dumps({**info, "status": "running", "ended_at": None}), encoding="utf-8")


@pytest.mark.parametrize("name", [[], ["--name", "mine"]])
def test_same_command_begins_continues_and_ends_a_run(
    name: list[str], job: Callable[..., Result], tmp_path: Path
) -> None:
    for more, steps in (([], 3), ([], 3), (["--set", "training.max_steps=5"], 5)):
        done = job(*name, *more)
        assert done.exit_code == 0, done.output
        (run,) = list_runs(tmp_path / "assets")
        assert run.name == (name[1] if name else "small")
        assert [line["step"] for line in run.metrics()] == list(range(1, steps + 1))
        assert run.status == "finished"


@pytest.mark.parametrize("name", [[], ["--name", "mine"]])
def test_run_killed_before_its_first_checkpoint_is_begun_again_in_its_place(
    name: list[str], job: Callable[..., Result], tmp_path: Path
) -> None:
    job(*name)
    (run,) = list_runs(tmp_path / "assets")
    killed(run.folder)
    done = job(*name)
    assert done.exit_code == 0, done.output
    assert "is begun again, in its place" in done.output
    (again,) = list_runs(tmp_path / "assets")
    assert again.info["run_id"] == run.info["run_id"]
    assert [line["step"] for line in again.metrics()] == [1, 2, 3]
    assert again.status == "finished"
    assert (again.folder / "aside" / "metrics-1.jsonl").exists(), "nothing is deleted"


def test_folder_without_any_file_of_a_run_is_begun_in(job: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "assets" / "runs" / "mine").mkdir(parents=True)
    done = job("--name", "mine")
    assert done.exit_code == 0, done.output
    assert find_run("mine", tmp_path / "assets").status == "finished"


def test_name_of_a_killed_run_is_begun_again_without_resume_too(config: Path, tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    killed(tfs_core.run(config, name="kk", assets=assets).folder)
    with pytest.raises(CheckpointError, match=r"has no checkpoint .* --resume auto --name kk"):
        tfs_core.run(resume="kk", assets=assets)
    run = tfs_core.run(config, name="kk", assets=assets)
    assert len(run.metrics()) == 3
    with pytest.raises(UsageError, match="exists already"):
        tfs_core.run(config, name="kk", assets=assets)


def test_real_kill_before_the_first_checkpoint(config: Path, tmp_path: Path) -> None:
    """A real process, killed by itself after its first log line, and the same command again."""
    script = (
        "import os, signal, sys, tfs_core\n"
        "from tfs_core.builtin.jsonl import JsonlLogger\n"
        "if sys.argv[3] == 'die':\n"
        "    JsonlLogger.on_step = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "tfs_core.run(sys.argv[1], assets=sys.argv[2], resume='auto')\n"
    )
    codes = [
        subprocess.run([sys.executable, "-c", script, config, tmp_path / "assets", how], check=False).returncode
        for how in ("die", "live")
    ]
    assert codes == [-signal.SIGKILL, 0]
    (run,) = list_runs(tmp_path / "assets")
    assert len(run.metrics()) == 3
    assert [path for path in run.folder.iterdir() if path.name.startswith(".")] == []


def test_auto_needs_a_configuration_and_is_no_name(config: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--resume auto needs the configuration"):
        tfs_core.run(resume="auto", assets=tmp_path)
    with pytest.raises(UsageError, match="--resume auto has another meaning"):
        tfs_core.run(config, name="auto", assets=tmp_path)


def refuse_to_work(*_: Any, **__: Any) -> None:
    raise AssertionError("work began before the refusal")


@pytest.mark.parametrize("name", ["taken", "nul", "a/b", ".hidden"])
def test_name_is_judged_before_any_work(
    name: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder.create(tmp_path, "taken", "small") as folder:
        folder.end("finished")
    monkeypatch.setattr(sys.modules["tfs_core.run"], "prepare", refuse_to_work)
    with pytest.raises(UsageError, match="exists already" if name == "taken" else "cannot name a run"):
        tfs_core.run(config, name=name, assets=tmp_path)


def test_run_in_use_is_refused_before_any_work(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tfs_core.run(config, assets=tmp_path)
    monkeypatch.setattr(sys.modules["tfs_core.run"], "prepare", refuse_to_work)
    with FileLock(run.folder / "run.lock"), pytest.raises(TrainingError, match="is in use by process"):
        tfs_core.run(resume=run.name, assets=tmp_path, overrides=["training.max_steps=9"])


def test_run_with_the_name_of_a_checkpoint_is_resumed_by_name(config: Path, tmp_path: Path) -> None:
    tfs_core.run(config, name="step-00000020", assets=tmp_path)
    run = tfs_core.run(resume="step-00000020", assets=tmp_path, overrides=["training.max_steps=4"])
    assert len(run.metrics()) == 4


@pytest.mark.skipif(os.name == "nt", reason="the shell closes the streams")
@pytest.mark.parametrize(
    ("redirection", "stream"), [(">&-", "stdout"), ("<&-", "stdin"), ("2>&-", "stderr"), (">&- 2>&-", "stdout")]
)
def test_closed_streams_do_not_stop_a_run(redirection: str, stream: str, config: Path, tmp_path: Path) -> None:
    command = f'"{Path(sys.executable).with_name("tfs")}" run --config "{config}" --assets "{tmp_path}" {redirection}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (f"{stream} is closed" in done.stderr) == ("2>&-" not in redirection)
    (run,) = list_runs(tmp_path)
    assert run.status == "finished"
    assert all(line["step"] for line in run.metrics())
    assert run.read("metrics").bad == 0, "nothing that is printed gets into a file"
