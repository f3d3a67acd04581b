"""The run index and store: changes are detected, and nothing outside of the runs is read."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tfs_dash.log_columns import LogColumns
from tfs_dash.store import RunStore
from tfs_dash.view import View, chosen_runs, parse_view

MakeRun = Callable[..., Path]


def write(path: Path, *losses: float, start: int = 1, mode: str = "w") -> None:
    with path.open(mode, encoding="utf-8", newline="\n") as file:
        for step, loss in enumerate(losses, start=start):
            file.write(json.dumps({"step": step, "loss": loss, "text": "ü"}) + "\n")


# Columns


def test_columns_grow_by_what_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 3.0, 2.0)
    columns = LogColumns(path)
    before = columns.read(["step", "loss"])
    write(path, 1.0, start=3, mode="a")
    assert columns.read(["step", "loss"])["loss"].tolist() == [3.0, 2.0, 1.0]
    assert before["loss"].tolist() == [3.0, 2.0]


def test_reading_on_reads_only_the_new_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, *np.ones(1000).tolist())
    columns = LogColumns(path)
    columns.read(["loss"])
    write(path, 2.0, start=1001, mode="a")
    sizes = []
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: sizes.append(len(got := read(descriptor, size))) or got)
    assert len(columns.read(["loss"])["loss"]) == 1001
    assert sum(sizes) < 1000


def test_torn_last_line_is_read_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 3.0)
    with path.open("a") as file:
        file.write('{"step":2,"lo')
    columns = LogColumns(path)
    assert columns.read(["loss"])["loss"].tolist() == [3.0]
    with path.open("a") as file:
        file.write('ss":2.0}\n')
    assert columns.read(["loss"])["loss"].tolist() == [3.0, 2.0]
    assert columns.bad_lines == 0


def test_damaged_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1,"loss":3.0}\n\0\0\0\nnot json\n[1]\n\xff\xfe\n{"step":2,"loss":2.0}\n')
    columns = LogColumns(path)
    assert columns.read(["step"])["step"].tolist() == [1, 2]
    assert columns.bad_lines == 4
    assert columns.read(["step", "loss"])["loss"].tolist() == [3.0, 2.0]
    assert columns.bad_lines == 4


def test_null_and_non_numbers_are_nan(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"loss":null}\n{"loss":"x"}\n{"loss":true}\n{}\n{"loss":2}\n{"loss":1' + "0" * 400 + "}\n")
    loss = LogColumns(path).read(["loss"])["loss"]
    assert np.isnan(loss[:4]).all()
    assert loss[4] == 2
    assert len(loss) <= 6


def test_column_that_is_asked_for_later_has_all_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 3.0, 2.0)
    columns = LogColumns(path)
    columns.read(["loss"])
    write(path, 1.0, start=3, mode="a")
    assert columns.read(["step"])["step"].tolist() == [1, 2, 3]


def test_a_column_may_be_asked_for_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 3.0, 2.0)
    columns = LogColumns(path)
    columns.read(["loss"])
    assert columns.read(["step", "step"])["step"].tolist() == [1, 2]


def test_file_that_was_replaced_by_a_resume_is_read_anew(tmp_path: Path) -> None:
    path, other = tmp_path / "metrics.jsonl", tmp_path / "new"
    write(path, 3.0, 2.0, 1.0)
    columns = LogColumns(path)
    columns.read(["loss"])
    write(other, 3.0, 9.0, 9.0)
    os.replace(other, path)
    assert columns.read(["loss"])["loss"].tolist() == [3.0, 9.0, 9.0]


def test_file_that_was_cut_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 3.0, 2.0, 1.0)
    columns = LogColumns(path)
    columns.read(["loss"])
    write(path, 5.0)
    assert columns.read(["loss"])["loss"].tolist() == [5.0]


def test_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert len(LogColumns(tmp_path / "none.jsonl").read(["loss"])["loss"]) == 0


def test_lines_longer_than_a_block_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfs_dash.log_columns.BLOCK_BYTES", 64)
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"loss":1.0,"text":"' + "x" * 1000 + '"}\n{"loss":2.0}\n')
    assert LogColumns(path).read(["loss"])["loss"].tolist() == [1.0, 2.0]


# The index


def test_new_run_changes_the_version_and_nothing_new_does_not(assets: Path, make_run: MakeRun) -> None:
    store = RunStore(assets)
    empty = store.index.refresh()
    make_run("first")
    one = store.index.refresh()
    assert one != empty
    assert store.index.refresh() == one


def test_runs_are_in_the_order_of_their_start(assets: Path, make_run: MakeRun) -> None:
    make_run("zebra")
    make_run("ant")
    store = RunStore(assets)
    store.index.refresh()
    assert [run.name for run in store.runs()] == ["zebra", "ant"]


def test_damaged_run_json_hides_that_run_alone(assets: Path, make_run: MakeRun) -> None:
    make_run("good")
    (make_run("torn") / "run.json").write_text('{"name":')
    store = RunStore(assets)
    store.index.refresh()
    assert [run.name for run in store.runs()] == ["good"]


@pytest.mark.parametrize("name", ["../secret", "/etc", "..", "a/../../b", "runs\x00", "~"])
def test_names_from_an_address_are_looked_up_and_never_joined_to_a_path(
    assets: Path, make_run: MakeRun, name: str
) -> None:
    make_run("good")
    secret = assets / "secret"
    secret.mkdir()
    (secret / "run.json").write_text("{}")
    store = RunStore(assets)
    store.index.refresh()
    assert chosen_runs(View(runs=(name,)), store) == ([], [name])


def test_links_out_of_the_runs_are_ignored(
    assets: Path, make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "run.json").write_text('{"status":"finished"}')
    (outside / "metrics.jsonl").write_text('{"step":1,"loss":1.0}\n')
    folder = make_run("good")
    try:
        (assets / "runs" / "link").symlink_to(outside, target_is_directory=True)
        (folder / "metrics.jsonl").unlink()
        (folder / "metrics.jsonl").symlink_to(outside / "metrics.jsonl")
    except OSError:
        pytest.skip("this system does not let us make links")
    store = RunStore(assets)
    store.index.refresh()
    assert [run.name for run in store.runs()] == ["good"]
    assert len(store.runs()[0].training("loss")["loss"]) == 0


def test_store_evicts_the_least_recently_used_log(assets: Path, make_run: MakeRun) -> None:
    for name in ("a", "b", "c"):
        make_run(name)
    store = RunStore(assets, max_bytes=3000)
    store.index.refresh()
    for run in [*store.runs(), store.runs()[0]]:
        assert len(run.training("step", "loss")["loss"]) == 100
    assert len(store._logs) < 3


# The address


def test_wrong_words_in_an_address_are_dropped() -> None:
    view = parse_view("?x=furlongs&smooth=nan&budget=-3&log=xy&runs=a,,a,b&nonsense=1&step=12")
    assert view == View(runs=("a", "b"), log="xy", step=12)


def test_smoothing_from_an_address_stays_below_one() -> None:
    assert parse_view("?smooth=7").smooth == 0.999
