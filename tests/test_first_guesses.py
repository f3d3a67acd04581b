"""What a newcomer types first leads on: `tfs train`, `tfs run my.txt`, `tfs run base.yaml`, other tools' words."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click import UsageError

from tfs_core.cli.main import core_commands, tfs
from tfs_core.config import load_config
from tfs_core.config.other_names import our_names
from tfs_core.registry import get_registry

TEXT = "".join(f"On day {day} the cat of house {day * 7 % 31} sat on mat {day * 5 % 13}.\n" for day in range(400))
CONFIG = """\
experiment_name: small
data: {dataset: ./corpus, tokenizer: byte, max_length: 16}
model: {name: torch, d_model: 8, n_heads: 2, n_blocks: 1, d_ffn: 16, max_seq_len: 16}
training: {batch_size: 2, max_steps: 3}
"""
SHORT = ["--set", "training.max_steps=3", "--set", "model.d_model=8", "--set", "training.eval_every=2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty current folder with a text file and a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFS_ASSETS", raising=False)
    (tmp_path / "my book.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "base.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from tfs_core.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def settings(run: Path) -> Any:
    return load_config(run / "config.yaml")


def test_tfs_run_takes_a_configuration(folder: Path) -> None:
    result = call("run", "base.yaml")
    assert result.returncode == 0, result.stderr
    assert settings(folder / "assets/runs/small").data.dataset.name == "text"


@pytest.mark.parametrize("text", ["my book.txt", "corpus"])
def test_tfs_run_takes_text(text: str, folder: Path) -> None:
    result = call("run", text, *SHORT)
    assert result.returncode == 0, result.stderr
    assert f"{text} is not a configuration (.yaml), so it is text: it trains a small model" in result.stderr
    config = settings(folder / "assets/runs" / text.replace(" ", "-").removesuffix(".txt"))
    assert (config.model.name, config.training.max_steps) == ("baseline", 3)
    assert config.data.dataset.options.path == folder / text


def test_tfs_run_takes_text_with_a_configuration(folder: Path) -> None:
    result = call("run", "my book.txt", "--config", "base.yaml")
    assert result.returncode == 0, result.stderr
    config = settings(folder / "assets/runs/small")
    assert (config.model.name, config.data.dataset.options.path) == ("torch", folder / "my book.txt")


def test_dry_run_takes_text(folder: Path) -> None:
    result = call("run", "my book.txt", "--dry-run", *SHORT)
    assert result.returncode == 0, result.stderr
    assert "The dry run succeeded" in result.stdout
    assert not (folder / "assets/runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base"], "there is no file base. Did you mean base.yaml?"),
        (["bse.yaml"], "there is no file bse.yaml. Did you mean 'base.yaml'?"),
        (["my.txt"], "there is no file my.txt. FILE is a configuration (.yaml), or text to train on."),
        (["base.yaml", "--config", "base.yaml"], "base.yaml and base.yaml are both configurations: give one of them"),
        (["x" * 5000], "there is no file x"),
        (["python-stdlib"], "'python-stdlib' is a data set. Train on it: tfs run --config FILE --set data.dataset=py"),
        (["my book.txt", "training.max_steps=3"], "give one FILE or folder, not 2, and each setting with --set"),
        (["my book.txt", "corpus", "base.yaml"], "give one FILE or folder, not 3"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_file_that_tfs_run_cannot_take_is_a_sentence(arguments: list[str], message: str) -> None:
    result = call("run", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"Error: {message}" in result.stderr


@pytest.mark.usefixtures("folder")
def test_name_of_a_run_leads_to_resume() -> None:
    assert call("run", "base.yaml").returncode == 0
    assert "'small' is a run. Continue it: tfs run --resume small" in call("run", "small").stderr


def test_command_that_goes_on_names_the_folder_of_the_runs(folder: Path) -> None:
    place = ["--assets", "other folder"]
    command = [sys.executable, "-c", "from tfs_core.cli.main import main; main()", "run", "base.yaml", *place]
    command += ["--set", "training.max_steps=100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        next(line for line in run.stdout if line.startswith("step "))
        run.send_signal(signal.SIGTERM)
        told = run.stdout.read()
    assert told.rstrip().endswith("Continue with: tfs run --resume small --assets 'other folder'")
    told = call("run", "small", *place).stderr
    assert "Continue it: tfs run --resume small --assets 'other folder'" in told


@pytest.mark.parametrize(
    ("option", "setting"),
    [
        ("--lr", "training.learning_rate"),
        ("--batch-size", "training.batch_size"),
        ("--max_iters=5", "training.max_steps"),
        ("--training.max_steps", "training.max_steps"),
        ("--n-layer", "model.n_blocks"),
    ],
)
def test_option_of_another_tool_leads_to_the_setting(option: str, setting: str, folder: Path) -> None:
    result = call("run", str(folder / "base.yaml"), option, "3")
    assert (result.returncode, result.stdout) == (2, "")
    assert f"Settings are given with --set: --set {setting}=VALUE" in result.stderr
    assert "--set" not in call("doctor", option, "3").stderr


@pytest.mark.parametrize("word", our_names("commands"))
def test_word_of_another_tool_leads_to_commands_that_exist(word: str) -> None:
    (lead,) = our_names("commands")[word]
    with pytest.raises(UsageError, match=re.escape(f"there is no command '{word}'. {lead}.")):
        tfs.main([word], standalone_mode=False)
    commands = {*core_commands(), *(entry.component.name for entry in get_registry().entries("command"))}
    named = re.findall(r"tfs ([a-z]+)", lead)
    assert named or "tfs --" in lead
    assert set(named) <= commands
    assert word not in commands


def test_quiet_after_the_command_says_where_it_goes(folder: Path) -> None:
    assert "--quiet comes before the command: tfs --quiet COMMAND" in call("run", "base.yaml", "--quiet").stderr
    assert call("--quiet", "run", "base.yaml").returncode == 0
