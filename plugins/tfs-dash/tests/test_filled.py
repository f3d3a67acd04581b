"""Filling of pages: sent with charts and parts if they are ready in time, otherwise empty."""

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dash import dcc, html
from tfs_dash import app, create_app
from tfs_dash.filled import fill
from tfs_dash.once import Once
from tfs_dash.pages.compare import ComparePage

MakeRun = Callable[..., Path]


def a_page() -> html.Div:
    places = [html.Div(id={"type": "part", "name": "top"}), dcc.Store(id={"type": "figure", "name": "curve"})]
    return html.Div([html.H1("A page"), *places, dcc.Store(id={"type": "zoom", "name": "curve"})])


def test_page_comes_with_its_parts_and_charts() -> None:
    page = a_page()

    assert fill(page, lambda kind, name: f"{kind} {name}", seconds=60)
    assert (page.children[1].children, page.children[2].data) == ("part top", "figure curve")
    assert getattr(page.children[3], "data", None) is None


def test_parts_at_the_top_are_made_last() -> None:
    made = []
    fill(a_page(), lambda kind, name: made.append(name), seconds=60)

    assert made == ["curve", "top"]


def test_late_page_is_sent_empty_and_the_work_continues() -> None:
    page, go_on, ended = a_page(), threading.Event(), threading.Event()

    def make(kind: str, name: str) -> str:
        go_on.wait(60)
        if name == "top":
            ended.set()
        return kind

    assert not fill(page, make, seconds=0.05)
    assert not ended.is_set()  # the work continues in its thread
    assert getattr(page.children[1], "children", None) is None
    go_on.set()
    assert ended.wait(60)


def test_failure_leaves_the_page_empty() -> None:
    def make(kind: str, name: str) -> str:
        raise ValueError("no such run")

    assert not fill(a_page(), make, seconds=60)


def test_late_work_does_not_pile_up() -> None:
    go_on, begun = threading.Event(), []

    def make(kind: str, name: str) -> None:
        begun.append(name)
        go_on.wait(60)

    try:
        assert not any(fill(a_page(), make, seconds=0.01) for _ in range(20))
        assert len(begun) <= 4
    finally:
        go_on.set()


# The dashboard's own pages


def layout_for(assets: Path, address: str | None) -> dict[str, Any]:
    """Return the properties of the app's layout by component id, as requested by a browser at an address."""
    headers = {"Referer": address} if address else {}
    answer = create_app(assets).server.test_client().get("/_dash-layout", headers=headers)
    found: dict[str, Any] = {}

    def look(component: Any) -> None:
        if isinstance(component, list):
            for one in component:
                look(one)
        elif isinstance(component, dict):
            props = component.get("props", {})
            place = props.get("id")
            found[
                " ".join(place[key] for key in ("type", "name") if key in place) if isinstance(place, dict) else place
            ] = props
            look(props.get("children"))

    look(answer.get_json())
    return found


def test_layout_has_the_page_that_asks_for_it_and_its_chart(assets: Path, make_run: MakeRun) -> None:
    make_run("wide")
    make_run("narrow")
    found = layout_for(assets, "http://127.0.0.1:7860/compare?runs=wide&x=tokens")

    assert found["place"]["data"] == "/compare"
    assert found["now"]["data"]["query"] == "?runs=wide&x=tokens"
    assert [trace["name"] for trace in found["figure loss"]["data"]["data"]] == [
        "wide as logged", "wide", "wide validation",
    ]  # fmt: skip
    assert found["figure loss"]["data"]["layout"]["xaxis"]["title"]["text"] == "tokens trained on"
    assert "lowest validation loss" in str(found["part cards"]["children"])
    assert found["base"]["data"]["x"] == "steps"


def test_runs_are_part_of_the_place_of_a_page_that_follows_them(assets: Path, make_run: MakeRun) -> None:
    make_run("wide")
    found = layout_for(assets, "http://127.0.0.1:7860/compute?axes=xy&runs=wide,a%20b")

    assert found["place"]["data"] == "/compute?runs=wide,a b"
    assert found["follow-runs"]["data"] == ["/compute", "/samples"]


@pytest.mark.parametrize(
    "address",
    [None, "http://127.0.0.1:7860/", "http://127.0.0.1:7860/none", "http://[", "/config", "http://x/samples?step=x"],
)
def test_layout_at_an_address_without_charts_has_no_page(assets: Path, make_run: MakeRun, address: str | None) -> None:
    make_run("run")
    found = layout_for(assets, address)

    assert found["place"].get("data") is None
    assert found["page"].get("children") is None


def test_layout_with_a_late_chart_has_the_page_without_it(
    assets: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run("run")
    go_on = threading.Event()

    def slowly(*_: object) -> dict[str, Any]:
        go_on.wait(60)
        return {"data": [], "layout": {}}

    monkeypatch.setattr(app, "fill", partial(fill, seconds=0.05))
    monkeypatch.setattr(ComparePage, "charts", {"loss": slowly})
    try:
        found = layout_for(assets, "http://127.0.0.1:7860/compare")
    finally:
        go_on.set()
    assert found["place"]["data"] == "/compare"
    assert found["figure loss"].get("data") is None
    assert found["now"].get("data") is None


def test_layout_of_a_page_that_cannot_be_made_has_its_error(
    assets: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run("run")

    def fail(*_: object) -> None:
        raise ValueError("an odd run")

    monkeypatch.setattr(ComparePage, "layout", fail)
    found = layout_for(assets, "http://127.0.0.1:7860/compare")
    assert found["place"]["data"] == "/compare"
    assert "ValueError: an odd run" in str(found["page"])
    assert "theme-button" in found


# The cache of computed values


def test_concurrent_callers_share_one_computation() -> None:
    once: Once[str] = Once(4)
    made, go_on = [], threading.Event()

    def make() -> str:
        made.append(1)
        go_on.wait(60)
        return "a chart"

    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(once.get("key", make))) for _ in range(5)]
    for thread in threads:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert (results, made) == (["a chart"] * 5, [1])


def test_failure_is_not_cached_and_the_least_recently_used_is_evicted() -> None:
    once: Once[int] = Once(2)

    def fail() -> int:
        raise ValueError("not now")

    with pytest.raises(ValueError, match="not now"):
        once.get("a", fail)
    numbers = iter(range(9))
    assert [once.get(key, lambda: next(numbers)) for key in "abacb"] == [0, 1, 0, 2, 3]


def test_chart_of_a_run_that_grew_is_drawn_again(assets: Path, make_run: MakeRun) -> None:
    from tfs_dash.figures.kept import cached_figure
    from tfs_dash.figures.loss import loss_figure
    from tfs_dash.store import RunStore
    from tfs_dash.view import DEFAULT, chosen_runs

    folder = make_run("run")
    store = RunStore(assets)
    store.index.refresh()
    runs, _ = chosen_runs(DEFAULT, store)
    first = cached_figure(loss_figure, runs, DEFAULT, store)

    assert cached_figure(loss_figure, runs, DEFAULT, store) is first
    log = folder / "metrics.jsonl"
    log.write_text(log.read_text(encoding="utf-8").replace('"step":100,', '"step":100,"x":1,'), encoding="utf-8")
    assert cached_figure(loss_figure, runs, DEFAULT, store) is not first


def test_state_depends_on_the_runs_own_files_only(assets: Path, make_run: MakeRun) -> None:
    from tfs_dash.store import RunStore

    folder, other = make_run("run"), make_run("other")
    store = RunStore(assets)

    def state() -> object:
        store.index.refresh()
        run = store.find("run")
        assert run is not None
        return store.state_of([run])

    first = state()
    info = json.loads((other / "run.json").read_text(encoding="utf-8"))
    (other / "run.json").write_text(json.dumps({**info, "heartbeat_at": "later"}), encoding="utf-8")
    assert state() == first
    (folder / "config.yaml").write_text("seed: 7", encoding="utf-8")
    second = state()
    (folder / "run.json").write_text((folder / "run.json").read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert len({first, second, state()}) == 3
