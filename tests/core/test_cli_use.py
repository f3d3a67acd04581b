"""`tfs evaluate` on a small run, and its error messages."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import tfs_core
from tfs_core.cli.main import tfs
from tfs_core.runs import find_run

Invoke = Callable[..., Result]


def small_config(documents: Path, **changes: Any) -> dict[str, Any]:
    """Return the configuration of a run that takes about a second."""
    data = {
        "dataset": {"name": "text", "path": str(documents)},
        "tokenizer": "byte",
        "max_length": 16,
        "validation_fraction": 0.4,
    }
    return {
        "experiment_name": "tiny",
        "data": data | changes,
        "model": {"name": "torch", "d_model": 8, "n_heads": 2, "n_blocks": 1, "max_seq_len": 16},
        "training": {"batch_size": 4, "max_steps": 3, "learning_rate": 1e-2, "warmup_steps": 0},
        "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
        "loggers": ["jsonl"],
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with documents, and assets with the runs `tiny` and `tiny-8` (shorter rows)."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "documents").mkdir()
    for i in range(8):
        (folder / "documents" / f"{i}.txt").write_text(f"document {i}: the cat sat on the mat. " * 3, encoding="utf-8")
    config = small_config(folder / "documents")
    tfs_core.run(config, assets=folder / "assets")
    tfs_core.run(small_config(folder / "documents", max_length=8), assets=folder / "assets", name="tiny-8")
    return folder


@pytest.fixture
def invoke(trained: Path) -> Invoke:
    """Return `invoke(*arguments, input=...)`, which calls tfs with the assets of `trained`."""

    def call(*arguments: str, **options: Any) -> Result:
        extra = () if "--assets" in arguments else ("--assets", str(trained / "assets"))
        return CliRunner().invoke(tfs, [*arguments, *extra], **options)

    return call


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the assets that a test may modify. Its runs still refer to the documents of `trained`."""
    shutil.copytree(trained / "assets", tmp_path / "assets")
    return tmp_path / "assets"


def test_evaluate_finds_what_training_found(invoke: Invoke, trained: Path) -> None:
    result = invoke("evaluate", "tiny", "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    logged = find_run("tiny", trained / "assets").validation()[-1]
    assert {key: row[key] for key in ("step", "loss", "perplexity", "bits_per_byte", "tokens_evaluated")} == {
        key: logged[key] for key in ("step", "loss", "perplexity", "bits_per_byte", "tokens_evaluated")
    }
    assert (row["run"], row["model"], row["data"]["max_length"]) == ("tiny", "torch", 16)


def test_evaluate_prints_a_table_of_several_and_says_what_is_not_comparable(invoke: Invoke) -> None:
    result = invoke("evaluate", "tiny", "tiny-8")
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["run", "step"],
        ["tiny", "3"],
        ["tiny-8", "3"],
    ]
    assert "Only rows with the same data are comparable" in result.stderr


def test_evaluate_says_nothing_of_comparing_rows_with_the_same_data(invoke: Invoke, trained: Path) -> None:
    checkpoint = find_run("tiny", trained / "assets").latest
    result = invoke("evaluate", "tiny", str(checkpoint))
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == ""


def test_evaluate_max_batches_evaluates_so_many(invoke: Invoke) -> None:
    (row,) = json.loads(invoke("evaluate", "tiny", "--json", "--max-batches", "2").stdout)
    assert row["tokens_evaluated"] == 2 * 4 * 16


def test_evaluate_finds_the_tokens_beside_a_run_that_lies_elsewhere(invoke: Invoke, copied: Path) -> None:
    result = invoke("evaluate", str(copied / "runs" / "tiny"), "--assets", str(copied.parent / "none"))
    assert result.exit_code == 0, result.output


def test_evaluate_finds_every_target_before_it_begins(invoke: Invoke) -> None:
    result = invoke("evaluate", "tiny", "tinny")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Did you mean 'tiny'?" in result.stderr


def test_evaluate_without_a_token_store_reads_the_data_only_with_an_option(invoke: Invoke, copied: Path) -> None:
    before = invoke("evaluate", "tiny", "--json", "--assets", str(copied))
    shutil.rmtree(copied / "tokens")
    refused = invoke("evaluate", "tiny", "--assets", str(copied))
    assert refused.exit_code == 1
    assert "--data recreates them from its data set, 'text'" in refused.stderr
    allowed = invoke("evaluate", "tiny", "--json", "--data", "--assets", str(copied))
    assert json.loads(allowed.stdout) == json.loads(before.stdout)


@pytest.fixture
def own_documents(tmp_path: Path) -> Path:
    """Return a folder with its own documents and assets, with the run `tiny` and without its token store."""
    (tmp_path / "documents").mkdir()
    for i in range(4):
        (tmp_path / "documents" / f"{i}.txt").write_text(f"text {i} and some more of it", encoding="utf-8")
    tfs_core.run(small_config(tmp_path / "documents"), assets=tmp_path / "assets")
    shutil.rmtree(tmp_path / "assets" / "tokens")
    return tmp_path


def test_evaluate_rejects_data_that_changed(invoke: Invoke, own_documents: Path) -> None:
    (own_documents / "documents" / "0.txt").write_text("other text", encoding="utf-8")
    result = invoke("evaluate", "tiny", "--data", "--assets", str(own_documents / "assets"))
    assert result.exit_code == 1
    assert "the text of the data set 'text' has changed since the run" in result.stderr


def test_evaluate_reports_missing_data(invoke: Invoke, own_documents: Path) -> None:
    shutil.rmtree(own_documents / "documents")
    result = invoke("evaluate", "tiny", "--data", "--assets", str(own_documents / "assets"))
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert str(own_documents / "documents") in result.stderr


def test_evaluate_writes_strict_json_of_a_loss_beyond_any_perplexity(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfs_core.evaluator import Evaluation, Evaluator

    huge = Evaluation(loss=800.0, perplexity=math.inf, bits_per_byte=None, tokens_evaluated=1)
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_arguments, **_options: huge)
    (row,) = json.loads(invoke("evaluate", "tiny", "--json").stdout, parse_constant=pytest.fail)
    assert (row["perplexity"], row["bits_per_byte"]) == (None, None)
    assert invoke("evaluate", "tiny").stdout.splitlines()[1].split()[3:6] == ["800.0000", "inf", "-"]


def test_missing_run_suggests_the_nearest_name(invoke: Invoke) -> None:
    result = invoke("evaluate", "tinny")
    assert result.exit_code == 1
    assert "There is no run 'tinny'" in result.stderr
    assert "Did you mean 'tiny'?" in result.stderr
