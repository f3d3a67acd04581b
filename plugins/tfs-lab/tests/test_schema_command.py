"""`tfs config schema`: output on stdout, or to a file."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tfs_core.cli.main import tfs


def test_schema_is_printed_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = CliRunner().invoke(tfs, ["config", "schema"])
    assert json.loads(printed.stdout)["title"] == "A run of tfs"
    assert CliRunner().invoke(tfs, ["config", "schema", "--output", "tfs.schema.json"]).stdout == ""
    assert Path("tfs.schema.json").read_text(encoding="utf-8") == printed.stdout


def test_schema_that_cannot_be_written_is_an_error() -> None:
    failed = CliRunner().invoke(tfs, ["config", "schema", "--output", "no/such/folder/tfs.schema.json"])
    assert failed.exit_code == 2
    assert "cannot be written" in failed.stderr
