"""The configuration that `tfs run TEXT` takes: it fits the size of the text."""

from pathlib import Path
from typing import Any

import pytest

from tfs_core.config.own_text import config_for_text


def config_for(file: Path, n_bytes: int) -> dict[str, Any]:
    with file.open("wb") as opened:
        opened.truncate(n_bytes)
    return config_for_text(file)


@pytest.mark.parametrize(
    ("n_bytes", "vocabulary"),
    [
        (0, 512),
        (300_000, 512),
        (300_001, 1024),
        (3_000_000, 1024),
        (3_000_001, 2048),
        (30_000_000, 2048),
        (30_000_001, 4096),
        (10**12, 4096),
    ],
)
def test_vocabulary_grows_with_the_text(tmp_path: Path, n_bytes: int, vocabulary: int) -> None:
    assert config_for(tmp_path / "a.txt", n_bytes)["data"]["tokenizer"] == {"name": "bpe", "vocab_size": vocabulary}


@pytest.mark.parametrize(
    ("n_bytes", "steps", "dropout"),
    [
        (0, 300, 0.1),
        (76_000, 300, 0.1),
        (256_000, 1000, 0.1),  # 102,400 tokens; 20 passes are 1,000 steps of 2,048 tokens
        (511_900, 2000, 0.0),
        (10**9, 2000, 0.0),
    ],
)
def test_steps_are_twenty_passes_between_bounds(tmp_path: Path, n_bytes: int, steps: int, dropout: float) -> None:
    config = config_for(tmp_path / "a.txt", n_bytes)
    assert (config["training"]["max_steps"], config["model"]["dropout"]) == (steps, dropout)


@pytest.mark.parametrize(
    ("file", "name"), [("a.txt", "a"), ("my book.v2.txt", "my-book"), ("über.txt", "über"), ("---.txt", "text")]
)
def test_run_is_named_after_the_text(tmp_path: Path, file: str, name: str) -> None:
    assert config_for(tmp_path / file, 10)["experiment_name"] == name


def test_visible_files_of_a_folder_count(tmp_path: Path) -> None:
    for name, n_bytes in {"a.txt": 200_000, "b/c.txt": 100_000, ".git/x": 10**9, "b/.cache": 10**9}.items():
        (tmp_path / "notes" / name).parent.mkdir(exist_ok=True, parents=True)
        config_for(tmp_path / "notes" / name, n_bytes)
    config = config_for_text(tmp_path / "notes")
    assert config["data"]["tokenizer"]["vocab_size"] == 512
    assert config["data"]["dataset"] == str(tmp_path / "notes")
