"""Samples during training: the texts, their records, and a training that they do not affect."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import tfs_core
from tfs_core.cli.main import tfs
from tfs_core.runs import Run
from tfs_core.terminal import escape_control_characters

SAMPLES = {"prompts": ["the cat", "", "é"], "max_length": 12, "temperature": 1.5, "top_k": 0, "seed": 7}


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Return a folder with documents to train on."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for i in range(8):
        (folder / f"{i}.txt").write_text(f"document {i}: the cat sat on the mat. " * 3, encoding="utf-8")
    return folder


def trained(documents: Path, name: str, **sections: Any) -> Run:
    """Return a run of six steps with dropout and a validation every two; `sections` extend its configuration."""
    data = {"dataset": {"name": "text", "path": str(documents)}, "tokenizer": "byte", "max_length": 16}
    config = {
        "experiment_name": "tiny",
        "data": {**data, "validation_fraction": 0.4, **sections.pop("data", {})},
        "model": {"name": "torch", "d_model": 8, "n_heads": 2, "n_blocks": 1, "max_seq_len": 16, "dropout": 0.3},
        "training": {
            "batch_size": 4,
            "max_steps": 6,
            "learning_rate": 1e-2,
            "warmup_steps": 0,
            "eval_every": 2,
            **sections.pop("training", {}),
        },
        "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
        "loggers": ["jsonl"],
        **sections,
    }
    return tfs_core.run(config, assets=documents.parent / "assets", name=name)


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return lines of a log without the fields that depend on the clock."""
    return [{key: row[key] for key in row if key not in ("elapsed_seconds", "tokens_per_second")} for row in rows]


def written(run: Run, prompt: str) -> str:
    """Return the output of `tfs generate` for the last checkpoint of a run, with the settings of its samples."""
    arguments = ["generate", str(run.folder), "--prompt", prompt]
    for option in ("max_length", "temperature", "top_k", "seed"):
        arguments += [f"--{option.replace('_', '-')}", str(SAMPLES[option])]
    result = CliRunner().invoke(tfs, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_samples_change_nothing_of_training_to_the_bit(documents: Path) -> None:
    plain, sampled = trained(documents, "plain"), trained(documents, "sampled", samples=SAMPLES)
    assert len(sampled.samples()) == 9
    for log in ("metrics", "validation"):
        assert without_times(plain.read(log).rows) == without_times(sampled.read(log).rows)
    assert plain.latest is not None
    assert sampled.latest is not None
    files = [sorted(path.name for path in run.latest.glob("*.safetensors")) for run in (plain, sampled)]
    assert files[0] == files[1]
    assert "model.safetensors" in files[0]
    for name in files[0]:
        assert (plain.latest / name).read_bytes() == (sampled.latest / name).read_bytes()
    states = [json.loads((run.latest / "state.json").read_bytes()) for run in (plain, sampled)]
    assert states[0]["random_state"] == states[1]["random_state"]


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_section_samples_is_continued_at_each_validation_in_order(documents: Path, batching: str) -> None:
    run = trained(documents, "sampled", data={"batching": batching}, samples=SAMPLES)
    rows = run.samples()
    assert [row["step"] for row in rows] == [2, 2, 2, 4, 4, 4, 6, 6, 6]
    assert [row["prompt"] for row in rows] == 3 * SAMPLES["prompts"]
    settings = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "max_length": 12, "seed": 7}
    assert all(row["settings"] == settings for row in rows)
    for row in rows[-3:]:
        assert written(run, row["prompt"]) == escape_control_characters(row["prompt"] + row["text"]) + "\n"
    assert len({row["text"] for row in rows}) > 3, "a model that writes the same whatever it is asked shows nothing"


def test_samples_are_told_after_the_validation(documents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(documents, "sampled", samples=SAMPLES, loggers=["jsonl", "console"])
    output = capsys.readouterr().out
    assert output.index("validation") < output.index("the cat")


def test_samples_may_be_chosen_among_the_loggers(documents: Path) -> None:
    as_section = trained(documents, "section", samples=SAMPLES)
    as_logger = trained(documents, "logger", loggers=["jsonl", {"name": "samples", **SAMPLES}])
    assert as_logger.samples() == as_section.samples() != []


def test_without_prompts_nothing_is_sampled(documents: Path) -> None:
    assert trained(documents, "plain", samples={}).samples() == []


def test_resumed_run_has_the_samples_of_one_that_never_stopped(documents: Path) -> None:
    whole = trained(documents, "whole", samples=SAMPLES)
    begun = trained(documents, "begun", samples=SAMPLES, training={"max_steps": 6, "keep_checkpoints": 99})
    checkpoint = begun.folder / "checkpoints" / "step-00000002"
    resumed = tfs_core.run(resume=str(checkpoint), name="resumed", assets=documents.parent / "assets")
    assert resumed.samples()[-6:] == whole.samples()[-6:]
