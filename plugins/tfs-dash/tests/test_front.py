"""Responses before Dash is imported, and their equality with Dash's own."""

import http.client
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dash.development.base_component import Component
from tfs_dash import create_app, front
from tfs_dash.front import CONFIG, FIRST, MADE_FOR, OURS, PRELOADED, TABLE, THEN, Front, find_files, page
from tfs_dash.page import installed_pages
from tfs_dash.serve import Server, listen
from tfs_dash.store import RunStore
from tfs_dash.view import View
from werkzeug.test import Client, TestResponse

TOKEN = "the-right-token"
PAGES = installed_pages()
LIBRARY = "/_dash-component-suites/dash/html/dash_html_components.min.js"


@pytest.fixture
def early() -> Iterator[Server]:
    """Return a server whose Dash app is not imported yet."""
    with Server(listen("127.0.0.1", 0), token=TOKEN) as server:
        yield server


@pytest.fixture
def client() -> Client:
    return Client(Front())


def ask(server: Server, path: str, *, method: str = "GET", **headers: str) -> tuple[int, str]:
    port = int(server.url.split("/")[2].rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    given = {"Cookie": f"tfs-dash-{port}={TOKEN}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    try:
        connection.request(method, path, headers=given, body=b"{}" if method == "POST" else None)
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
    finally:
        connection.close()


@pytest.fixture
def blocked(early: Server, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event that is set when a request to `early` begins to wait for Dash."""
    event, settled = threading.Event(), early._front._settled
    wait = settled.wait

    def note_and_wait() -> bool:
        event.set()
        return wait()

    monkeypatch.setattr(settled, "wait", note_and_wait)
    return event


# Dash's own page


def own_page(assets: Path) -> str:
    return create_app(assets).server.test_client().get("/").text  # type: ignore[no-any-return]


def without_fingerprint(address: str) -> str:
    return re.sub(r"\.v[\w-]+m[0-9a-f]+\.", ".", address).partition("?")[0]


def test_versions_are_those_that_are_installed() -> None:
    from importlib.metadata import version

    assert {name: version(name) for name in MADE_FOR} == MADE_FOR


def test_scripts_are_dashs_own_in_its_order(assets: Path) -> None:
    own = [without_fingerprint(address) for address in re.findall(r'<script src="([^"]+)"', own_page(assets))]
    own.remove("/_dash-component-suites/dash/dash_table/bundle.js")
    own.remove("/_dash-component-suites/dash/deps/polyfill@7.12.1.min.js")

    assert own == [*FIRST, TABLE, OURS, *THEN]


def test_scripts_need_only_one_form_of_generator_from_the_polyfill() -> None:
    """The minimal `regeneratorRuntime` in assets/tfs.js supports generators of this form only."""
    known = (
        "regeneratorRuntime.mark(function A(){return regeneratorRuntime.wrap(function(A){for(;;)switch(A.prev=A.next){"
        'case 0:return A.next=2,A(!0);case 2:A.isReady=!0;case 3:case"end":return A.stop()}},A)})'
    )
    uses = 0
    for address in {*FIRST, TABLE, *THEN, *(one for ahead in PRELOADED.values() for one in ahead)}:
        code = find_files()[address].path.read_text(encoding="utf-8")
        for found in re.finditer(r"regeneratorRuntime\.mark\(", code):
            generator = code[found.start() : found.start() + 220]
            generator = re.sub(r"\b[A-Za-z]\b(?=[.(){},=])", "A", generator)
            assert generator.startswith(known), (address, generator)
            uses += 1
        assert code.count("regeneratorRuntime") == 2 * code.count("regeneratorRuntime.mark("), address
    assert uses >= 2


def test_configuration_is_dashs_own(assets: Path) -> None:
    found = re.search(r'<script id="_dash-config" type="application/json">(.*?)</script>', own_page(assets))
    assert found is not None
    own = json.loads(found[1])

    assert {name: own[name] for name in CONFIG if name != "children_props"} == {
        name: value for name, value in CONFIG.items() if name != "children_props"
    }


def test_no_property_but_children_holds_components(assets: Path, make_run: Any) -> None:
    """The page's configuration lists none (`children_props`)."""
    make_run("a", info={"group": "one"})
    store = RunStore(assets)
    store.index.refresh()
    layouts = [create_app(assets).layout(), *[one.page.layout(View(group="group"), store) for one in PAGES]]
    parts = [make(store.runs(), View(group="group"), store) for one in PAGES for make in one.parts.values()]
    found = [component for tree in [*layouts, *parts] if isinstance(tree, Component) for component in tree._traverse()]
    components = [one for one in found if isinstance(one, Component)]
    assert len(components) > 100
    for component in components:
        for name in set(component._prop_names) - {"children"}:
            assert not isinstance(getattr(component, name, None), Component), (component, name)


def test_pages_with_charts_load_plotly_ahead() -> None:
    files = find_files()

    assert {one.path for one in PAGES if one.charts} == {
        one.path for one in PAGES if "data-plotly" in page(one.path, files)
    }
    assert set(PRELOADED) <= {one.path for one in PAGES}


def test_with_other_versions_dash_generates_the_page(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MADE_FOR, "dash", "0.0.0")
    door = Front()
    door.hand_over(create_app(assets).server.wsgi_app)

    assert find_files() == {}
    assert "_dash-component-suites/dash/dash_table" in Client(door).get("/").text


# Before Dash


@pytest.mark.parametrize(
    "path", ["/", "/compare", "/any/page", OURS, "/assets/tfs.css", "/_favicon.ico", LIBRARY, *FIRST]
)
def test_page_and_its_code_do_not_wait_for_dash(early: Server, path: str) -> None:
    assert ask(early, path)[0] == 200


def test_request_that_needs_dash_waits_for_it(early: Server, blocked: threading.Event, assets: Path) -> None:
    answers: list[tuple[int, str]] = []
    thread = threading.Thread(target=lambda: answers.append(ask(early, "/_dash-layout")))
    thread.start()
    assert blocked.wait(60)
    assert answers == []
    early.show(create_app(assets))
    thread.join(timeout=60)

    assert answers[0][0] == 200
    assert "MantineProvider" in answers[0][1]


def test_server_stopped_before_dash_is_imported_releases_requests(early: Server, blocked: threading.Event) -> None:
    answers: list[tuple[int, str]] = []
    thread = threading.Thread(target=lambda: answers.append(ask(early, "/_dash-layout")))
    thread.start()
    assert blocked.wait(60)
    early.stop()
    thread.join(timeout=60)

    assert answers[0][0] == 503


@pytest.mark.parametrize("path", ["/", "/_dash-layout", OURS, LIBRARY, "/_favicon.ico", "/?token=wrong"])
def test_nothing_is_served_early_without_the_token(early: Server, path: str) -> None:
    status, text = ask(early, path, Cookie="")

    assert status == 401
    assert "react-entry-point" not in text


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {"Host": "evil.example"}, 400),
        ("GET", LIBRARY, {"Host": "evil.example"}, 400),
        ("GET", LIBRARY, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ("POST", "/_dash-update-component", {"Origin": "http://evil.example"}, 403),
        ("POST", "/_dash-update-component", {"Cookie": ""}, 401),
        ("POST", "/", {}, 405),
        ("POST", LIBRARY, {}, 405),
        ("PUT", "/", {}, 405),
    ],
)
def test_gate_applies_to_early_responses_too(
    early: Server, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    assert ask(early, path, method=method, **headers)[0] == status


@pytest.mark.parametrize(
    "path",
    [
        "/_dash-component-suites/../../etc/passwd",
        "/_dash-component-suites/dash/../../../../../../../etc/passwd",
        "/_dash-component-suites/dash/html/%2e%2e/%2e%2e/dash.py",
        "/_dash-component-suites/dash/dash.py",
        "/_dash-component-suites/%2fetc%2fpasswd",
        "/_dash-component-suites/tfs_dash/serve.py",
        "/assets/../serve.py",
        "/assets/%2e%2e/serve.py",
        "/assets/tfs.js/../../serve.py",
        "//assets/../serve.py",
    ],
)
def test_path_to_another_file_is_not_answered_early(early: Server, path: str) -> None:
    early._front.give_up()  # a request that needs Dash is answered with 503 instead of waiting
    status, text = ask(early, path)

    assert status == 503 or (status == 200 and "react-entry-point" in text)  # the HTML page, as at any path
    assert "root:" not in text
    assert "import" not in text


def test_link_among_the_assets_is_not_followed(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.js").write_text("the secret", encoding="utf-8")
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "link.js").symlink_to(tmp_path / "secret.js")
    for name in ("tfs.js", "tfs.css"):
        (tmp_path / "assets" / name).write_text("", encoding="utf-8")
    monkeypatch.setattr(front, "__file__", str(tmp_path / "front.py"))
    door = Front()
    door.give_up()

    assert Client(door).get("/assets/tfs.js").status_code == 200
    assert Client(door).get("/assets/link.js").status_code == 503


def test_page_does_not_contain_its_address(client: Client) -> None:
    assert "onerror" not in client.get("/<img src=x onerror=alert(1)>?x=<script>alert(1)</script>").text


# Caching by the browser


def first_script(client: Client) -> str:
    found = re.search(r'src="(/_dash-component-suites/[^"]+)"', client.get("/").text)
    assert found is not None
    return found[1]


def cache_of(answer: TestResponse) -> str:
    return answer.headers.get("Cache-Control", "")


def test_file_is_cached_for_a_year_only_under_its_mark(client: Client) -> None:
    marked = first_script(client)

    assert "max-age=31536000" in cache_of(client.get(marked))
    assert "max-age" not in cache_of(client.get(marked + "0"))
    assert "max-age" not in cache_of(client.get(marked.partition("?")[0]))


def test_file_without_its_mark_is_revalidated_by_etag(client: Client) -> None:
    address = first_script(client).partition("?")[0]
    known = client.get(address).headers["ETag"]

    assert client.get(address, headers={"If-None-Match": known}).status_code == 304
    assert client.get(address, headers={"If-None-Match": '"older"'}).status_code == 200


def test_head_of_a_file_has_no_body(client: Client) -> None:
    assert client.head(LIBRARY).data == b""
