"""Pages of other distributions: shown after our own, and isolated when they fail."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tfs_dash import create_app, export_report
from tfs_dash.front import Front
from tfs_dash.page import installed_pages
from werkzeug.test import Client

MakeRun = Callable[..., Path]
Install = Callable[..., None]

OWN = ["/", "/compare", "/compute", "/health", "/config", "/samples"]

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
STEPS = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Steps(Page)" in block)
"""The example page in the README."""

CLOCK = """
import time
from dash import Input, Output, callback, html
from tfs_dash.page import Page

class Clock(Page):
    def layout(self, view, store):
        return html.Div([html.H1("Clock"), html.Button("now", id="clock-button"), html.P(id="clock-time")])

@callback(Output("clock-time", "children"), Input("clock-button", "n_clicks"), prevent_initial_call=True)
def show_time(clicks):
    return f"after {clicks}"
"""

LOSS = """
from dash import html
from tfs_dash.page import Page
from tfs_dash.parts import chart, part

def loss(runs, view, window):
    return {"data": [{"name": "theirs"}], "layout": {}}

class Loss(Page):
    charts = {"loss": loss}

    def layout(self, view, store):
        return html.Div([html.H1("Loss"), chart("loss", "Loss")])
"""

BROKEN = {
    "at import": "raise RuntimeError('<b>it</b> is broken')",
    "that ends the process": "import sys\nsys.exit('<b>it</b> is broken')",
    "when built": "class Steps:\n    def __init__(self, options):\n        raise RuntimeError('<b>it</b> is broken')",
    "without charts": "class Steps:\n    def __init__(self, options):\n        self.broken = '<b>it</b> is broken'",
    "when laid out": "from tfs_dash.page import Page\nclass Steps(Page):\n    def layout(self, view, store):\n"
    "        raise RuntimeError('<b>it</b> is broken')",
    "in a part": STEPS.replace("    return table", "    raise RuntimeError('<b>it</b> is broken')\n    return table"),
}


def show(app: Any, path: str) -> str:
    """Return the page at a path as JSON, as sent to the browser."""
    body = {
        "output": "..page.children...base.data...shown.data..",
        "outputs": [{"id": name, "property": what} for name, what in
                    (("page", "children"), ("base", "data"), ("shown", "data"))],
        "inputs": [{"id": "place", "property": "data", "value": path}],
        "changedPropIds": ["place.data"],
        "state": [{"id": "url", "property": "search", "value": ""}],
    }  # fmt: skip
    answer = app.server.test_client().post("/_dash-update-component", json=body)
    assert answer.status_code == 200
    return json.dumps(answer.get_json(), ensure_ascii=False)


def test_own_pages_are_components_of_the_kind_page() -> None:
    assert [page.path for page in installed_pages()] == OWN
    assert {page.title for page in installed_pages()} == {"Runs", "Compare", "Compute", "Health", "Config", "Samples"}


def test_pages_whose_layout_differs_with_the_runs_say_so() -> None:
    assert {page.path for page in installed_pages() if page.follows_runs} == {"/compute", "/samples"}


def test_page_of_another_distribution_is_shown_after_our_own(assets: Path, make_run: MakeRun, install: Install) -> None:
    make_run("wide", [3.0] * 17)
    install("a-steps", STEPS)
    app = create_app(assets)
    layout = json.dumps(app.server.test_client().get("/_dash-layout").get_json())
    assert [page.path for page in installed_pages()] == [*OWN, "/steps"]
    assert layout.index('"/samples"') < layout.index('"/steps"')
    page = show(app, "/steps")
    assert '"wide"' in page
    assert '"17"' in page


def test_callbacks_of_a_page_are_dash_s_own(assets: Path, install: Install) -> None:
    install("a-clock", CLOCK, "clock", "Clock")
    app = create_app(assets)
    assert "clock-button" in show(app, "/clock")
    body = {
        "output": "clock-time.children",
        "outputs": {"id": "clock-time", "property": "children"},
        "inputs": [{"id": "clock-button", "property": "n_clicks", "value": 3}],
        "changedPropIds": ["clock-button.n_clicks"],
        "state": [],
    }
    assert "after 3" in app.server.test_client().post("/_dash-update-component", json=body).text


def test_page_may_use_names_that_another_page_uses(assets: Path, make_run: MakeRun, install: Install) -> None:
    make_run("wide")
    install("a-loss", LOSS, "compare", "Loss")
    app = create_app(assets)
    assert [page.path for page in installed_pages()] == [*OWN, "/a-loss/compare"]
    assert "theirs" in show(app, "/a-loss/compare")
    assert "theirs" not in show(app, "/compare")


@pytest.mark.parametrize("source", BROKEN.values(), ids=BROKEN)
def test_page_that_fails_shows_its_error_and_the_others_still_work(
    assets: Path, make_run: MakeRun, install: Install, source: str
) -> None:
    make_run("wide")
    install("a-broken", source)
    install("b-loss", LOSS, "theirs", "Loss")
    app = create_app(assets)
    page = show(app, "/steps")
    assert "cannot be shown" in page
    assert "<b>it</b> is broken" in page or "'charts'" in page, "escaped by the browser"
    assert str(assets) not in page
    assert "lowest validation loss" in show(app, "/compare")
    assert "theirs" in show(app, "/theirs")


def test_chart_that_fails_says_why_in_its_place(assets: Path, make_run: MakeRun, install: Install) -> None:
    make_run("wide")
    install("a-loss", LOSS.replace("    return {", "    raise ValueError('<b>no</b>')\n    return {"), "broken", "Loss")
    page = show(create_app(assets), "/broken")
    assert "ValueError: &lt;b&gt;no&lt;/b&gt;" in page, "Plotly interprets some HTML"


def test_with_pages_of_others_dash_generates_the_page(assets: Path, install: Install) -> None:
    install("a-steps", STEPS)
    door = Front()
    door.hand_over(create_app(assets).server.wsgi_app)
    assert "_dash-component-suites/dash/dash_table" in Client(door).get("/").text


def test_report_leaves_pages_of_others_out(assets: Path, make_run: MakeRun, install: Install, tmp_path: Path) -> None:
    install("a-broken", BROKEN["at import"])
    path = export_report([make_run("wide")], tmp_path / "report.html")
    assert "is broken" not in path.read_text(encoding="utf-8")


def test_browser_shows_pages_of_others_and_their_errors_as_text(
    make_run: MakeRun, install: Install, watch: Callable[..., Any]
) -> None:
    make_run("wide", [3.0] * 17)
    install("a-steps", STEPS)
    install("b-clock", CLOCK, "clock", "Clock")
    install("c-loss", LOSS, "their-loss", "Loss")
    install("d-broken", BROKEN["at import"], "broken")
    watched = watch()
    page = watched.open("/compare")
    page.click("nav >> text=Their loss")
    page.wait_for_selector(".js-plotly-plot .plot-container")
    page.click("nav >> text=Steps")
    page.wait_for_selector("td >> text=17")
    page.click("nav >> text=Clock")
    page.click("#clock-button")
    page.wait_for_selector("text=after 1")
    page.click("nav >> text=Broken")
    page.wait_for_selector("text=RuntimeError: <b>it</b> is broken")
    page.click("nav >> text=Compare")
    page.wait_for_selector("text=lowest validation loss")
    assert watched.errors == []
    assert watched.elsewhere == []
