"""The plugins in docs/writing-a-plugin.md are extracted from the page, installed, checked and trained."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "writing-a-plugin.md"
BLOCK = re.compile(r"```\w+\n# (?P<file>\S+)\n(?P<source>.*?)```", re.DOTALL)

CONFIGURATION = """
experiment_name: extras
data: {dataset: {name: sqlite, path: texts.db}, tokenizer: utf8, max_length: 16, batching: in-order}
model: {name: tfs-reach/reach, d_model: 8, max_seq_len: 16}
training: {max_steps: 4, batch_size: 4, lr_decay: inverse-sqrt, optimizer: {name: rmsprop, alpha: 0.9}, warmup_steps: 2}
loggers: [jsonl, bell, ratios]
wrappers: [{name: freeze, prefix: embedding}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the page's files, its two packages, and the metadata that pip would write."""
    folder = tmp_path_factory.mktemp("page")
    sources = {match["file"]: match["source"] for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}
    options, model = sources["my_model.py"].split("class MyModel")
    needs_torch = re.compile(r"^(import torch|from torch|from tfs_core.models).*\n", re.MULTILINE)
    sources["tfs_reach/config.py"] = needs_torch.sub("", options)
    imports = "".join(match[0] for match in needs_torch.finditer(options)) + "from tfs_reach.config import MyConfig\n"
    sources["tfs_reach/model.py"] = f"{imports}class MyModel{model}"
    for name, source in sources.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(source, encoding="utf-8")
    ((name, reference),) = tomllib.loads(sources["pyproject.toml"])["project"]["entry-points"]["tfs.plugins"].items()
    for this in ("reach", "extras"):
        information = folder / f"tfs_{this}-0.1.0.dist-info"
        information.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: tfs-{this}\nVersion: 0.1.0\n"
        (information / "METADATA").write_text(metadata, encoding="utf-8")
        line = f"{name} = {reference}".replace("reach", this)
        (information / "entry_points.txt").write_text(f"[tfs.plugins]\n{line}\n", encoding="utf-8")
    with closing(sqlite3.connect(folder / "texts.db")) as database:
        database.execute("CREATE TABLE documents (id INTEGER PRIMARY KEY, text TEXT)")
        texts = [(f"document {number} says {number * 7 % 13}",) for number in range(200)]
        database.executemany("INSERT INTO documents (text) VALUES (?)", texts)
        database.commit()
    (folder / "extras.yaml").write_text(CONFIGURATION, encoding="utf-8")
    return folder


def tfs(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from tfs_core.cli.main import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(folder), "TFS_PLUGINS": "tfs-reach,tfs-extras,tfs-lab"}
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


@pytest.mark.parametrize("distribution", ["tfs-reach", "tfs-extras"])
def test_plugins_of_the_page_pass_the_check(folder: Path, distribution: str) -> None:
    process = tfs(folder, "plugins", "check", distribution)
    assert process.returncode == 0, process.stdout + process.stderr


def test_plugins_of_the_page_train_a_model_and_bring_a_command(folder: Path) -> None:
    process = tfs(folder, "run", "--config", "extras.yaml")
    assert process.returncode == 0, process.stderr
    assert "extras: finished" in process.stderr  # the bell
    assert float(tfs(folder, "best-loss", "extras").stdout) > 0.0
    (step_2, updates) = map(json.loads, (folder / "assets/runs/extras/metrics.ratios.jsonl").read_text().splitlines())
    assert (step_2["step"], updates.pop("step")) == (2, 4)
    assert updates.pop("embedding.weight") == 0.0  # frozen
    assert all(ratio > 0 for ratio in updates.values())
    assert json.loads((folder / "assets" / "runs" / "extras" / "run.json").read_bytes())["frozen"] == 1


def test_model_in_one_file_trains(folder: Path) -> None:
    process = tfs(
        folder,
        *("run", "--config", "extras.yaml", "--model", "./my_model.py:MyModel"),
        *("--set", "model.reach=2", "--set", "training.max_steps=2", "--name", "one_file"),
    )
    assert process.returncode == 0, process.stderr
