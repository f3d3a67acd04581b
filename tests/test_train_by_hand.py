"""`examples/train_by_hand.py` computes the losses of `tfs run`, to the last bit, and stays short and self-contained."""

import ast
import os
import random
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import tfs_core
from tfs_core.builtin.schedules import cosine
from tfs_core.terminal import escape_control_characters

SCRIPT = Path(__file__).parent.parent / "examples" / "train_by_hand.py"
STEPS = 30

SIZES: dict[str, Any] = {"d_model": 24, "n_heads": 3, "n_blocks": 2, "max_seq_len": 16}
TRAINING: dict[str, Any] = {
    "batch_size": 5,
    "max_steps": STEPS,
    "learning_rate": 1e-2,
    "warmup_steps": 7,
    "weight_decay": 0.3,
    "max_grad_norm": 0.7,
    "optimizer": {"name": "adamw", "betas": [0.8, 0.97]},
}
SEED = 11


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Return a text file that is small enough for 30 steps to exceed an epoch."""
    words = random.Random(0).choices(["the ", "small ", "cat ", "saw ", "a ", "tree.\n", "Why? "], k=300)
    file = tmp_path / "words.txt"
    file.write_text("".join(words), encoding="utf-8", newline="\n")
    return file


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module, with the settings of this file."""
    spec = spec_from_file_location("train_by_hand", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = {
        "ASSETS": tmp_path / "assets_by_hand",
        "SEED": SEED,
        "BATCH_SIZE": TRAINING["batch_size"],
        "SEQ_LEN": SIZES["max_seq_len"],
        "MODEL": SIZES,
        "LEARNING_RATE": TRAINING["learning_rate"],
        "WARMUP_STEPS": TRAINING["warmup_steps"],
        "WEIGHT_DECAY": TRAINING["weight_decay"],
        "BETAS": tuple(TRAINING["optimizer"]["betas"]),
        "MAX_GRAD_NORM": TRAINING["max_grad_norm"],
    }
    for name, value in settings.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.mark.parametrize("model", ["custom", "torch"])
def test_losses_equal_those_of_tfs_run_to_the_last_bit(
    model: str, script: ModuleType, text: Path, tmp_path: Path
) -> None:
    config = {
        "experiment_name": "by-hand",
        "seed": SEED,
        "data": {
            "dataset": {"name": "text", "path": str(text)},
            "tokenizer": "byte",
            "max_length": SIZES["max_seq_len"],
        },
        "model": {"name": model, **SIZES},
        "training": TRAINING,
        "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
        "loggers": ["jsonl"],
    }
    run = tfs_core.run(config, assets=tmp_path / "assets")
    metrics = run.metrics()
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    # The run covers all cases: gradient norms above and below the clipping threshold, and a second epoch.
    is_clipped = [line["grad_norm"] > TRAINING["max_grad_norm"] for line in metrics]
    assert any(is_clipped)
    assert not all(is_clipped)
    assert metrics[-1]["epoch"] >= 1

    torch.set_num_threads(1)
    losses = list(script.train(script.make_model(model), script.make_batches(text), STEPS))
    assert losses == [line["loss"] for line in metrics]


@pytest.mark.parametrize("steps", [3, TRAINING["warmup_steps"], TRAINING["warmup_steps"] + 1, 1000])
def test_learning_rate_is_the_cosine_schedule(steps: int, script: ModuleType) -> None:
    peak = TRAINING["learning_rate"]
    schedule = cosine(None, total_steps=steps, warmup_steps=TRAINING["warmup_steps"], peak=peak, floor=peak / 10)
    assert [script.learning_rate(step, steps) for step in range(steps)] == [schedule(step) for step in range(steps)]


def run_script(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a command, in a folder."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
    )


def test_missing_text_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    result = run_script(tmp_path, "--text", "missing.txt")
    assert result.returncode == 2
    assert result.stderr.endswith("error: text: there is no file missing.txt.\n")


@pytest.mark.parametrize("model", ["custom", "torch"])
def test_command_prints_losses_and_a_sample(model: str, text: Path, tmp_path: Path) -> None:
    result = run_script(tmp_path, "--model", model, "--text", str(text), "--steps", "3")
    assert result.returncode == 0, result.stderr
    assert result.stdout == escape_control_characters(result.stdout), "a sample must not command the terminal"
    first, last, *sample = result.stdout.split("\n")
    assert first.startswith("step     1  loss 5.")
    assert last.startswith("step     3  loss ")
    assert float(last.split()[-1]) < float(first.split()[-1])
    assert len("\n".join(sample)) > 200  # nearly 500 bytes, some of which are not valid UTF-8


def test_script_needs_no_configuration_registry_or_trainer() -> None:
    imported = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parts = ("config", "registry", "trainer", "run", "plugins", "builtin")
    assert not imported & {f"tfs_core.{part}" for part in parts}
    assert not [name for name in imported if name.startswith(tuple(f"tfs_core.{part}." for part in parts))]


def test_script_is_short() -> None:
    lines = [line.strip() for line in SCRIPT.read_text(encoding="utf-8").splitlines()]
    assert len([line for line in lines if line and not line.startswith("#")]) <= 105


def test_sample_continues_from_the_last_tokens_and_is_surer_at_a_low_temperature(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab_size = script.TOKENIZER.vocab_size

    class Counting:
        """A model that predicts the last byte + 1 with a slightly higher probability than the others."""

        def eval(self) -> None:
            pass

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            assert input_ids.shape[-1] <= script.SEQ_LEN
            return 0.1 * torch.nn.functional.one_hot((input_ids + 1) % vocab_size, vocab_size)

    monkeypatch.setattr(script, "TEMPERATURE", 1e-3)
    assert script.sample(Counting(), 3 * script.SEQ_LEN) == bytes(range(3 * script.SEQ_LEN)).decode()
