"""The examples in docs/formats.md have the keys of the real files, in their order."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tfs_core.builtin.jsonl import FILES, LogFile
from tfs_core.run_folder import RunFolder

PAGE = (Path(__file__).parent.parent.parent / "docs" / "formats.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"# {title}\n")[1].split("\n#")[0]


@pytest.mark.parametrize("record_type", FILES, ids=lambda record_type: FILES[record_type])
def test_example_line_is_what_the_logger_would_write(record_type: type, tmp_path: Path) -> None:
    (example,) = re.findall(r"^    (\{.*\})$", section(FILES[record_type]), re.MULTILINE)
    values = json.loads(example)
    assert list(values) == [field.name for field in fields(record_type)]
    path = tmp_path / "lines.jsonl"
    LogFile(path, record_type).append(record_type(**values))
    assert path.read_text(encoding="utf-8") == example + "\n"


@pytest.mark.parametrize("record_type", FILES, ids=lambda record_type: FILES[record_type])
def test_every_key_of_a_line_is_explained(record_type: type) -> None:
    explained = set(
        re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", section(FILES[record_type]), re.MULTILINE)))
    )
    assert {field.name for field in fields(record_type)} <= explained


def test_example_of_run_json_has_its_keys_in_order(tmp_path: Path) -> None:
    example: dict[str, Any] = json.loads("{" + section("run.json").split("    {")[1].split("\n    }")[0] + "}")
    with RunFolder.create(tmp_path, None, "story") as run_folder:
        written = json.loads((run_folder.folder / "run.json").read_text(encoding="utf-8"))
    assert list(written) == list(example)
    assert list(written["summary"]) == list(example["summary"])
