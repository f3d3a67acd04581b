"""`tfs datasets`: the list of data sets, and previews of local data."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tfs_datasets.commands import datasets

from tfs_core.errors import TfsError


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(datasets, arguments)


def test_list_names_every_data_set_and_what_to_type(tmp_path: Path) -> None:
    said = invoke("list", "--assets", str(tmp_path)).output
    for name in ("python-stdlib", "csv", "mixture", "fineweb-edu-10b"):
        assert f"\n{name} " in f"\n{said}"
    assert "nothing yet: tfs datasets download tinystories" in said


def test_preview_truncates_documents_and_escapes_control_characters(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "one\\u001b[31m two"}\n{"body": "3"}\n', encoding="utf-8")
    words = ["preview", "jsonl", "--set", f"path={tmp_path / 'a.jsonl'}", "--set", "text_key=body"]
    said = invoke(*words, "--characters", "6").output
    assert said == "--- document 1, 12 characters\none\\x1b[3 ...\n--- document 2, 1 characters\n3\n"
    assert invoke(*words, "-n", "1").output.count("---") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["preview", "jsonl"], "path is missing"),
        (["preview", "jsonl", "--set", "pth=a"], "Did you mean 'path'"),
        (["preview", "jsnl"], "Did you mean 'jsonl'"),
        (["preview", "python-stdlib", "--split", "validation"], "has no split 'validation'. Splits: train"),
        (["preview", "tinystories", "--split", "test"], "has no test split here. Splits: train, validation"),
    ],
)
def test_preview_explains_errors(words: list[str], message: str) -> None:
    ended = invoke(*words)
    assert isinstance(ended.exception, TfsError)
    assert message in str(ended.exception)


def test_plugin_and_options_import_nothing_heavy() -> None:
    script = "import sys; import tfs_datasets.plugin, tfs_datasets.config, tfs_datasets.commands; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"datasets", "pyarrow", "huggingface_hub", "numpy", "torch", "zstandard"} & set(loaded)
