"""The configurations agree with their headers and with the README."""

import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tfs_core.cli.main import tfs
from tfs_core.config import load_config
from tfs_core.models import build_model

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
NANOGPT_PARAMETERS = 804_096
CHARACTERS = 65
LITTLE = ["training.max_steps=2", "training.batch_size=2", "training.eval_every=null", "runtime.threads=1"]


def write_text(folder: Path) -> None:
    words = ["KING:\n", "the ", "crown ", "is ", "a ", "heavy ", "thing.\n", "\n", "QUEEN:\n", "Then ", "sell ", "it, "]
    chosen = random.Random(0).choices(words, k=400)
    (folder / "train.txt").write_text("".join(chosen), encoding="utf-8")
    (folder / "validation.txt").write_text("".join(chosen[:40]), encoding="utf-8")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_header_says_how_to_run_it_and_what_to_expect(path: Path) -> None:
    header = path.read_text(encoding="utf-8").split("experiment_name")[0]
    assert f"tfs run --config examples/tfs-speedrun/configs/{path.name}" in header
    assert all(word in header for word in ("# Shows", "# Takes", "# Expect"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_model_has_nanogpts_parameters_at_most_and_three_per_cent(path: Path) -> None:
    model = build_model(load_config(path).model, vocab_size=CHARACTERS, seed=1)
    n_parameters = sum(parameter.numel() for _, parameter in model.named_parameters())
    assert n_parameters <= 1.03 * NANOGPT_PARAMETERS
    if path.stem in ("four_blocks", "baseline"):  # the ones with nanoGPT's shape
        assert n_parameters >= 0.97 * NANOGPT_PARAMETERS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_trains(path: Path, tmp_path: Path) -> None:
    write_text(tmp_path)
    copied = shutil.copy(path, tmp_path)
    command = ["run", "--config", os.fspath(copied), "--assets", os.fspath(tmp_path / "assets")]
    settings = [part for value in LITTLE for part in ("--set", value)]
    kernel = torch.get_float32_matmul_precision()
    try:
        result = CliRunner().invoke(tfs, [*command, *settings])
    finally:
        torch.set_float32_matmul_precision(kernel)
    assert result.exit_code == 0, result.output
    metrics = tmp_path / "assets" / "runs" / load_config(path).experiment_name / "metrics.jsonl"
    assert metrics.read_text(encoding="utf-8").count("\n") == 2
