"""Regression tests, one per fault of the original dashboard."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tfs_dash
from tfs_dash import compute, units
from tfs_dash.curves import compute_curve
from tfs_dash.figures.compute import equal_compute_figure, flops_figure
from tfs_dash.figures.health import HEALTH_FIGURES
from tfs_dash.figures.loss import loss_figure
from tfs_dash.figures.style import TEMPLATES
from tfs_dash.notebook import run_data
from tfs_dash.store import RunStore
from tfs_dash.summaries import summarize
from tfs_dash.training_log import load_training_log
from tfs_dash.view import View

from tfs_core.errors import ConfigError

MakeRun = Callable[..., Path]


def test_1_cost_of_a_loss_is_interpolated_along_cost() -> None:
    flops = np.linspace(1, 400, 400)
    assert compute.cost_to_reach(compute.Curve(flops, 5 - flops / 100), 2.26) == pytest.approx(274)


def test_2_marks_on_a_log_axis_are_at_the_data_and_do_not_stretch_it(make_run: MakeRun) -> None:
    runs = [run_data(make_run("a")), run_data(make_run("b"))]
    figure = flops_figure(runs, View(axes="xy"))
    assert not figure["layout"].get("annotations")
    assert max(max(trace["y"]) for trace in figure["data"]) < 7
    assert {shape.get("yref") for shape in figure["layout"]["shapes"]} == {"paper"}


def test_3_parameters_are_the_runs_own_count_whatever_the_vocabulary(make_run: MakeRun) -> None:
    assert tfs_dash.estimate_model_params(make_run("25m")) == 24_256_000


def test_3_parameters_of_a_configuration_are_counted_on_the_model() -> None:
    small = {"name": "torch", "d_model": 32, "n_heads": 2, "n_blocks": 2, "max_seq_len": 64}
    assert tfs_dash.estimate_model_params(small, vocab_size=257) == 35_744


def test_3_model_in_a_file_is_not_imported_to_count_its_parameters(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"own\.py:Own: a model in a file is not imported.*parameter_counts"):
        tfs_dash.estimate_model_params({"name": f"{tmp_path / 'own.py'}:Own"}, vocab_size=257)


def test_4_flops_are_the_logged_ones_however_seldom_lines_are_logged(make_run: MakeRun) -> None:
    folder = make_run("every", info={"status": "finished"})
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    seldom = make_run("tenth")
    (seldom / "metrics.jsonl").write_text("".join(lines[9::10]))
    assert summarize(run_data(folder)).flops == summarize(run_data(seldom)).flops == 100e9


def test_5_validations_between_logged_steps_are_kept(make_run: MakeRun) -> None:
    folder = make_run("run", validate_every=7)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[9::10]))
    assert len(compute_curve(run_data(folder), View()).cost) == 14
    validation = next(trace for trace in loss_figure([run_data(folder)], View())["data"] if "markers" in trace["mode"])
    assert validation["x"].tolist() == list(range(7, 100, 7))


def test_6_one_step_spikes_are_drawn_in_loss_and_in_throughput(make_run: MakeRun) -> None:
    losses = np.full(20_000, 2.0)
    spikes = np.arange(500, 20_000, 1000)
    losses[spikes] = 7.0
    run = run_data(make_run("spiky", losses.tolist()))
    for figure in (loss_figure([run], View(smooth=0)), loss_figure([run], View(smooth=0.9))):
        drawn = np.concatenate([trace["x"][trace["y"] == 7.0] for trace in figure["data"] if trace["mode"] == "lines"])
        assert drawn.tolist() == (spikes + 1).tolist()
    assert max(len(trace["x"]) for trace in HEALTH_FIGURES["tokens_per_second"]([run], View())["data"]) < 2500


def test_7_names_from_logs_are_escaped_in_figures(make_run: MakeRun) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    runs = [run_data(make_run("a", info={"group": hostile, "seed": 1}), name=hostile) for _ in "1"]
    runs.append(run_data(make_run("b", info={"group": hostile, "seed": 2}), name=f"{hostile}2"))
    for figure in (loss_figure(runs, View()), loss_figure(runs, View(seeds="mean")), equal_compute_figure(runs, View()),
                   *[make(runs, View()) for make in HEALTH_FIGURES.values()]):  # fmt: skip
        assert "<img" not in json.dumps(figure, default=lambda array: array.tolist())


def test_8_every_public_name_exists() -> None:
    assert tfs_dash.__all__
    for name in tfs_dash.__all__:
        assert callable(getattr(tfs_dash, name))


def test_9_first_validation_that_is_nan_is_not_the_best(make_run: MakeRun) -> None:
    folder = make_run("run")
    lines = (folder / "validation.jsonl").read_text().splitlines(keepends=True)
    lines[0] = re.sub(r'"loss":[^,]+', '"loss":null', lines[0])
    (folder / "validation.jsonl").write_text("".join(lines))
    assert summarize(run_data(folder)).best_loss == pytest.approx(5 / (1 + 0.1 * 99) + 1)


def test_10_log_that_was_cut_while_written_is_still_read(make_run: MakeRun) -> None:
    folder = make_run("run")
    content = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(content[:-20])
    assert summarize(run_data(folder)).steps == 99


def test_11_moving_a_slider_parses_no_log_again(
    assets: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run("run")
    store = RunStore(assets)
    store.index.refresh()
    flops_figure(store.runs(), View())
    monkeypatch.setattr("tfs_dash.log_columns._decode", lambda *_: pytest.fail("a log was parsed again"))
    flops_figure(store.runs(), View(budget=10.0))


def test_12_figures_leave_the_theme_to_the_page_and_there_is_a_dark_one(make_run: MakeRun) -> None:
    figure = loss_figure([run_data(make_run("run"))], View())
    assert "template" not in figure["layout"]
    assert TEMPLATES["dark"]["layout"]["paper_bgcolor"] != TEMPLATES["light"]["layout"]["paper_bgcolor"]


def test_12_sizes_sort_as_numbers(assets: Path, make_run: MakeRun) -> None:
    from tfs_dash.pages.runs import rows

    make_run("run")
    store = RunStore(assets)
    store.index.refresh()
    assert rows(store)[0]["flops"] == 100e9
    assert units.flops(467.86e15) == "468 PFLOPs"


def test_13_gradient_norm_is_shown_on_any_axis(make_run: MakeRun) -> None:
    run = run_data(make_run("run"))
    for x, last in (("steps", 100), ("tokens", 51_200), ("seconds", 10), ("flops", 100e9)):
        assert HEALTH_FIGURES["grad_norm"]([run], View(x=x))["data"][-1]["x"][-1] == pytest.approx(last)


def test_logs_of_the_original_tools_are_drawn(tmp_path: Path) -> None:
    log = {
        "experiment_name": "old", "model_type": "torch", "model_config": {"d_model": 8}, "train_config": {},
        "started_at": "2025-01-01", "finished_at": None,
        "train_metrics": [
            {"step": step, "epoch": 0, "loss": 3 - step / 10, "learning_rate": 1e-3} for step in (1, 2, 3)
        ],
        "val_metrics": [{"step": 2, "epoch": 0, "loss": 2.5, "perplexity": 12.2}],
    }  # fmt: skip
    path = tmp_path / "old.json"
    path.write_text(json.dumps(log))
    figure = tfs_dash.create_loss_curves({"old": path, "loaded": load_training_log(path)}, smooth=0)
    assert [list(trace.y) for trace in figure.data] == [[2.9, 2.8, 2.7], [2.5]] * 2
