"""Content of the pages, without a browser: notices, tables, conclusions, configurations, samples, exports."""

import csv
import io
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tfs_dash import create_app, export_report
from tfs_dash.conclusions import conclusions
from tfs_dash.configurations import compare
from tfs_dash.exports import curves_as_csv
from tfs_dash.figures.style import GRAPH_CONFIG
from tfs_dash.notebook import run_data
from tfs_dash.page import installed_pages
from tfs_dash.pages import runs
from tfs_dash.redact import HIDDEN, is_secret, public_text, without_secrets
from tfs_dash.sounds import at_step, prompts, samples_by_loss, samples_of
from tfs_dash.store import RunData, RunStore, last_lines
from tfs_dash.summaries import grid_rows
from tfs_dash.view import DEFAULT, View, parse_view, to_query, with_distinct_colors

MakeRun = Callable[..., Path]


def data_of(*folders: Path) -> list[RunData]:
    return [run_data(folder, position=position) for position, folder in enumerate(folders)]


def text_of(component: object) -> str:
    return json.dumps(component, default=lambda one: one.to_plotly_json(), ensure_ascii=False)


# Views


def test_a_view_survives_its_address() -> None:
    view = View(
        runs=("a", "b c"), x="flops", smooth=0.5, log="xy", seeds="mean", prompt="def &x=1", step=7, budget=14.25
    )
    assert parse_view(to_query(view)) == view


@given(st.lists(st.text(alphabet=",%2C5 a&=+#é", min_size=1), unique=True, max_size=5))
def test_any_names_of_runs_survive_the_address(names: list[str]) -> None:
    assert parse_view(to_query(View(runs=tuple(names)))).runs == tuple(names)


def test_the_default_view_needs_no_address() -> None:
    assert to_query(DEFAULT) == ""
    assert parse_view("") == DEFAULT


def test_up_to_ten_runs_have_ten_colors(make_run: MakeRun) -> None:
    runs = [run_data(make_run(f"run-{number}"), position=number * 10 % 33) for number in range(10)]
    assert sorted(run.position for run in with_distinct_colors(runs)) == list(range(10))


def test_a_run_keeps_its_color_when_another_is_added(make_run: MakeRun) -> None:
    first, second = run_data(make_run("a"), position=3), run_data(make_run("b"), position=13)
    assert with_distinct_colors([first])[0].position == with_distinct_colors([first, second])[0].position == 3


# Conclusions


def test_conclusions_name_the_leader_and_the_crossover(make_run: MakeRun) -> None:
    small = make_run("small", [3 + 2 / step for step in range(1, 101)], flops_per_step=1e9)
    large = make_run("large", [2.5 + 8 / step for step in range(1, 101)], flops_per_step=1e9)
    said = " ".join(conclusions(data_of(small, large), View()))
    assert "large reached the lowest loss of all, 2.5800" in said
    assert "large overtakes small at" in said
    assert "After the same 100 GFLOPs, large has the lowest loss" in said
    assert "large has the most to gain from longer training" in said


def test_conclusions_name_all_runs_that_gain_about_as_much(make_run: MakeRun) -> None:
    small = make_run("small", [4 - 0.1 * np.log2(step) for step in range(1, 65)])
    wide = make_run("wide", [4 - 0.098 * np.log2(step) for step in range(1, 65)])
    said = " ".join(conclusions(data_of(small, wide), View()))
    assert "small and wide have the most to gain from longer training" in said


def test_conclusions_are_empty_without_runs_and_short_for_one(make_run: MakeRun) -> None:
    assert conclusions([], View()) == []
    assert len(conclusions(data_of(make_run("only")), View())) == 2


# Configurations and redaction


def test_settings_that_differ_come_first(make_run: MakeRun) -> None:
    a = make_run("a", config={"zebra": 1, "model": {"name": "torch", "d_model": 64}})
    b = make_run("b", config={"zebra": 1, "model": {"name": "torch", "d_model": 128}})
    rows = compare(data_of(a, b))
    differing = [row.name for row in rows if row.differs]
    assert "model.d_model" in differing
    assert [row.name for row in rows[: len(differing)]] == differing
    assert "zebra" not in differing


@pytest.mark.parametrize(
    "name", ["api_key", "token", "hf_token", "HF_TOKEN", "wandbApiKey", "password", "client_secret", "auth"]
)
def test_names_of_secrets_are_recognized(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["tokenizer", "max_tokens", "tokens", "keys", "key_value_cache", "n_heads", "author"])
def test_names_of_other_settings_are_no_secrets(name: str) -> None:
    assert not is_secret(name)


def test_secrets_in_lists_and_addresses_and_values_are_hidden() -> None:
    config = {
        "loggers": [{"name": "remote", "api_key": "abc"}],
        "url": "https://me:pw@host/x",
        "note": "hf_abcdefghijkl",
    }
    shown = json.dumps(without_secrets(config))
    assert "abc" not in shown
    assert "pw" not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/corpus.txt", "…/corpus.txt"),
        ("C:\\Users\\me\\corpus.txt", "…/corpus.txt"),
        ("/home/me/my_model.py:MyModel", "…/my_model.py:MyModel"),
        ("cannot read '/a/b/c.txt': gone", "cannot read '…/c.txt': gone"),
        ("tokens/s and/or 3/4", "tokens/s and/or 3/4"),
        ("https://example.com/a/b", "https://example.com/a/b"),
        ("https://example.com/a:/b/c", "https://example.com/a:/b/c"),
        ("x=/a/b/ and \\\\host\\share\\c", "x=…/b/ and …/c"),
        ("https://me:pw@host/x?ftp://a:b@c", "https://host/x?ftp://c"),
    ],
)
def test_paths_of_this_machine_are_cut_to_their_last_part(text: str, shown: str) -> None:
    assert public_text(text) == shown


@pytest.mark.parametrize("part", ["x", "\\", "\\/", "x://", "x://y", "~", "-/", "a:", "sk-", "@"])
def test_redaction_of_a_long_text_takes_linear_time(part: str) -> None:
    """A pattern that backtracks from every position takes minutes for these texts, and a linear one milliseconds."""
    process = multiprocessing.get_context("spawn").Process(target=public_text, args=(part * 200_000,))
    process.start()
    process.join(60)
    try:
        assert process.exitcode == 0
    finally:
        process.kill()


# Samples


def sample(step: int, text: str, prompt: str = "def ") -> dict[str, object]:
    return {"step": step, "prompt": prompt, "text": text, "settings": {}}


def test_samples_have_the_loss_at_their_step(make_run: MakeRun) -> None:
    run = run_data(make_run("run", samples=[sample(10, "early"), sample(100, "late"), {"step": "x"}]))
    found = samples_of(run)
    assert [one.text for one in found] == ["early", "late"]
    assert found[0].loss is not None
    assert found[1].loss is not None
    assert found[0].loss > found[1].loss
    assert prompts(found) == ["def "]


def test_sample_at_a_step_is_the_last_one_up_to_it(make_run: MakeRun) -> None:
    found = samples_of(run_data(make_run("run", samples=[sample(10, "early"), sample(100, "late")])))
    assert at_step(found, "def ", 50).text == "early"  # type: ignore[union-attr]
    assert at_step(found, "def ", 5) is None


def test_samples_by_loss_go_from_high_to_low_evenly(make_run: MakeRun) -> None:
    run = run_data(make_run("run", samples=[sample(step, str(step)) for step in range(10, 101, 10)]))
    found = samples_by_loss(samples_of(run), rows=4)
    losses = [one.loss or 0 for one in found]
    assert losses == sorted(losses, reverse=True)
    assert (found[0].text, found[-1].text) == ("10", "100")
    assert len(found) <= 4


# The table of all runs


def test_last_complete_line_is_found_before_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"loss":1}\nbad\n{"loss":2}\n{"lo')
    assert last_lines(path) == [{"loss": 1}, {"loss": 2}]
    assert last_lines(path, tail_bytes=18) == [{"loss": 2}]
    assert last_lines(None) == []


def test_table_reads_no_log_but_the_last_lines(
    assets: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run("run")
    store = RunStore(assets)
    store.index.refresh()
    monkeypatch.setattr("tfs_dash.log_columns._decode", lambda *_: pytest.fail("a log was parsed"))
    (row,) = grid_rows(store.runs())
    assert row["best_loss"] == row["last_loss"]
    assert row["progress"] == 100


# The app


def test_every_page_has_a_layout_with_and_without_runs(assets: Path, make_run: MakeRun) -> None:
    store = RunStore(assets)
    assert len(installed_pages()) == 6
    for page in installed_pages():
        assert page.title in text_of(page.page.layout(View(), store))
    make_run("run")
    store.index.refresh()
    for page in installed_pages():
        layout = text_of(page.page.layout(View(), store))
        parts = [make(store.runs(), View(), store) for make in page.parts.values()]
        assert page.title in layout
        assert "make demo" not in text_of(parts)


def test_pages_without_runs_give_advice(assets: Path) -> None:
    store = RunStore(assets)
    for page in installed_pages():
        assert any("make demo" in text_of(make([], View(), store)) for make in page.parts.values())


def test_every_graph_has_the_sharing_button_off(assets: Path) -> None:
    store = RunStore(assets)
    layouts = [page.page.layout(View(), store) for page in installed_pages()]
    graphs = [one for layout in layouts for one in layout._traverse() if type(one).__name__ == "Graph"]
    assert graphs
    assert [graph.config for graph in graphs] == [GRAPH_CONFIG] * len(graphs)
    assert GRAPH_CONFIG["showSendToCloud"] is False
    assert GRAPH_CONFIG["plotlyServerURL"] == ""


def ask(app: object, query: str, now: object = None, index: object = None) -> object:
    body = {
        "output": "..now.data...index.data..",
        "outputs": [{"id": "now", "property": "data"}, {"id": "index", "property": "data"}],
        "inputs": [{"id": "tick", "property": "data", "value": 1}, {"id": "url", "property": "search", "value": query}],
        "changedPropIds": ["tick.data"],
        "state": [{"id": "now", "property": "data", "value": now}, {"id": "index", "property": "data", "value": index}],
    }
    return app.server.test_client().post("/_dash-update-component", json=body)  # type: ignore[attr-defined]


def test_an_idle_poll_is_answered_in_at_most_300_bytes(assets: Path, make_run: MakeRun) -> None:
    make_run("run")
    app = create_app(assets)
    first = ask(app, "").get_json()["response"]  # type: ignore[attr-defined]
    idle = ask(app, "", first["now"]["data"], first["index"]["data"])
    headers = "".join(f"{name}: {value}\r\n" for name, value in idle.headers.items())  # type: ignore[attr-defined]
    assert idle.status_code == 204  # type: ignore[attr-defined]
    assert len(idle.data) + len(headers) <= 300  # type: ignore[attr-defined]


def test_poll_reports_an_appended_line(assets: Path, make_run: MakeRun) -> None:
    folder = make_run("run")
    app = create_app(assets)
    first = ask(app, "").get_json()["response"]  # type: ignore[attr-defined]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("{}\n")
    assert ask(app, "", first["now"]["data"], first["index"]["data"]).status_code == 200  # type: ignore[attr-defined]


def test_no_page_or_library_comes_from_another_host(assets: Path) -> None:
    page = create_app(assets).server.test_client().get("/").text
    assert "https://" not in page.replace("https://dash.plotly.com", "")
    assert 'src="//' not in page


# Exports


def test_csv_has_every_step_and_every_validation(make_run: MakeRun) -> None:
    text, note = curves_as_csv(data_of(make_run("a"), make_run("b")))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 2 * (100 + 10)
    assert rows[0] == {"run": "a", "kind": "training", "step": "1", "tokens": "512", "flops": "1000000000.0",
                       "elapsed_seconds": "0.1", "loss": "6.0"}  # fmt: skip
    assert "thinned" not in note


def test_csv_of_long_logs_is_thinned_and_says_so(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfs_dash.exports.MAX_CSV_ROWS", 50)
    losses = [2.0] * 1000
    losses[777] = 9.0
    text, note = curves_as_csv(data_of(make_run("long", losses)))
    assert "9.0" in text
    assert text.count("training") < 60
    assert "thinned" in note


def test_csv_cells_are_no_formulas(make_run: MakeRun) -> None:
    text, _ = curves_as_csv([run_data(make_run("a"), name="=cmd()")])
    assert "\n=cmd" not in text


def test_report_is_self_contained_and_holds_no_secret(make_run: MakeRun, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    config = {"data": {"dataset": {"name": "text", "path": "/home/me/secret-place/corpus.txt"}}, "hub_token": "hf_abc"}
    runs = [
        make_run("a", config=config, samples=[sample(10, hostile), sample(100, hostile)]),
        make_run("b", config={"x": 1}),
    ]
    path = export_report(runs, tmp_path / "report.html")
    page = path.read_text(encoding="utf-8")
    ours = page[: page.index("<script>")] + page[page.index("<main>") :]
    for hidden in ("my-laptop", "secret-place", "hf_abc", "<img", str(tmp_path)):
        assert hidden not in ours
    assert "default-src 'none'" in page
    assert 'src="http' not in ours
    assert ours.count("Plotly.newPlot") == 6
    assert GRAPH_CONFIG["plotlyServerURL"] == ""  # Plotly removes options from the dictionary that it is given
    assert ours.count('"showSendToCloud": false') == 6


def test_runs_are_grouped_by_each_of_their_tags_the_best_group_first(make_run: MakeRun, assets: Path) -> None:
    make_run("a", [4.0] * 20, info={"tags": ["wide", "night"]})
    make_run("b", [3.0] * 20, info={"tags": ["wide"]})
    make_run("c", [3.2] * 20)
    store = RunStore(assets)
    store.index.refresh()
    text = text_of(runs.groups([], View(group="tag"), store))
    assert text.index('"(none)"') < text.index('"wide"') < text.index('"night"')
    assert "3.5000 ± 0.7071" in text


def test_group_links_to_its_runs_side_by_side(make_run: MakeRun, assets: Path) -> None:
    for name in ("a", "b", "c"):
        make_run(name, info={"group": "one" if name != "c" else "two"})
    store = RunStore(assets)
    store.index.refresh()
    links = [part.href for part in runs.groups([], View(group="group"), store)._traverse() if hasattr(part, "href")]
    assert sorted(links) == ["/compare?runs=b,a&seeds=mean", "/compare?runs=c&seeds=mean"]
