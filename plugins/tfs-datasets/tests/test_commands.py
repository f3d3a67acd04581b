"""`tfs datasets`: the list of data sets, and previews of local data."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tfs_datasets import commands
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
    said = invoke(*words, "--characters", "6").stdout
    assert said == "--- document 1, 12 characters\none\\x1b[3 ...\n--- document 2, 1 character\n3\n"
    assert invoke(*words, "-n", "1").stdout.count("---") == 1


def test_preview_of_a_path_tells_all_documents_and_what_is_left_out(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("one" if name != "c.txt" else "", encoding="utf-8")
    (tmp_path / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    ended = invoke("preview", str(tmp_path), "-n", "1", "--set", "data.dataset.encoding=utf-8")  # as for `tfs run`
    assert ended.stdout == "--- document 1, 3 characters\none\n"
    assert ended.stderr == "--- 3 documents in all, 1 of them empty\n1 file left out: 1 PNG image\n"


def test_preview_of_a_large_document_ends_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "READ_ON_SECONDS", -1.0)
    (tmp_path / "a.txt").write_text("x" * 1_000_000, encoding="utf-8")
    ended = invoke("preview", str(tmp_path / "a.txt"), "--characters", "2")
    assert ended.stdout == "--- document 1, more than 65,536 characters\nxx ...\n"
    assert ended.stderr == "--- 1 document or more: the rest was not read\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["preview", "jsonl"], "path is missing"),
        (["preview", "jsonl", "--set", "pth=a"], "Did you mean 'path'"),
        (["preview", "jsnl"], "Did you mean 'jsonl'"),
        (["preview", "./nowhere.txt"], "there is no file or folder"),
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
    heavy = "datasets pyarrow huggingface_hub numpy torch zstandard charset_normalizer mammoth pypdf"
    assert not set(heavy.split()) & set(loaded)
