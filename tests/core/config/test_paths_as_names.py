"""A tokenizer or a data set chosen by a path: short for the component that takes one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tfs_core.config import Choice, RunConfig, load_config, resolved, to_yaml

Load = Callable[..., RunConfig]
Errors = Callable[..., list[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a tokenizer in it, two levels below the configuration."""
    folder = tmp_path / "assets" / "stories"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.mark.parametrize("path", ["assets/stories", "./assets/stories", "assets/stories/tokenizer.json"])
def test_path_of_a_tokenizer_is_short_for_the_component_file(
    folder: Path, load: Load, small: str, tmp_path: Path, path: str
) -> None:
    config = load(small.replace("gpt2", path))
    assert resolved(config)["data"]["tokenizer"]["name"] == "file"
    assert resolved(config)["data"]["tokenizer"]["path"] == str(tmp_path / path)


def test_path_of_a_tokenizer_takes_options_beside_it(folder: Path, load: Load, small: str) -> None:
    config = load(small.replace("gpt2", "{name: ./assets/stories, text_key: b}"))
    assert resolved(config)["data"]["tokenizer"] | {"folder": None} == {
        "name": "file",
        "path": str(folder),
        "folder": None,
        "text_key": "b",
    }


def test_path_of_a_tokenizer_survives_being_written_and_read_when_it_is_gone(
    folder: Path, load: Load, small: str, tmp_path: Path
) -> None:
    config = load(small.replace("gpt2", "./assets/stories"))
    (folder / "tokenizer.json").unlink()
    folder.rmdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_config(tmp_path / "other" / "config.yaml") == config


def test_path_of_a_tokenizer_from_the_command_line_is_relative_to_the_current_folder(
    folder: Path, load: Load, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "run.yaml").write_text(small, encoding="utf-8")
    config = load_config(tmp_path / "configs" / "run.yaml", overrides=["data.tokenizer=assets/stories"])
    assert resolved(config)["data"]["tokenizer"]["path"] == str(folder)


def test_path_of_a_tokenizer_that_is_not_there_is_an_error(errors: Errors, small: str, tmp_path: Path) -> None:
    (told,) = errors(small.replace("gpt2", "./absent/tokenizer.json"))
    assert told.endswith(f"data.tokenizer: there is no file or folder {tmp_path / 'absent' / 'tokenizer.json'}")


def test_full_name_of_a_tokenizer_is_not_a_path(load: Load, errors: Errors, small: str) -> None:
    assert load(small.replace("gpt2", "stand-ins/gpt2")).data.tokenizer.name == "stand-ins/gpt2"
    (told,) = errors(small.replace("gpt2", "stand-ins/gpt"))
    assert "there is no tokenizer 'stand-ins/gpt'. Did you mean 'stand-ins/gpt2'?" in told


@pytest.mark.usefixtures("folder")
def test_path_is_a_name_like_any_other_for_a_kind_that_takes_none(errors: Errors, small: str) -> None:
    (told,) = errors(small, "training.optimizer=./assets/stories")
    assert "there is no optimizer './assets/stories'" in told


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("./my.txt", "text"),
        ("my.txt", "text"),
        ("notes", "text"),
        ("./notes/", "text"),
        ("chat.json", "jsonl"),
        ("./Chat.JSONL", "jsonl"),
        ("chat.jsonl.gz", "jsonl"),
        ("a.b/my", "text"),
    ],
)
def test_path_of_a_data_set_is_short_for_the_component_that_reads_it(
    path: str, name: str, load: Load, small: str, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "a.b").mkdir()
    if "notes" not in path:
        (tmp_path / path).write_text("a", encoding="utf-8")
    for config in (load(small.replace("tinystories", path)), load(small, f"data.dataset={path}")):
        assert (config.data.dataset.name, config.data.dataset.options.path) == (name, tmp_path / path)


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["a.jsonl"], "jsonl"),
        (["a.jsonl", "2024/b.JSON", "2024/c.jsonl.gz", ".DS_Store", ".git/HEAD"], "jsonl"),
        (["a.jsonl", "2024/notes.txt"], "text"),
        (["a.txt"], "text"),
        ([".hidden.jsonl"], "text"),
        ([], "text"),
    ],
)
def test_folder_is_short_for_the_component_that_reads_all_its_files(
    files: list[str], name: str, load: Load, small: str, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    for file in files:
        (tmp_path / "mine" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / file).write_text("a", encoding="utf-8")
    for config in (load(small.replace("tinystories", "./mine")), load(small, "data.dataset=mine")):
        assert (config.data.dataset.name, config.data.dataset.options.path) == (name, tmp_path / "mine")


def test_component_comes_before_a_file_of_its_name(load: Load, small: str, tmp_path: Path) -> None:
    (tmp_path / "tinystories").write_text("a", encoding="utf-8")
    assert load(small).data.dataset == Choice("tinystories")


@pytest.mark.parametrize("path", ["./my.txt", "my.txt", "notes/2024"])
def test_path_of_a_data_set_that_is_not_there_is_an_error(path: str, errors: Errors, small: str) -> None:
    (line,) = errors(small.replace("tinystories", path))
    assert line.startswith("run.yaml:2: data.dataset: there is no ")
