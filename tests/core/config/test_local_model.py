from collections.abc import Callable
from pathlib import Path

import pytest

from tfs_core.config import Choice, RunConfig, load_config, load_local_model, resolved, to_yaml
from tfs_core.errors import ConfigError

Load = Callable[..., RunConfig]
Errors = Callable[..., list[str]]

MODEL = """\
from __future__ import annotations

from dataclasses import dataclass

import neighbor
from tfs_core.contracts import ModelConfig


@dataclass(frozen=True, kw_only=True)
class MyConfig(ModelConfig):
    width: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 2:
            raise ValueError(f"width must be even, not {self.width}")


class MyModel:
    def __init__(self, config: MyConfig, *, vocab_size, generator):
        self.config = config


def build(config: MyConfig, *, vocab_size, generator):
    return MyModel(config, vocab_size=vocab_size, generator=generator)


def no_annotation(config, *, vocab_size, generator):
    return None
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "my_model.py").write_text(MODEL, encoding="utf-8")
    (folder / "neighbor.py").write_text("print('imported')\n", encoding="utf-8")
    return folder


def choose(folder: Path, attribute: str = "MyModel", **options: object) -> Choice:
    return Choice(f"{folder / 'my_model.py'}:{attribute}", options)


def test_local_model_is_relative_to_the_file_and_not_imported(
    folder: Path, small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "run.yaml").write_text(small.replace("model: torch", "model: {name: './my_model.py:MyModel', width: 6}"))
    config = load_config(folder / "run.yaml")
    assert config.model == Choice(f"{folder / 'my_model.py'}:MyModel", {"width": 6})
    assert resolved(config)["model"] == {"name": f"{folder / 'my_model.py'}:MyModel", "width": 6}
    assert capsys.readouterr().out == ""


def test_local_model_survives_being_written_and_read(folder: Path, load: Load, small: str, tmp_path: Path) -> None:
    config = load(small.replace("model: torch", "model: {name: 'models/my_model.py:MyModel', width: 6}"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_config(tmp_path / "other" / "config.yaml") == config


def test_local_model_from_the_command_line_is_relative_to_the_current_folder(
    folder: Path, load: Load, small: str
) -> None:
    assert load(small, model="./models/my_model.py:MyModel").model == choose(folder)
    assert load(small, "model=./models/my_model.py:MyModel").model == choose(folder)


def test_local_model_that_is_not_there_is_an_error(errors: Errors, small: str, tmp_path: Path) -> None:
    assert errors(small, model="./absent.py:MyModel") == [
        f"--model: model.name: there is no file {tmp_path / 'absent.py'}"
    ]


def test_local_model_without_a_name_in_the_file_is_an_error(errors: Errors, small: str) -> None:
    (told,) = errors(small, model="./my_model.py")
    assert told == (
        "--model: model.name: expected the file and the name in it, such as './my_model.py:MyModel', "
        "not './my_model.py'"
    )


def test_local_models_rows_are_checked_against_the_length_that_is_given(
    folder: Path, errors: Errors, small: str
) -> None:
    (told,) = errors(small, "model={name: 'models/my_model.py:MyModel', max_seq_len: 64}")
    assert told.startswith("--set: data.max_length: 256 tokens are more than the model takes")


@pytest.mark.parametrize("attribute", ["MyModel", "build"])
def test_loading_a_local_model_gives_its_factory_and_checked_options(folder: Path, attribute: str) -> None:
    factory, options = load_local_model(choose(folder, attribute, width=6, max_seq_len=32), allowed=True)
    assert (options.width, options.max_seq_len, options.dropout) == (6, 32, 0.0)
    assert factory(options, vocab_size=3, generator=None).config is options


def test_loading_a_local_model_runs_its_file_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = load_local_model(choose(folder), allowed=True)
    second, _ = load_local_model(choose(folder), allowed=True)
    assert first is second


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"widht": 6}, "model.widht is not a setting of this model. Did you mean 'width'?"),
        ({"width": "6"}, "model.width: expected a whole number, not '6'"),
        ({"width": 7}, "model: width must be even, not 7"),
    ],
)
def test_loading_a_local_model_checks_its_options(folder: Path, options: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_local_model(choose(folder, **options), allowed=True)
    assert str(caught.value).startswith(f"{folder / 'my_model.py'}:MyModel: {expected}")


def test_loading_a_local_model_that_its_file_does_not_have_suggests_the_nearest(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no callable 'MyModle'. Did you mean 'MyModel'\? In the"):
        load_local_model(choose(folder, "MyModle"), allowed=True)


@pytest.mark.parametrize("attribute", ["no_annotation", "MyConfig"])
def test_loading_a_local_model_needs_the_class_of_its_options(folder: Path, attribute: str) -> None:
    with pytest.raises(ConfigError, match="the first parameter needs the class of the options as its type"):
        load_local_model(choose(folder, attribute), allowed=True)


@pytest.mark.parametrize(
    ("source", "line", "expected"),
    [
        ("x = 1\ny = 1 / 0\n", 2, "ZeroDivisionError"),
        ("x = 1\n\ndef f(:\n", 3, "SyntaxError"),
        ("import no_such_module_at_all\n", 1, "ModuleNotFoundError"),
        ("raise SystemExit(3)\n", 1, "SystemExit"),
    ],
)
def test_local_model_whose_file_raises_is_reported_with_its_line(
    tmp_path: Path, source: str, line: int, expected: str
) -> None:
    (tmp_path / "bad.py").write_text(source, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_local_model(Choice(f"{tmp_path / 'bad.py'}:MyModel", {}), allowed=True)
    assert str(caught.value).startswith(f"{tmp_path / 'bad.py'}:{line}: cannot be imported: {expected}")
