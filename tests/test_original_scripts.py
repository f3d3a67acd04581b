"""Scripts of the original tools: the names that they import, and the Python of the original's README, line by line."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tfs_core.contracts import ModelConfig
from tfs_core.errors import CheckpointError, UsageError
from tfs_core.evaluator import Evaluator
from tfs_core.models import AutogradModel
from tfs_core.runs import find_run
from tfs_core.training import CheckpointManager, TrainingLogger, load_training_log


class Table(AutogradModel):
    """A table of logits, for a script with its own training loop."""

    def __init__(self) -> None:
        super().__init__(ModelConfig(), vocab_size=5)
        self.table = nn.Embedding(5, 5)

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.table(input_ids)
        return logits


def test_evaluator_is_found_under_its_old_name() -> None:
    from tfs_core import training

    assert training.Evaluator is Evaluator
    with pytest.raises(AttributeError, match="no attribute 'Trainr'"):
        training.Trainr  # noqa: B018


def write_log(log_dir: Path) -> TrainingLogger:
    logger = TrainingLogger(
        log_dir=log_dir,
        experiment_name="story",
        model_type="torch",
        model_config={"d_model": 64, "dtype": "float32"},
        train_config={"batch_size": 8},
    )
    logger.log_step(step=1, epoch=0, loss=3.5, learning_rate=1e-3)
    logger.log_step(step=2, epoch=1, loss=3.25, learning_rate=1e-3, grad_norm=0.5, tokens_processed=1000)
    logger.log_validation(step=2, epoch=1, loss=3.0, perplexity=20.1)
    logger.finish()
    return logger


def test_training_logger_writes_a_run_folder_that_is_read_like_any(tmp_path: Path) -> None:
    logger = write_log(tmp_path / "runs")
    run = find_run("story", tmp_path)
    assert run.folder == logger.folder
    assert run.status == "finished"
    assert run.info["model"] == "torch"
    assert run.info["summary"]["last_step"] == 2
    assert run.info["summary"]["best_validation"] == {"step": 2, "loss": 3.0}
    first, second = run.metrics()
    assert (first["tokens"], first["flops"], first["grad_norm"], first["nonfinite"]) == (None, None, None, [])
    assert (second["loss"], second["tokens"], second["grad_norm"]) == (3.25, 1000, 0.5)
    assert run.validation()[0]["perplexity"] == 20.1


def test_training_logger_never_writes_into_another_run(tmp_path: Path) -> None:
    folders = [write_log(tmp_path).folder.name for _ in range(2)]
    assert folders == ["story", "story-2"]


def test_training_logger_computes_the_perplexity_when_it_is_not_given(tmp_path: Path) -> None:
    logger = TrainingLogger(tmp_path, "story", "torch")
    logger.log_validation(step=1, epoch=0, loss=2.0)
    logger.finish()
    (row,) = find_run(str(logger.folder), tmp_path).validation()
    assert row["perplexity"] == math.exp(2.0)


def test_training_logger_has_the_perplexity_of_the_evaluator(tmp_path: Path) -> None:
    logger = TrainingLogger(tmp_path, "story", "torch")
    logger.log_validation(step=1, epoch=0, loss=705.0)
    logger.log_validation(step=2, epoch=0, loss=800.0)
    logger.finish()
    large, too_large = find_run(str(logger.folder), tmp_path).validation()
    assert large["perplexity"] == math.exp(705.0)
    assert too_large["perplexity"] is None  # infinite, which JSON does not have


def test_load_training_log_reads_a_run_folder(tmp_path: Path) -> None:
    run = load_training_log(write_log(tmp_path).folder)
    assert (run.experiment_name, run.model_type) == ("story", "torch")
    assert run.model_config == {"d_model": 64, "dtype": "float32"}
    assert run.train_config == {"batch_size": 8}
    assert [(metrics.step, metrics.epoch, metrics.loss) for metrics in run.train_metrics] == [(1, 0, 3.5), (2, 1, 3.25)]
    assert run.train_metrics[1].extras["tokens"] == 1000
    assert run.train_metrics[1].tokens_per_sec is not None
    (validation,) = run.val_metrics
    assert (validation.step, validation.epoch, validation.loss) == (2, 1, 3.0)
    assert run.started_at is not None
    assert run.finished_at is not None


ORIGINAL: dict[str, Any] = {
    "experiment_name": "tiny",
    "model_type": "custom",
    "model_config": {"d_model": 128},
    "train_config": {"learning_rate": 0.001},
    "started_at": "2025-01-01T10:00:00",
    "finished_at": None,
    "train_metrics": [
        {
            "step": 1,
            "epoch": 0,
            "loss": 5.0,
            "learning_rate": 0.0,
            "timestamp": "2025-01-01T10:00:01",
            "grad_norm": None,
            "tokens_per_sec": 900.0,
            "extras": {"clipped": True},
        },
        {"step": 2, "epoch": 0, "loss": math.nan, "learning_rate": 0.001, "timestamp": "t", "a_later_field": 1},
    ],
    "val_metrics": [{"step": 2, "epoch": 0, "loss": 4.0, "perplexity": 54.6, "timestamp": "2025-01-01T10:00:02"}],
}


def test_load_training_log_reads_a_file_of_the_original_tools(tmp_path: Path) -> None:
    path = tmp_path / "tiny_20250101_100000.json"
    path.write_text(json.dumps(ORIGINAL, indent=2))  # with the bare NaN that the original wrote
    run = load_training_log(path)
    assert (run.experiment_name, run.model_type, run.finished_at) == ("tiny", "custom", None)
    first, second = run.train_metrics
    assert (first.timestamp, first.tokens_per_sec, first.extras) == ("2025-01-01T10:00:01", 900.0, {"clipped": True})
    assert (second.loss, second.extras) == (None, {"a_later_field": 1})
    assert (run.val_metrics[0].epoch, run.val_metrics[0].perplexity) == (0, 54.6)


@pytest.mark.parametrize("content", ['{"experiment_name": "tiny", "train_met', "[]", "{}"])
def test_load_training_log_says_what_a_torn_or_foreign_file_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "log.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"log\.json is no training log"):
        load_training_log(path)


def test_load_training_log_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a run folder nor a log file: No such file"):
        load_training_log(tmp_path / "none.json")


def test_training_logger_writes_configuration_values_of_any_type(tmp_path: Path) -> None:
    logger = TrainingLogger(tmp_path, "story", "torch", model_config={"path": Path("x"), "shape": (1, 2)})
    logger.finish()
    config = yaml.safe_load((logger.folder / "config.yaml").read_text(encoding="utf-8"))
    assert config["model"] == {"name": "torch", "path": "x", "shape": [1, 2]}


def test_manager_saves_and_loads_in_a_custom_loop(tmp_path: Path) -> None:
    model = Table()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    manager = CheckpointManager(checkpoint_dir=tmp_path, model=model, experiment_name="own", max_checkpoints=2)
    manager.save(epoch=1, global_step=10, optimizer=optimizer, metrics={"val_loss": 2.0}, is_best=True)
    model.loss(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]]))
    model.backward(1.0)
    optimizer.step()
    for step in (20, 30, 40):
        manager.save(epoch=2, global_step=step, learning_rate=0.1, optimizer=optimizer)
    assert [path.name for path in manager.list_checkpoints()] == ["step-00000010", "step-00000030", "step-00000040"]

    state = manager.load("best", optimizer=optimizer)
    assert state is not None
    assert (state["epoch"], state["global_step"], state["metrics"]) == (1, 10, {"val_loss": 2.0})
    latest = manager.load()
    assert latest is not None
    assert latest["global_step"] == 40


def test_manager_without_a_checkpoint_loads_none(tmp_path: Path) -> None:
    assert CheckpointManager(checkpoint_dir=tmp_path, model=Table(), experiment_name="own").load() is None


class TestReadme:
    """The Python of the original's README, with the imports of tfs and a small data set."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("TFS_ASSETS", raising=False)
        lines = [json.dumps({"text": f"the tale of a fox and {n} hens " * 5}) for n in range(40)]
        Path("corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")

    def test_tokenization(self, capsys: pytest.CaptureFixture[str]) -> None:
        from tfs_tokenizers import (
            analyze_dataset,
            load_pretokenized,
            pretokenize_dataset,
            train_tokenizer,
            train_tokenizer_from_files,
        )

        report, recommendations = analyze_dataset("corpus.jsonl", subset_size=10000)
        print(report.summary())
        assert "bytes each" in capsys.readouterr().out
        assert recommendations

        tokenizer_path = train_tokenizer("corpus.jsonl", vocab_size=300)
        output = pretokenize_dataset("corpus.jsonl", tokenizer_path, max_length=256)
        assert isinstance(output, os.PathLike)
        assert Path(output).is_dir()
        assert load_pretokenized(output).documents + load_pretokenized(output, split="validation").documents == 40
        folder, reports = output
        assert (folder, len(reports)) == (Path(output), 2)

        own = train_tokenizer_from_files("corpus.jsonl", 300)
        assert own == train_tokenizer_from_files(Path("corpus.jsonl"), 300)
        assert own == train_tokenizer_from_files(["corpus.jsonl"], 300)
        assert load_pretokenized(pretokenize_dataset("corpus.jsonl", own)).documents > 30

    def test_checkpoints_and_evaluation(self) -> None:
        model = Table()
        checkpoint_manager = CheckpointManager(
            checkpoint_dir="assets/models/my_experiment",
            model=model,
            experiment_name="my_experiment",
        )
        checkpoint_manager.save(epoch=1, global_step=1000)
        resume_state = checkpoint_manager.load()
        assert resume_state is not None
        assert resume_state["global_step"] == 1000

        val_loader = [
            {
                "input_ids": torch.tensor([[1, 2, 3, 4], [2, 3, 0, 0]]),
                "labels": torch.tensor([[1, 2, 3, 4], [2, 3, -100, -100]]),
            }
        ]
        evaluator = Evaluator(model, device="cuda" if torch.cuda.is_available() else "cpu")
        result = evaluator.evaluate(val_loader)
        print(f"Val Loss: {result.loss:.4f}, Perplexity: {result.perplexity:.2f}")
        assert result.tokens_evaluated == 4
        without_labels = evaluator.evaluate([{"input_ids": torch.tensor([[1, 2, 3, 4], [2, 3, 0, 0]])}])
        assert without_labels.tokens_evaluated == 6
        loss = cross_entropy(model(torch.tensor([1, 2, 3, 2])), torch.tensor([2, 3, 4, 3]))
        assert result.loss == pytest.approx(loss.item())

    def test_log(self) -> None:
        logger = TrainingLogger(
            log_dir="assets/logs",
            experiment_name="my_experiment",
            model_type="TorchTransformer",
            model_config={"d_model": 256},
            train_config={"batch_size": 32},
        )
        logger.log_step(step=100, epoch=0, loss=2.5, learning_rate=1e-4)
        logger.log_validation(step=100, epoch=0, loss=2.3, perplexity=10.0)
        logger.finish()

        run = load_training_log("assets/logs/my_experiment.json")
        assert (run.experiment_name, run.train_metrics[0].loss, run.val_metrics[0].loss) == ("my_experiment", 2.5, 2.3)

        from tfs_dash import create_loss_curves

        fig = create_loss_curves({"my_run": run})
        assert {trace.name for trace in fig.data} >= {"my_run", "my_run validation"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a cuda device")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu", "mps"])
def test_device_that_is_not_there_is_an_error_in_a_sentence(device: str) -> None:
    with pytest.raises(
        UsageError, match=rf"the device '{device}' is not available \(.+\)\. 'cpu' always is\."
    ) as caught:
        Evaluator(Table(), device=device)
    assert "\n" not in str(caught.value)
