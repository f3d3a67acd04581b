"""End-to-end tests of the dashboard in Chromium; skipped without it."""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MakeRun = Callable[..., Path]
Watch = Callable[..., Any]

PATHS = {
    "/": "Runs",
    "/compare": "Compare",
    "/compute": "Compute",
    "/health": "Health",
    "/config": "Config",
    "/samples": "Samples",
}
DRAWN = """() => document.querySelector('h1') && [...document.querySelectorAll('.dash-graph, .plotly-graph-div')]
    .map(place => place.closest('.js-plotly-plot') || place.querySelector('.js-plotly-plot'))
    .every(chart => chart && chart.data && chart.data.length > 0)"""
RANGE = "() => document.querySelector('.js-plotly-plot').layout.xaxis.range"


@pytest.fixture
def three_runs(make_run: MakeRun) -> None:
    samples = [{"step": step, "prompt": "def ", "text": f"<b>{step}</b>", "settings": {}} for step in (10, 50, 100)]
    for name, floor in (("narrow", 2.0), ("wide", 1.5), ("wider", 1.4)):
        make_run(name, [floor + 5 / step for step in range(1, 101)], samples=samples, config={"floor": floor})


@pytest.fixture
def long_run(make_run: MakeRun) -> None:
    rng = np.random.default_rng(0)
    make_run("long", (2 + 0.1 * rng.standard_normal(60_000)).tolist(), validate_every=1000)


def points_inside(page: Any, low: float, high: float) -> int:
    all_x = page.evaluate("() => [...document.querySelector('.js-plotly-plot')._fullData[0].x]")
    return sum(low <= x <= high for x in all_x)


def drag_zoom(page: Any, start: float = 0.4, end: float = 0.42) -> list[float]:
    """Zoom by dragging the mouse between two fractions of the plot's width; return the resulting range."""
    box = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * start, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * (start + end) / 2, y, steps=4)
    page.mouse.move(box["x"] + box["width"] * end, y, steps=4)
    page.mouse.up()
    page.wait_for_function("() => !document.querySelector('.js-plotly-plot').layout.xaxis.autorange")
    low, high = page.evaluate(RANGE)
    return [low, high]


def wait_for_refinement(page: Any, low: float, high: float) -> None:
    page.wait_for_function(
        """([low, high]) => document.querySelector('.js-plotly-plot')._fullData[1].x
           .filter(x => x >= low && x <= high).length > 0.9 * Math.min(high - low, 950)""",
        arg=[low, high],
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_renders_without_an_error_or_a_request_elsewhere(
    three_runs: None, watch: Watch, path: str, theme: str
) -> None:
    watched = watch(color_scheme=theme)
    page = watched.open(path)
    page.wait_for_function(DRAWN)
    assert page.locator("h1").text_content() == PATHS[path]
    page.wait_for_timeout(300)
    assert watched.errors == []
    assert watched.elsewhere == []
    assert page.locator(".modebar-btn[data-title*='Share'], .modebar-btn[data-title*='cloud']").count() == 0


@pytest.mark.parametrize("path", PATHS)
def test_page_without_a_run_says_what_to_do(watch: Watch, path: str) -> None:
    watched = watch()
    page = watched.open(path)
    page.get_by_text("make demo").first.wait_for()
    assert watched.errors == []


def test_zoom_by_mouse_refines_to_every_step(long_run: None, watch: Watch) -> None:
    page = watch().open("/compare?smooth=0")
    page.wait_for_function(DRAWN)
    page.wait_for_timeout(500)
    before = points_inside(page, 24_000, 25_000)
    low, high = drag_zoom(page)
    assert high - low < 2000
    page.wait_for_function(
        """([low, high]) => document.querySelector('.js-plotly-plot')._fullData[0].x
           .filter(x => x >= low && x <= high).length >= Math.floor(high - low)""",
        arg=[low, high],
    )
    assert before < 200


def test_zoom_right_after_loading_and_after_a_resize_refines_too(long_run: None, watch: Watch) -> None:
    """Regression test: Plotly reports a resize like a zoom, which once discarded the refinement of a real zoom."""
    page = watch().open("/compare")
    page.wait_for_function(DRAWN)
    low, high = drag_zoom(page)
    wait_for_refinement(page, low, high)
    page.set_viewport_size({"width": 1000, "height": 800})
    page.wait_for_timeout(400)
    assert page.evaluate(RANGE) == pytest.approx([low, high])
    wait_for_refinement(page, low, high)
    page.set_viewport_size({"width": 1200, "height": 800})
    low, high = drag_zoom(page, 0.2, 0.8)
    wait_for_refinement(page, low, high)


def test_double_click_shows_the_whole_again(long_run: None, watch: Watch) -> None:
    page = watch().open("/compare")
    page.wait_for_function(DRAWN)
    page.wait_for_timeout(300)
    whole = page.evaluate(RANGE)
    drag_zoom(page)
    page.wait_for_timeout(500)
    page.locator(".js-plotly-plot .nsewdrag").first.dblclick()
    page.wait_for_function("() => document.querySelector('.js-plotly-plot').layout.xaxis.autorange")
    page.wait_for_timeout(500)
    assert page.evaluate(RANGE) == pytest.approx(whole, rel=0.02)


def test_run_that_trains_appears_and_grows_and_the_zoom_stays(make_run: MakeRun, assets: Path, watch: Watch) -> None:
    folder = make_run("live", [3.0] * 100, info={"status": "running"})
    page = watch().open("/compare?smooth=0")
    page.wait_for_function(DRAWN)
    page.wait_for_timeout(500)
    low, high = drag_zoom(page, 0.3, 0.6)
    with (folder / "metrics.jsonl").open("a") as file:
        for step in range(101, 151):
            row = {"step": step, "tokens": step, "flops": step, "elapsed_seconds": step, "loss": 2.0}
            file.write(json.dumps(row) + "\n")
    page.wait_for_function("() => Math.max(...document.querySelector('.js-plotly-plot')._fullData[0].x) === 150")
    assert page.evaluate(RANGE) == pytest.approx([low, high])
    make_run("another", [4.0] * 50)
    page.wait_for_function("() => document.querySelector('.js-plotly-plot').textContent.includes('another')")
    assert page.evaluate(RANGE) == pytest.approx([low, high])


class HeldPages:
    """Hold every page back on the server after it was filled, until `go_on` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from tfs_dash import app

        self.filled, self.go_on = threading.Event(), threading.Event()
        self._fill = app.fill
        monkeypatch.setattr(app, "fill", self._hold)

    def _hold(self, *arguments: Any, **options: Any) -> bool:
        is_filled = self._fill(*arguments, **options)
        self.filled.set()
        self.go_on.wait(60)
        return is_filled


def test_runs_chosen_while_a_page_is_made_are_on_it(
    three_runs: None, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = watch().open("/config")
    page.get_by_text("settings differ").wait_for()
    held = HeldPages(monkeypatch)
    page.get_by_role("link", name="Compare").click()
    assert held.filled.wait(60)
    page.evaluate("dash_clientside.set_props({type: 'control', name: 'runs'}, {value: ['wider']})")
    page.wait_for_function("() => location.search === '?runs=wider'")
    held.go_on.set()
    page.get_by_role("heading", name="Compare").wait_for()
    page.wait_for_function(DRAWN)
    page.wait_for_function(
        "() => [...document.querySelector('.js-plotly-plot').data].every(t => t.name.startsWith('wider'))"
    )
    assert page.locator(".part", has_text="narrow").count() == 0


def test_lines_that_come_while_a_page_is_made_are_on_it(
    make_run: MakeRun, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run("live", [3.0] * 100, info={"status": "running"})
    page = watch().open("/config")
    page.get_by_role("heading", name="Config").wait_for()
    held = HeldPages(monkeypatch)
    page.get_by_role("link", name="Compare").click()
    assert held.filled.wait(60)
    with (folder / "metrics.jsonl").open("a") as file:
        for step in range(101, 151):
            file.write(json.dumps({"step": step, "tokens": step, "flops": step, "loss": 2.0}) + "\n")
    held.go_on.set()
    page.get_by_role("heading", name="Compare").wait_for()
    page.wait_for_function(DRAWN)
    page.wait_for_function("() => Math.max(...document.querySelector('.js-plotly-plot')._fullData[0].x) === 150")


def test_damage_in_a_log_is_reported(make_run: MakeRun, watch: Watch) -> None:
    folder = make_run("torn")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("no json\n")
    page = watch().open("/compare")
    page.get_by_text("Left out of the logs of torn: 1 damaged line.").wait_for()


def test_first_run_appears_on_an_empty_page(make_run: MakeRun, watch: Watch) -> None:
    page = watch().open("/compare")
    page.get_by_text("make demo").wait_for()
    make_run("first")
    page.get_by_text("lowest validation loss").wait_for()
    page.wait_for_function(DRAWN)
    page.wait_for_function(
        "() => document.querySelector('.js-plotly-plot .main-svg').getBoundingClientRect().width > 900"
    )


def test_first_run_appears_in_the_table_of_runs(make_run: MakeRun, watch: Watch) -> None:
    page = watch().open("/")
    page.get_by_text("make demo").wait_for()
    make_run("first")
    page.get_by_role("gridcell", name="first").wait_for()


def test_page_of_finished_runs_gets_empty_responses(three_runs: None, watch: Watch) -> None:
    watched = watch()
    page = watched.open("/compare")
    page.wait_for_function(DRAWN)
    page.wait_for_event("response", lambda answer: answer.status == 204)
    answers: list[Any] = []
    page.on("response", lambda answer: answers.append(answer))
    while len(answers) < 3:
        page.wait_for_event("response")
    assert [answer.status for answer in answers] == [204] * len(answers)
    ticks = [asked["value"] for answer in answers for asked in answer.request.post_data_json["inputs"][:1]]
    assert ticks == list(range(ticks[0], ticks[0] + len(answers))), "one request at each tick of the clock"
    names_and_values = [[*answer.all_headers().items()] for answer in answers]
    assert all(sum(len(f"{name}: {value}\r\n") for name, value in headers) < 270 for headers in names_and_values)


def test_page_opened_before_dash_is_imported_waits_for_it(three_runs: None, assets: Path, browser: Any) -> None:
    from tfs_dash import create_app
    from tfs_dash.serve import Server, listen

    with Server(listen("127.0.0.1", 0), token=None) as server:
        page = browser.new_page()
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(server.url + "compare")
        page.wait_for_function("() => window.Plotly && window.Plotly.newPlot")  # plotly.js has run already
        assert page.locator("h1").count() == 0
        server.show(create_app(assets))
        page.wait_for_function(DRAWN)
        page.close()
    assert errors == []


def test_table_is_loaded_on_the_way_to_its_page_and_plotly_once(three_runs: None, watch: Watch) -> None:
    watched = watch()
    asked: list[str] = []
    watched.page.on("request", lambda request: asked.append(request.url))
    page = watched.open("/compare")
    page.wait_for_function(DRAWN)
    assert page.evaluate("() => window.dash_ag_grid") is None
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("gridcell", name="wider").wait_for()
    page.get_by_role("link", name="Compute").click()
    page.wait_for_function(DRAWN)
    assert sum("plotly.min.js" in url for url in asked) == 1
    assert watched.errors == []


def test_theme_button_makes_charts_dark_and_is_remembered(three_runs: None, watch: Watch) -> None:
    page = watch(color_scheme="light").open("/compare")
    page.wait_for_function(DRAWN)
    paper = "() => getComputedStyle(document.querySelector('.js-plotly-plot .main-svg')).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="light or dark").click()
    page.wait_for_function(f"() => ({paper})() !== '{light}'")
    dark = page.evaluate(paper)
    page.reload()
    page.wait_for_function(DRAWN)
    page.wait_for_function(f"() => ({paper})() === '{dark}'")
    assert page.evaluate("document.documentElement.dataset.mantineColorScheme") == "dark"


def test_controls_and_address_follow_each_other(three_runs: None, watch: Watch) -> None:
    watched = watch()
    page = watched.open("/compare?runs=wide,wider")
    page.wait_for_function(DRAWN)
    page.get_by_text("tokens", exact=True).first.click()
    page.get_by_text("log both").click()
    page.wait_for_url(re.compile(r"/compare\?runs=wide,wider&x=tokens&log=xy$"))
    page.reload()
    page.wait_for_function(DRAWN)
    page.wait_for_function("() => document.querySelector('.js-plotly-plot').layout.xaxis.type === 'log'")
    legend = page.locator(".js-plotly-plot .legendtext").all_text_contents()
    assert legend == ["wide", "wider"]
    page.get_by_role("link", name="Config").click()
    page.wait_for_url(re.compile(r"/config\?runs=wide,wider&x=tokens&log=xy$"))
    page.get_by_text("floor").wait_for()
    page.go_back()
    page.wait_for_function(DRAWN)
    assert watched.errors == []


def test_back_button_brings_the_controls_back(three_runs: None, watch: Watch) -> None:
    page = watch().open("/compare")
    page.wait_for_function(DRAWN)
    page.get_by_text("log x").click()
    page.wait_for_url(re.compile("log=x"))
    page.go_back()
    page.wait_for_function("() => document.querySelector('.js-plotly-plot').layout.xaxis.type === 'linear'")
    assert page.locator("input[type=radio][value=linear]").is_checked()


def test_back_pressed_quickly_ends_at_the_right_view(three_runs: None, watch: Watch) -> None:
    page = watch().open("/compare")
    page.wait_for_function(DRAWN)
    page.get_by_text("FLOPs", exact=True).click()
    page.wait_for_url(re.compile("x=flops"))
    page.get_by_role("link", name="Health").click()
    page.get_by_role("heading", name="Health").wait_for()
    page.get_by_text("time", exact=True).click()
    page.wait_for_url(re.compile("x=seconds"))
    page.wait_for_timeout(1500)
    for _ in range(3):
        page.go_back(wait_until="commit")
        page.wait_for_timeout(80)
    page.wait_for_timeout(1000)  # what a late response would undo
    page.wait_for_url(re.compile("/compare$"))
    page.wait_for_function("() => document.querySelector('input[value=steps]').checked")
    page.get_by_role("radiogroup", name="x axis").get_by_text("tokens").click()
    page.wait_for_url(re.compile("x=tokens"))


def test_controls_have_the_range_of_the_runs_that_are_chosen(make_run: MakeRun, watch: Watch) -> None:
    for name, steps in (("short", 100), ("long", 1000)):
        samples = [
            {"step": step, "prompt": "def ", "text": f"{step}", "settings": {}} for step in (10, steps // 2, steps)
        ]
        make_run(name, [2.0 + 5 / step for step in range(1, steps + 1)], samples=samples)
    page = watch().open("/samples?runs=short")
    page.get_by_text("up to step, 10 to 100").wait_for()
    page.evaluate("dash_clientside.set_props({type: 'control', name: 'runs'}, {value: ['short', 'long']})")
    page.get_by_text("up to step, 10 to 1,000").wait_for()
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(re.compile("step=500"))
    page.get_by_role("link", name="Compute").click()
    page.get_by_text("budget, 10.0 GFLOPs to 1.00 TFLOPs").wait_for()
    page.get_by_role("slider").focus()
    page.keyboard.press("End")
    page.wait_for_url(re.compile("budget=12"))
    page.get_by_text("At 1.00 TFLOPs there are fewer than two runs").wait_for()


def test_ticking_all_chooses_what_the_search_found(three_runs: None, watch: Watch) -> None:
    page = watch().open("/?search=wide")
    page.get_by_role("gridcell", name="wider").wait_for()
    page.wait_for_function("() => document.querySelectorAll('.ag-center-cols-container .ag-row').length === 2")
    page.locator(".ag-header-select-all input").first.check()
    page.wait_for_url(re.compile("runs=(wide,wider|wider,wide)"))


def test_ticking_a_row_chooses_the_run(three_runs: None, watch: Watch) -> None:
    page = watch().open("/")
    page.get_by_role("gridcell", name="wider").wait_for()
    page.locator(".ag-row").filter(has_text="narrow").locator("input[type=checkbox]").first.wait_for()
    checkboxes = page.locator(".ag-row[row-id=narrow] input[type=checkbox]")
    checkboxes.first.check()
    page.wait_for_url(re.compile(r"runs=narrow$"))
    page.get_by_role("link", name="Compare").click()
    page.wait_for_function(DRAWN)
    page.wait_for_function("() => document.querySelectorAll('.summary, table tbody tr').length === 1")


def test_comma_in_a_name_stays_in_the_address(make_run: MakeRun, watch: Watch) -> None:
    for name in ("lr 0,3 of 100%", "other", "third"):
        make_run(name)
    page = watch().open("/")
    page.get_by_role("gridcell", name="third").wait_for()
    page.locator(".ag-row[row-id='lr 0,3 of 100%'] input[type=checkbox]").first.check()
    page.wait_for_url(re.compile(r"runs=lr"))
    page.locator(".ag-row[row-id=other] input[type=checkbox]").first.check()
    page.wait_for_url(re.compile(r"runs=lr.*,other$"))
    page.get_by_role("link", name="Compare").click()
    page.wait_for_function(DRAWN)
    page.reload()
    page.wait_for_function(DRAWN)
    assert page.locator(".js-plotly-plot .legendtext").all_text_contents() == ["lr 0,3 of 100%", "other"]
    assert page.locator(".notice").count() == 0


def test_search_and_numeric_sort_in_the_table(make_run: MakeRun, watch: Watch) -> None:
    for name, steps in (("two", 200), ("thousand", 1000), ("thirty", 30)):
        make_run(name, [3.0] * steps)
    page = watch().open("/")
    page.get_by_role("gridcell", name="thirty").wait_for()
    page.locator(".ag-header-cell[col-id=flops]").click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.ag-pinned-left-cols-container .ag-row')]"
        ".sort((a, b) => a.getAttribute('row-index') - b.getAttribute('row-index'))"
        ".map(row => row.getAttribute('row-id')).join() === 'thirty,two,thousand'"
    )
    page.get_by_label("search runs").fill("thou")
    page.wait_for_function("() => document.querySelectorAll('.ag-pinned-left-cols-container .ag-row').length === 1")


def test_everything_is_reached_by_the_keyboard(three_runs: None, watch: Watch) -> None:
    watched = watch()
    page = watched.open("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the page"
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Compare"
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/compare"))
    page.get_by_role("heading", name="Compare").wait_for()
    page.wait_for_function(DRAWN)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "radio":
            break
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("x=tokens"))
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "slider":
            break
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(re.compile(r"smooth=0\.89"))


def test_names_from_logs_run_nothing(make_run: MakeRun, watch: Watch) -> None:
    hostile = "<img src=x onerror=window.broken=1>"
    sample = [{"step": step, "prompt": hostile, "text": hostile, "settings": {}} for step in (10, 100)]
    event = [{"at": "2026-01-01", "step": 1, "kind": hostile, "details": {hostile: hostile}}]
    info = {"group": hostile, "tags": [hostile], "model": hostile, "experiment_name": hostile}
    make_run("a", info={**info, "seed": 1}, samples=sample, events=event, config={hostile: hostile})
    make_run("b", info={**info, "seed": 2}, samples=sample, events=event, config={hostile: 2})
    watched = watch()
    for path in PATHS:
        page = watched.open(f"{path}?seeds=mean&group=group&rows=all")
        page.wait_for_function(DRAWN)
        page.wait_for_timeout(300)
        assert page.evaluate("window.broken") is None
    assert watched.errors == []


def test_curves_report_and_pictures_are_downloaded(three_runs: None, watch: Watch) -> None:
    page = watch().open("/compare")
    page.wait_for_function(DRAWN)
    for item, name in (
        ("Curves as CSV", "tfs-curves.csv"),
        ("Report as one HTML file", "tfs-report.html"),
        ("Charts as PNG", "tfs-loss.png"),
    ):
        page.get_by_role("button", name="Share").click()
        with page.expect_download() as download:
            page.get_by_role("menuitem", name=item).click()
        assert download.value.suggested_filename == name


def test_report_opens_without_a_network(three_runs: None, assets: Path, browser: Any) -> None:
    from tfs_dash import export_report

    path = export_report(sorted((assets / "runs").iterdir()), assets / "report.html")
    context = browser.new_context(offline=True)
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(path.as_uri())
    page.wait_for_function(DRAWN)
    assert page.locator(".js-plotly-plot").count() == 6
    context.close()
    assert errors == []
