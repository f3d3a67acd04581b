from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from tfs_core.cli.main import tfs


def call(*arguments: str) -> Result:
    return CliRunner().invoke(tfs, ["config", *arguments])


@pytest.fixture(autouse=True)
def files(good: str, small: str) -> None:
    Path("good.yaml").write_text(good, encoding="utf-8")
    Path("small.yaml").write_text(small, encoding="utf-8")
    Path("bad.yaml").write_text(small.replace("max_steps", "max_stepz") + "sed: 1\n", encoding="utf-8")


def test_show_prints_yaml_that_shows_the_same_again() -> None:
    shown = call("show", "good.yaml", "--set", "training.batch_size=4", "--model", "torch")
    assert shown.exit_code == 0, shown.output
    assert yaml.safe_load(shown.stdout)["training"]["batch_size"] == 4
    Path("shown.yaml").write_text(shown.stdout, encoding="utf-8")
    assert call("show", "shown.yaml").stdout == shown.stdout


def test_validate_says_ok_of_each_file() -> None:
    validated = call("validate", "good.yaml", "small.yaml")
    assert validated.exit_code == 0
    assert validated.stdout == "good.yaml: ok\nsmall.yaml: ok\n"


def test_validate_reports_all_errors_of_all_files_and_exits_with_2() -> None:
    validated = call("validate", "bad.yaml", "good.yaml", "absent.yaml")
    assert validated.exit_code == 2
    assert validated.stdout == "good.yaml: ok\n"
    assert "bad.yaml:4: training.max_stepz is not a setting. Did you mean 'max_steps'?" in validated.stderr
    assert "\nbad.yaml:5: sed is not a setting. Did you mean 'seed'?" in validated.stderr
    assert "\nabsent.yaml: there is no such file" in validated.stderr
    assert "Traceback" not in validated.output


def test_validate_takes_the_model_that_the_file_leaves_open(small: str) -> None:
    Path("open.yaml").write_text(small.replace("model: torch\n", ""), encoding="utf-8")
    assert call("validate", "open.yaml").exit_code == 2
    assert call("validate", "open.yaml", "--model", "torch").exit_code == 0


def test_validate_needs_a_file() -> None:
    assert call("validate").exit_code == 2


def test_show_of_a_wrong_setting_names_it_and_exits_with_2() -> None:
    shown = call("show", "good.yaml", "--set", "training.batch_sise=64")
    assert shown.exit_code == 2
    assert "--set: training.batch_sise is not a setting. Did you mean 'batch_size'?" in shown.stderr
    assert shown.stdout == ""


def test_local_model_is_not_imported_by_any_command(small: str) -> None:
    Path("my_model.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    Path("local.yaml").write_text(small.replace("model: torch", "model: ./my_model.py:MyModel"), encoding="utf-8")
    assert call("show", "local.yaml").exit_code == 0
    assert call("validate", "local.yaml").exit_code == 0
