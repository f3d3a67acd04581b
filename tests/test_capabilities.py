"""Capabilities of models in complete runs: document masks, loss in chunks, activation checkpointing, compiling."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import tfs_core
from tfs_core.cli.main import tfs
from tfs_core.config import config_from_mapping
from tfs_core.errors import ConfigError
from tfs_core.runs import Run

Train = Callable[..., Run]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Return `train(model, section={...}, resume=...)`, which trains a tiny model for four steps."""
    lines = [json.dumps({"text": f"{word} {word}."}) for word in ("one", "two", "three", "four", "five", "six")]
    text = tmp_path / "words.jsonl"
    text.write_text("\n".join(lines * 4), encoding="utf-8")

    def run(model: str = "baseline", *, resume: str | bool = False, **sections: dict[str, Any]) -> Run:
        config: dict[str, Any] = {
            "experiment_name": "tried",
            "data": {
                "dataset": {"name": "jsonl", "path": str(text)},
                "tokenizer": "byte",
                "max_length": 16,
                "validation_fraction": 0.2,
            },
            "model": {"name": model, "d_model": 16, "n_heads": 2, "n_blocks": 2, "max_seq_len": 16, "dropout": 0.1},
            "training": {"batch_size": 4, "max_steps": 4, "learning_rate": 1e-2, "warmup_steps": 0},
            "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
            "loggers": ["jsonl"],
        }
        for section, values in sections.items():
            config[section] |= values
        return tfs_core.run(config, assets=tmp_path, resume=resume)

    return run


def losses(run: Run) -> list[float]:
    return [record["loss"] for record in run.metrics()] + [record["loss"] for record in run.validation()]


def warnings(run: Run) -> list[str]:
    return [event["details"]["message"] for event in run.events() if event["kind"] == "warning"]


def test_document_masks_reach_training_validation_and_evaluation(train: Train, tmp_path: Path) -> None:
    apart, together = train(data={"document_masks": True}), train()
    assert all(one != other for one, other in zip(losses(apart), losses(together), strict=True))
    evaluated = CliRunner().invoke(tfs, ["evaluate", apart.name, "--json", "--assets", str(tmp_path)])
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(evaluated.stdout)[0]["loss"] == losses(apart)[-1]


def test_document_masks_of_padded_rows_are_an_error() -> None:
    data = {"dataset": "python-stdlib", "tokenizer": "byte", "batching": "padded", "document_masks": True}
    with pytest.raises(ConfigError, match=r"data\.document_masks: has no effect with batching: padded"):
        config_from_mapping({"experiment_name": "a", "data": data, "model": "torch", "training": {"max_steps": 1}})


def test_model_without_document_masks_is_rejected_before_a_run_begins(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.document_masks: the model 'torch' has no document masks"):
        train("torch", data={"document_masks": True})
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize("model", ["torch", "baseline"])
def test_activation_checkpointing_changes_no_bit_of_a_run(train: Train, model: str) -> None:
    assert losses(train(model, runtime={"activation_checkpointing": True})) == losses(train(model))


@pytest.mark.parametrize("model", ["torch", "baseline"])
def test_loss_in_chunks_trains_equally(train: Train, model: str) -> None:
    assert losses(train(model, runtime={"loss_chunk": 7})) == pytest.approx(losses(train(model)), rel=1e-5)


@pytest.mark.parametrize("runtime", [{"loss_chunk": 7}, {"activation_checkpointing": True}])
def test_hand_written_model_rejects_what_needs_autograd(train: Train, runtime: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"runtime.{next(iter(runtime))}: the model 'custom'"):
        train("custom", runtime=runtime)


def test_hand_written_model_is_trained_without_the_compiler_and_says_so(train: Train) -> None:
    asked = train("custom", runtime={"compile": True})
    assert losses(asked) == losses(train("custom"))
    assert asked.info["compiled"] is False
    assert "backward of its own" in asked.info["machine"]["compile"]
    assert "backward of its own" in warnings(asked)[0]


def test_run_that_could_not_compile_continues_without_compiling(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(module: torch.nn.Module, **options: Any) -> Callable[..., Any]:
        def compiled(*tensors: Any) -> Any:
            raise RuntimeError("no compiler here")

        return compiled

    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", fails)
        begun = train(runtime={"compile": True})
    assert begun.info["compiled"] is False
    assert "no compiler here" in warnings(begun)[0]
    resumed = train(runtime={"compile": True}, training={"max_steps": 6}, resume=begun.name)
    assert resumed.info["compiled"] is False
    assert "the run started without compiling, and a resumed run keeps that" in warnings(resumed)[1]


def test_checkpoint_after_a_failure_of_the_compiler_says_so(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def fails_later(module: torch.nn.Module, **options: Any) -> Callable[..., Any]:
        def compiled(*tensors: Any) -> Any:
            calls.append(tensors)
            if len(calls) > 4:  # two calls of the trial, and two steps
                raise RuntimeError("another length")
            return module(*tensors)

        return compiled

    monkeypatch.setattr(torch, "compile", fails_later)
    begun = train(runtime={"compile": True}, training={"checkpoint_every": 2})
    compiled = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))["machine"]["compiled"]
        for path in begun.folder.glob("checkpoints/step-*/state.json")
    }
    assert compiled == {"step-00000002": True, "step-00000004": False}
    assert begun.info["compiled"] is False
    assert "another length" in begun.info["machine"]["compile"]
    assert "another length" in warnings(begun)[0]


def test_compiled_run_that_cannot_be_any_more_says_that_bits_may_differ(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    begun = train(runtime={"compile": True})
    assert begun.info["compiled"] is True
    assert "tfs-speed" in begun.info["plugins"], "the distribution of the wrapper"
    resumed = train(runtime={"compile": False}, training={"max_steps": 6}, resume=begun.name)
    assert any("compiled was True, is False" in message for message in warnings(resumed))


def test_run_without_compiling_may_be_compiled_later(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    begun = train()
    assert begun.info["compiled"] is False
    resumed = train(runtime={"compile": True}, training={"max_steps": 6}, resume=begun.name)
    assert resumed.info["compiled"] is True
    assert any("compiled was False, is True" in message for message in warnings(resumed))
