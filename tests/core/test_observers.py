"""Observers: called at the moments that they request, with correct values, and without an effect on training."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tfs_core
from tfs_core.runs import Run

InstallPlugin = Callable[..., None]

PLUGIN = """
@hookimpl
def tfs_loggers():
    return [Component(name="watcher", summary="looks at the model", factory="their_watcher.watcher:build")]
"""

WATCHER = """
import torch
from tfs_core.contracts import RunLogger

SEEN = []

class Watcher(RunLogger):
    def moments(self, step):
        return {"gradients", "update"} if step % 2 else {"validation"}

    def observe(self, moment, view):
        batch = view.micro_batches if moment != "validation" else [*view.batching.validation()]
        traced = view.trace(batch[0].input_ids, ["blocks.0", "logits"])
        seen = {"moment": moment, "step": view.step, "batch": batch, "traced": traced}
        with view.evaluating() as model:
            seen["logits"] = model.forward(batch[0].input_ids)
            seen["hooks"] = len(model.blocks[0]._forward_hooks)
            seen["modes"] = (model.training, torch.is_grad_enabled(), model.blocks[0].training, torch.rand(3))
        seen["parameters"] = {name: tensor.clone() for name, tensor in view.parameters().items()}
        if moment == "gradients":
            seen["gradients"] = {name: tensor.clone() for name, tensor in view.gradients().items()}
        if moment == "update":
            seen["updates"] = dict(view.updates())
        SEEN.append(seen)

def build(config, *, run):
    return Watcher()
"""

FAILING = """
from tfs_core.contracts import RunLogger

class Failing(RunLogger):
    def moments(self, step):
        return {"gradients"}

    def observe(self, moment, view):
        view.trace(view.micro_batches[0].input_ids, ["attic"])

def build(config, *, run):
    return Failing()
"""


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Return a folder with documents to train on."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for i in range(8):
        (folder / f"{i}.txt").write_text(f"document {i}: the cat sat on the mat. " * 3, encoding="utf-8")
    return folder


def trained(documents: Path, name: str, *loggers: str, dropout: float = 0.3, **training: Any) -> Run:
    """Return a run of six steps that validates every two."""
    config = {
        "experiment_name": "tiny",
        "data": {
            "dataset": {"name": "text", "path": str(documents)},
            "tokenizer": "byte",
            "max_length": 16,
            "validation_fraction": 0.4,
        },
        "model": {
            "name": "torch",
            "d_model": 8,
            "n_heads": 2,
            "n_blocks": 1,
            "max_seq_len": 16,
            "dtype": "float64",
            "dropout": dropout,
        },
        "training": {
            "batch_size": 3,
            "gradient_accumulation_steps": 2,
            "max_steps": 6,
            "optimizer": {"name": "sgd", "momentum": 0.0},
            "lr_decay": "constant",
            "learning_rate": 0.5,
            "weight_decay": 0.0,
            "warmup_steps": 0,
            "eval_every": 2,
            **training,
        },
        "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
        "loggers": ["jsonl", *loggers],
    }
    return tfs_core.run(config, assets=documents.parent / "assets", name=name)


@pytest.fixture
def watched(install_plugin: InstallPlugin) -> list[dict[str, Any]]:
    """Install the logger `watcher`, and return the list of its observations."""
    install_plugin("their-watcher", PLUGIN, watcher=WATCHER)
    import their_watcher.watcher  # type: ignore[import-not-found]

    seen: list[dict[str, Any]] = their_watcher.watcher.SEEN
    return seen


def at(watched: list[dict[str, Any]], moment: str) -> list[dict[str, Any]]:
    found = [seen for seen in watched if seen["moment"] == moment]
    assert found
    return found


def norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([tensor.norm() for tensor in tensors.values()]).norm())


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return lines of a log without the fields that depend on the clock."""
    return [{key: row[key] for key in row if key not in ("elapsed_seconds", "tokens_per_second")} for row in rows]


def test_observer_is_called_at_the_moments_that_it_returns(documents: Path, watched: list[dict[str, Any]]) -> None:
    trained(documents, "watched", "watcher")
    assert [(seen["moment"], seen["step"]) for seen in watched] == [
        ("gradients", 1),
        ("update", 1),
        ("validation", 2),
        ("gradients", 3),
        ("update", 3),
        ("validation", 4),
        ("gradients", 5),
        ("update", 5),
        ("validation", 6),
    ]


def test_training_is_the_same_to_the_bit_with_an_observer_and_without(
    documents: Path, watched: list[dict[str, Any]]
) -> None:
    plain, observed = trained(documents, "plain"), trained(documents, "watched", "watcher")
    assert watched
    for log in ("metrics", "validation"):
        assert without_times(plain.read(log).rows) == without_times(observed.read(log).rows)
    assert plain.latest is not None
    assert observed.latest is not None
    weights = [(run.latest / "model.safetensors").read_bytes() for run in (plain, observed) if run.latest]
    assert weights[0] == weights[1]


def test_gradients_are_those_of_the_step_after_clipping(documents: Path, watched: list[dict[str, Any]]) -> None:
    run = trained(documents, "whole", "watcher", max_grad_norm=None)
    norms = {row["step"]: row["grad_norm"] for row in run.metrics()}
    for seen in at(watched, "gradients"):
        assert seen["gradients"].keys() == seen["parameters"].keys()
        assert norm(seen["gradients"]) == pytest.approx(norms[seen["step"]], rel=1e-9)
    watched.clear()
    trained(documents, "clipped", "watcher", max_grad_norm=1e-3)
    for seen in at(watched, "gradients"):
        assert norm(seen["gradients"]) == pytest.approx(1e-3, rel=1e-2)


def test_updates_are_what_the_optimizer_added(documents: Path, watched: list[dict[str, Any]]) -> None:
    trained(documents, "watched", "watcher")
    for before, after in zip(at(watched, "gradients"), at(watched, "update"), strict=True):
        assert before["step"] == after["step"]
        assert after["updates"].keys() == before["gradients"].keys() == after["parameters"].keys()
        for name, update in after["updates"].items():
            assert torch.equal(update, after["parameters"][name] - before["parameters"][name])
            torch.testing.assert_close(update, -0.5 * before["gradients"][name], rtol=1e-9, atol=1e-12)


def test_trace_of_the_batch_gives_the_loss_of_the_step(documents: Path, watched: list[dict[str, Any]]) -> None:
    run = trained(documents, "watched", "watcher", dropout=0.0, gradient_accumulation_steps=1)
    losses = {row["step"]: row["loss"] for row in run.metrics()}
    for seen in at(watched, "gradients"):
        (batch,) = seen["batch"]
        batch_size, seq_len = batch.input_ids.shape
        assert seen["traced"].keys() == {"blocks.0", "logits"}
        assert seen["traced"]["blocks.0"].shape == (batch_size, seq_len, 8)
        logits = seen["traced"]["logits"]  # [batch_size, seq_len, vocab_size]
        loss = F.cross_entropy(logits.flatten(0, 1), batch.target_ids.flatten())
        assert float(loss) == pytest.approx(losses[seen["step"]], rel=1e-6)


def test_trace_uses_eval_mode_and_removes_its_hooks(documents: Path, watched: list[dict[str, Any]]) -> None:
    trained(documents, "watched", "watcher")
    assert all(torch.equal(seen["traced"]["logits"], seen["logits"]) for seen in watched)
    assert {seen["hooks"] for seen in watched} == {0}


def test_batch_is_the_micro_batches_of_the_step(documents: Path, watched: list[dict[str, Any]]) -> None:
    trained(documents, "watched", "watcher")
    for seen in at(watched, "gradients") + at(watched, "update"):
        assert [batch.input_ids.shape for batch in seen["batch"]] == [(3, 16), (3, 16)]


def test_model_is_in_eval_mode_without_gradients_while_evaluating(
    documents: Path, watched: list[dict[str, Any]]
) -> None:
    trained(documents, "watched", "watcher")
    assert {seen["modes"][:3] for seen in watched} == {(False, False, False)}


def test_observer_that_raises_is_reported_and_removed_and_training_continues(
    documents: Path, install_plugin: InstallPlugin
) -> None:
    install_plugin("their-watcher", PLUGIN, watcher=FAILING)
    observed, plain = trained(documents, "watched", "watcher"), trained(documents, "plain")
    (warning,) = [row["details"]["message"] for row in observed.read("events").rows if row["kind"] == "warning"]
    assert "their_watcher.watcher.Failing failed and was removed: KeyError" in warning
    assert "the model has no attic" in warning
    assert without_times(observed.metrics()) == without_times(plain.metrics())
