"""The commands of docs/own-text.md, in its order, with a generated chat and few steps of a smaller model."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "own-text.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ {4}tfs (.+)$", PAGE, re.MULTILINE)
SMALL = ["--set", "training.max_steps=4", "--set", "model.d_model=8", "--set", "training.eval_every=2"]
SERVERS = ("dash",)  # it runs until it is stopped


def messages() -> list[tuple[str, str]]:
    verbs, things = ("seen", "fed", "found", "lost", "called"), ("cat", "ladder", "roof", "key", "car", "dog", "boat")
    return [
        ("Ada" if i % 2 else "Ben", f"have you {verbs[i % 5]} the {things[i % 7]} {i % 11} times?") for i in range(600)
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder with the two exports, without the assets of another test."""
    monkeypatch.delenv("TFS_ASSETS", raising=False)
    lines = [f"[12.03.24, 19:{i % 60:02}:00] {name}: {text}\n" for i, (name, text) in enumerate(messages())]
    (tmp_path / "messages.txt").write_text("".join(lines), encoding="utf-8")
    chat = {"messages": [{"from": name, "text": text} for name, text in messages()]}
    (tmp_path / "chats.json").write_text(json.dumps(chat), encoding="utf-8")
    return tmp_path


def call(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-c", "from tfs_core.cli.main import main; main()", *arguments]
    done = subprocess.run(command, cwd=folder, input="Ada:\nquit\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"tfs {shlex.join(arguments)}\n{done.stderr}"
    return done.stdout


def test_commands_of_the_page_work_in_its_order(folder: Path) -> None:
    words = [shlex.split(command) for command in COMMANDS]
    assert [command[0] for command in words] == [
        *("datasets", "datasets", "run", "chat", "generate", "generate", "run", "dash"),
    ]
    outputs = []
    for command in words:
        if command[0] == "run" and "--resume" in command:
            command += ["--set", "training.max_steps=6"]
        elif command[0] == "run":
            command += SMALL
        if command[0] not in SERVERS:
            outputs.append(call(folder, *command))
    assert "Ben: have you seen the cat 0 times?" in outputs[0]
    assert "Ben: have you seen the cat 0 times?\nAda: have you fed the ladder 1 times?" in outputs[1]
    assert "at step 6" in outputs[-1]


def test_data_set_of_the_page_is_read(folder: Path) -> None:
    (line,) = re.findall(r"^ {6}dataset: (\{.+\})$", PAGE, re.MULTILINE)
    call(folder, "run", "messages.txt", "--dry-run", *SMALL, "--set", f"data.dataset={line}")
