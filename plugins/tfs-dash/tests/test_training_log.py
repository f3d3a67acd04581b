"""Logs in notebooks: of the original tools, and of run folders, whatever is in their files."""

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tfs_dash import create_loss_curves
from tfs_dash.training_log import load_training_log

from tfs_core.errors import CheckpointError

MakeRun = Callable[..., Path]

STEP = {"step": 1, "epoch": 0, "loss": 3.0, "learning_rate": 0.1, "extras": {"x": 1}}
LOG: dict[str, Any] = {
    "experiment_name": "old",
    "model_type": "torch",
    "model_config": {"d_model": 8},
    "train_config": {"a": 1},
    "started_at": "2025-01-01",
    "finished_at": None,
    "train_metrics": [STEP, {**STEP, "step": 2, "loss": 2.0}],
    "val_metrics": [{"step": 2, "epoch": 0, "loss": 2.5, "perplexity": 12.2}],
}


def losses_of(path: Path) -> list[list[float]]:
    figure = create_loss_curves({"log": load_training_log(path)}, smooth=0)
    return [list(trace.y) for trace in figure.data]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"train_metrics": [{**STEP, "loss": "x"}]}, r"train_metrics\.0\.loss is 'x', not a number"),
        ({"train_metrics": [{**STEP, "step": None}]}, r"train_metrics\.0\.step is None"),
        ({"train_metrics": [{**STEP, "extras": [1]}]}, r"train_metrics\.0\.extras"),
        ({"train_metrics": {"0": STEP}}, "train_metrics is not a list"),
        ({"val_metrics": [7]}, r"val_metrics\.0 is not an object"),
        ({"val_metrics": [{"step": 10**400, "loss": 1.0}]}, r"val_metrics\.0\.step"),
        ({"model_config": []}, "model_config"),
        ({"experiment_name": 7}, "experiment_name"),
    ],
)
def test_log_of_the_original_tools_with_odd_values_is_refused(
    change: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(LOG | change))
    with pytest.raises(CheckpointError, match=rf"old\.json is no training log of the original tools.*{problem}"):
        load_training_log(path)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"experiment_name": ' + "9" * 5000, "\udcff", "", "null"])
def test_file_that_is_no_such_json_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"old\.json is no training log of the original tools"):
        load_training_log(path)


@pytest.mark.parametrize("value", ["x", [1], 10**400, True], ids=["text", "list", "huge", "truth"])
def test_extras_that_are_no_numbers_are_not_drawn(value: object, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    extras = {"extras": {"loss": value, "tokens_per_sec": value}}
    path.write_text(json.dumps(LOG | {"train_metrics": [STEP, STEP | {"step": 2} | extras]}))
    assert losses_of(path)[0][0] == 3.0
    assert load_training_log(path).train_metrics[1].loss is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX named pipes")
@pytest.mark.parametrize("kind", ["pipe", "endless"])
@pytest.mark.parametrize("name", ["old.json", "run/config.yaml"])
def test_special_file_is_not_read(name: str, kind: str, assets: Path, make_run: MakeRun) -> None:
    make_run("run")
    path = assets / "runs" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    refused: list[str] = []

    def load() -> None:
        with pytest.raises(CheckpointError, match=rf"{path.name}.* is no") as error:
            load_training_log(path if name == "old.json" else path.parent)
        refused.append(str(error.value))

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(60)
    assert refused, "it is blocked, or raised another exception"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "7",
        "model: [1]",
        "model: 7",
        "model: 0x" + "f" * 6000,
        "training: x",
        "[" * 5000,
        "a: [",
        "\ufffe",
        "a: &a [*a]",
    ],
)
def test_run_whose_configuration_is_damaged_is_refused_by_its_name(text: str, make_run: MakeRun) -> None:
    folder = make_run("run")
    (folder / "config.yaml").write_text(text, "utf-8")
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        load_training_log(folder)


def test_run_without_a_readable_description_is_refused_by_its_name(make_run: MakeRun) -> None:
    folder = make_run("run")
    (folder / "run.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"run\.json is damaged: it is nested too deeply"):
        load_training_log(folder)


@pytest.mark.parametrize("value", ['"x"', "[1]", "{}", "true", "1" + "0" * 400])
def test_loss_of_a_run_that_is_no_number_is_not_drawn(value: str, make_run: MakeRun) -> None:
    folder = make_run("run", [5.0, 4.0])
    with (folder / "metrics.jsonl").open("a") as log:
        log.write(f'{{"step": 3, "loss": {value}}}\n')
    assert losses_of(folder)[0] == [5.0, 4.0]


@pytest.mark.parametrize("line", ['{"loss": 1.0}', '{"step": "3", "loss": 1.0}', '{"step": [3], "loss": 1.0}', "[1]"])
@pytest.mark.parametrize("log", ["metrics", "validation"])
def test_line_of_a_run_without_a_step_is_left_out(log: str, line: str, make_run: MakeRun) -> None:
    folder = make_run("run", [5.0, 4.0], validate_every=1)
    before = losses_of(folder)
    with (folder / f"{log}.jsonl").open("a") as file:
        file.write(line + "\n")
    assert losses_of(folder) == before
