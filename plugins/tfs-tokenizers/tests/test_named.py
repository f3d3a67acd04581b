"""Data sets and tokenizers given by a path, a run, or something that they are not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from tfs_tokenizers import named

from tfs_core import run as run_tfs
from tfs_core.cli.main import tfs
from tfs_core.config import load_config

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with text, and a run on it with a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "notes").mkdir()
    for name in ("notes.txt", "notes/1.txt", "notes/2.txt"):
        (folder / name).write_text("plain notes, plain words, plain text\n" * 200, encoding="utf-8")
    config = {
        "experiment_name": "story",
        "data": {
            "dataset": {"name": "text", "path": str(folder / "notes.txt")},
            "tokenizer": {"name": "bpe", "vocab_size": 270},
            "max_length": 16,
        },
        "model": {"name": "torch", "d_model": 8, "n_heads": 1, "n_blocks": 1, "d_ffn": 8, "max_seq_len": 16},
        "training": {"max_steps": 1, "batch_size": 2},
        "loggers": [],
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    run_tfs(load_config(folder / "run.yaml"), assets=folder / "assets")
    return folder


@pytest.fixture
def command(place: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return `command(*arguments)`, which calls `tfs tokenizer` in the folder with the text and the run."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("TFS_ASSETS", raising=False)
    return lambda *arguments: CliRunner().invoke(tfs, ["tokenizer", *arguments])


@pytest.mark.parametrize(
    "name", ["notes.txt", "./notes", "story", "assets/runs/story", "{name: text, path: notes.txt}"]
)
def test_text_is_analyzed_by_its_path_or_a_run_on_it(command: Command, name: str) -> None:
    result = command("analyze", name, "--tokenizer", "byte")
    assert result.exit_code == 0, result.output
    assert "recommended sizes" in result.output


@pytest.mark.parametrize("name", ["notes.txt", "story", "assets/runs/story/checkpoints/latest"])
def test_tokenizers_of_runs_are_compared_on_any_text(command: Command, name: str) -> None:
    result = command("compare", "story", "assets/runs/story", "byte", "--data", name)
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in result.output.splitlines()[1:]] == ["270", "270", "257"]


def test_tokenizer_of_a_run_is_the_copy_in_its_checkpoint(place: Path) -> None:
    tokenizer = named.tokenizer("story", assets=place / "assets")  # no text is needed: it is not trained again
    assert tokenizer.vocab_size == 270


def test_store_with_the_tokenizer_of_a_run_is_that_of_the_run(command: Command, place: Path) -> None:
    before = sorted((place / "assets" / "tokens").iterdir())
    assert command("pretokenize", "story", "story").exit_code == 0
    assert sorted((place / "assets" / "tokens").iterdir()) == before


def test_tokenizer_is_trained_on_the_text_of_a_run(command: Command) -> None:
    result = command("train", "registry", "story", "262")
    assert "text_bpe_262" in result.output, result.output


def test_path_comes_before_a_run_of_the_same_name(command: Command, place: Path) -> None:
    (place / "assets" / "runs" / "notes.txt").mkdir()
    (place / "assets" / "runs" / "notes.txt" / "run.json").write_text("{}")
    assert command("analyze", "notes.txt", "--tokenizer", "byte").exit_code == 0


@pytest.mark.parametrize("name", ["notes.txt", "./notes/1.txt", "./notes", "list.json"])
def test_text_in_place_of_a_tokenizer_is_named_so(command: Command, name: str) -> None:
    Path("list.json").write_text('["text"]', encoding="utf-8")
    result = command("compare", name)
    assert result.exit_code == 1
    assert "tokenizer.json" in result.output
    assert "If it is text, give it as the data set: with --data" in result.output


def test_run_without_a_checkpoint_is_an_error(command: Command, place: Path) -> None:
    (place / "assets" / "runs" / "empty").mkdir()
    (place / "assets" / "runs" / "empty" / "run.json").write_text("{}")
    result = command("analyze", "empty")
    assert result.exit_code == 1
    assert "The run 'empty' has no latest checkpoint" in result.output


@pytest.mark.parametrize("text", ["ab", "a\n", "one short line", "^" * 5000])
def test_text_of_any_length_is_analyzed_and_compared(command: Command, place: Path, text: str) -> None:
    (place / "short.txt").write_text(text)
    for arguments in (
        ("analyze", "short.txt"),
        ("compare", "byte", "{name: bpe, vocab_size: 300}", "--data", "short.txt"),
    ):
        result = command(*arguments)
        assert result.exit_code == 0, result.output
