"""Wrappers: chosen by `wrappers`, applied by stage, and applied again when weights are loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import tfs_core
from tfs_core.cli.main import tfs
from tfs_core.errors import ConfigError, PluginError
from tfs_core.runs import Run, find_checkpoint
from tfs_core.tensor_files import read_tensors
from tfs_core.trained import load_model

InstallPlugin = Callable[..., None]
Train = Callable[..., Run]

PLUGIN = """
@hookimpl
def tfs_models():
    return [Component(name="mine", summary="two layers", factory="tfs_mine.model:Mine")]

@hookimpl
def tfs_components():
    return [
        Component(kind="wrapper", name="lora", summary="low-rank adapters", factory="tfs_mine.lora:Lora",
                  config="tfs_mine.lora:LoraConfig"),
        Component(kind="wrapper", name="late", summary="notes when it came", factory="tfs_mine.notes:late"),
        Component(kind="wrapper", name="early", summary="notes when it came", factory="tfs_mine.notes:early"),
        Component(kind="wrapper", name="strange", summary="of no stage", factory="tfs_mine.notes:strange"),
    ]
"""

MODEL = """
import torch
from torch import nn
from tfs_core.contracts import ModelConfig
from tfs_core.models import AutogradModel

class Mine(AutogradModel):
    def __init__(self, config, *, vocab_size, generator):
        super().__init__(ModelConfig(max_seq_len=8), vocab_size=vocab_size)
        self.table = nn.Embedding(vocab_size, 6)
        self.hidden = nn.Linear(6, 6)
        self.output = nn.Linear(6, vocab_size)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, input_ids):
        return self.output(torch.tanh(self.hidden(self.table(input_ids))))
"""

LORA = '''
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Options."""

    rank: int = 2
    """Columns of each factor."""

class LowRank(nn.Module):
    def __init__(self, d_out, d_in, rank):
        super().__init__()
        self.down = nn.Parameter(torch.full((rank, d_in), 0.1))
        self.up = nn.Parameter(torch.zeros(d_out, rank))

    def forward(self, weight):
        return weight + self.up @ self.down

class Lora:
    """Every linear layer's weight is frozen, and the product of two small matrices is added to it."""

    stage, changes_weights = "adapt", True

    def __init__(self, config):
        self.rank = config.rank

    def wrap(self, loss, *, context):
        linears = [module for module in context.model.modules() if isinstance(module, nn.Linear)]
        context.model.requires_grad_(False)
        for linear in linears:
            parametrize.register_parametrization(linear, "weight", LowRank(*linear.weight.shape, self.rank))
        context.record(adapters=len(linears), why="each linear layer has one")
        return loss
'''

NOTES = """
from torch import nn

CAME = []

class Note(nn.Module):
    def __init__(self, stage):
        super().__init__()
        self.stage, self.changes_weights = stage, False

    def wrap(self, loss, *, context):
        CAME.append(self.stage)
        self.loss = loss
        return self

    def forward(self, *tensors):
        CAME.append(f"computed by {self.stage}")
        return self.loss(*tensors)

def late(config):
    return Note("parallel")

def early(config):
    return Note("checkpoint")

def strange(config):
    return Note("whenever")
"""


@pytest.fixture
def train(tmp_path: Path, install_plugin: InstallPlugin) -> Train:
    """Return `train(wrappers, steps=..., resume=...)`, which trains the plugin's model above."""
    install_plugin("tfs-mine", PLUGIN, model=MODEL, lora=LORA, notes=NOTES)
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 20, encoding="utf-8")

    def run(*wrappers: Any, steps: int = 4, resume: str | bool = False) -> Run:
        config: dict[str, Any] = {
            "experiment_name": "wrapped",
            "data": {
                "dataset": {"name": "text", "path": str(tmp_path / "text.txt")},
                "tokenizer": "byte",
                "max_length": 8,
                "validation_fraction": 0.2,
            },
            "model": "mine",
            "training": {"batch_size": 2, "max_steps": steps, "learning_rate": 1e-2, "warmup_steps": 0},
            "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
            "loggers": ["jsonl"],
            "wrappers": list(wrappers),
        }
        config["training"] |= {"lr_decay": "constant", "keep_checkpoints": 3}
        return tfs_core.run(config, assets=tmp_path, resume=resume)

    return run


def weights(run: Run) -> dict[str, torch.Tensor]:
    return dict(read_tensors(find_checkpoint(str(run.folder), run.folder.parent) / "model.safetensors"))


def test_adapter_trains_alone_is_saved_evaluated_and_resumed(train: Train, tmp_path: Path) -> None:
    lora = {"name": "lora", "rank": 3}
    whole = train(lora, steps=6)
    assert whole.info["adapters"] == 2
    assert whole.info["machine"]["adapters"] == "each linear layer has one"
    assert whole.info["parameters"]["total"] > train(steps=1).info["parameters"]["total"], "the adapters count"

    # 1. Trained and saved: the adapters changed, the base weights did not.
    first, last = weights(train(lora, steps=1)), weights(whole)
    moved = {name for name in last if not torch.equal(first[name], last[name])}
    assert moved == {name for name in last if name.endswith((".up", ".down"))}
    assert last["output.parametrizations.weight.0.up"].shape[1] == 3

    # 2. Loaded: with the adapters and their trained weights.
    loaded = load_model(whole.name, assets=tmp_path)
    assert all(torch.equal(last[name], tensor) for name, tensor in loaded.model.state_dict().items())
    evaluated = CliRunner().invoke(tfs, ["evaluate", whole.name, "--json", "--assets", str(tmp_path)])
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(evaluated.stdout)[0]["loss"] == whole.validation()[-1]["loss"]

    # 3. Resumed: equal to an uninterrupted run.
    resumed = train(lora, steps=6, resume=train(lora, steps=3).name)
    assert all(torch.equal(last[name], tensor) for name, tensor in weights(resumed).items())


def test_wrappers_are_applied_by_stage_and_compute_training_and_validation(train: Train) -> None:
    train("late", "early", steps=1)
    from tfs_mine.notes import CAME

    assert CAME[:2] == ["checkpoint", "parallel"], "whatever the order in the configuration"
    assert CAME[2:4] == ["computed by parallel", "computed by checkpoint"]
    assert len(CAME) >= 6, "a step, and a validation"


def test_only_wrappers_that_change_weights_are_applied_where_a_checkpoint_is_loaded(
    train: Train, tmp_path: Path
) -> None:
    run = train("early", "lora", steps=1)
    from tfs_mine.notes import CAME

    CAME.clear()
    loaded = load_model(run.name, assets=tmp_path)
    assert any(name.endswith(".up") for name in loaded.model.state_dict())
    assert CAME == []


def test_wrapper_of_no_stage_is_rejected_by_name(train: Train) -> None:
    with pytest.raises(PluginError, match=r"strange.*stage.*adapt, checkpoint, tune, compile, parallel"):
        train("strange")


def test_unknown_wrapper_names_the_nearest(train: Train) -> None:
    with pytest.raises(ConfigError, match=r"(?s)wrappers.*'lor'.*lora"):
        train("lor")


def test_unknown_option_of_a_wrapper_names_the_nearest(train: Train) -> None:
    with pytest.raises(ConfigError, match=r"rnak.*rank"):
        train({"name": "lora", "rnak": 3})


def test_configuration_without_wrappers_is_written_without_the_key(train: Train) -> None:
    assert "wrappers" not in (train(steps=1).folder / "config.yaml").read_text(encoding="utf-8")
    assert "rank: 3" in (train({"name": "lora", "rank": 3}, steps=1).folder / "config.yaml").read_text("utf-8")
