"""Forged callback requests of a client that has the token: answered or rejected, never a server error."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfs_dash import create_app
from tfs_dash.questions import find_flaw

UPDATE = "/_dash-update-component"
NOW = {"query": "?runs=run", "stamp": []}
ZOOM = {"revision": None, "range": [2, 9]}


def place(name: Any, of: str, value: Any = None) -> dict[str, Any]:
    return {"id": name, "property": of} if value is None else {"id": name, "property": of, "value": value}


def question(output: str, outputs: Any, inputs: list[Any], state: list[Any]) -> dict[str, Any]:
    changed = inputs[0] if not isinstance(inputs[0]["id"], dict) else inputs[1]
    return {
        "output": output, "outputs": outputs, "inputs": inputs, "state": state,
        "changedPropIds": [f"{changed['id']}.{changed['property']}"],
    }  # fmt: skip


FIGURE, PART, GRID = (
    {"type": kind, "name": name} for kind, name in (("figure", "loss"), ("part", "groups"), ("grid", "runs"))
)
QUESTIONS = [
    question(
        "..now.data...index.data..",
        [place("now", "data"), place("index", "data")],
        [place("tick", "data", 1), place("url", "search", "?x=tokens")],
        [place("now", "data", NOW), place("index", "data", 1)],
    ),
    question(
        "..page.children...base.data...shown.data..",
        [place("page", "children"), place("base", "data"), place("shown", "data")],
        [place("place", "data", "/")],
        [place("url", "search", "?group=tag")],
    ),
    question(
        '{"name":["MATCH"],"type":"figure"}.data',
        place(FIGURE, "data"),
        [place("now", "data", NOW), place("behind", "data"), place({"type": "zoom", "name": "loss"}, "data", ZOOM)],
        [place(FIGURE, "id", FIGURE)],
    ),
    question(
        '{"name":["MATCH"],"type":"part"}.children',
        place(PART, "children"),
        [place("now", "data", NOW), place("behind", "data", NOW)],
        [place(PART, "id", PART)],
    ),
    question(
        '{"name":["ALL"],"type":"grid"}.rowData',
        [place(GRID, "rowData")],
        [place("index", "data", 1)],
        [[place(GRID, "id", GRID)]],
    ),
    question(
        "..download.data...said.children..",
        [place("download", "data"), place("said", "children")],
        [place("export-csv", "n_clicks", 1), place("export-html", "n_clicks")],
        [place("url", "search", "?runs=run")],
    ),
]
"""A valid request for each server callback, as sent by the pages."""

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, 1e308, "loss", "\ud800", "MATCH", "now.data", "..", "{", NOW, FIGURE, ["ALL"]])
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path (keys and indices) of every value inside a JSON value."""
    yield so_far
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from paths(item, (*so_far, key))


@st.composite
def forged(draw: st.DrawFn) -> Any:
    """Return a request with one to three values replaced or removed."""
    body: Any = {"all": copy.deepcopy(draw(st.sampled_from(QUESTIONS)))}
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([path for path in paths(body) if path]))
        holder = body
        for key in way:
            holder = holder[key]
        if len(way) > 0 and draw(st.booleans()):
            del holder[last]
        else:
            holder[last] = copy.deepcopy(draw(ANYTHING))  # a copy: the next iteration may modify it
        if len(body) == 0:
            break
    return body["all"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    runs = tmp_path_factory.mktemp("assets") / "runs"
    for name in ("run", "other"):
        (runs / name).mkdir(parents=True)
        lines = [
            {"step": step, "tokens": step, "flops": step, "elapsed_seconds": step, "loss": 2.0} for step in range(1, 20)
        ]
        (runs / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        (runs / name / "run.json").write_text(json.dumps({"name": name, "status": "finished"}), encoding="utf-8")
    return create_app(runs.parent).server.test_client()


def post(client: FlaskClient, body: Any, **options: Any) -> Any:
    return client.post(UPDATE, data=json.dumps(body), content_type="application/json", **options)


@pytest.mark.parametrize("body", QUESTIONS, ids=[body["output"] for body in QUESTIONS])
def test_question_of_a_page_is_answered(client: FlaskClient, body: dict[str, Any]) -> None:
    assert post(client, body).status_code == 200


def test_every_callback_of_the_server_has_a_question_here(tmp_path: Path) -> None:
    callbacks = create_app(tmp_path).callback_map
    asked = {body["output"] for body in QUESTIONS} | {'{"name":"runs","type":"control"}.data'}

    assert {output for output, callback in callbacks.items() if "callback" in callback} == asked


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=forged(),
    query=st.dictionaries(st.sampled_from(["job", "cacheKey", "cancelJob", "oldJob", "endId"]), st.text(max_size=8)),
)
def test_forged_question_is_answered_or_refused_in_a_sentence(
    client: FlaskClient, body: Any, query: dict[str, str]
) -> None:
    answer = post(client, body, query_string=query)

    assert answer.status_code in (200, 204, 400)
    if answer.status_code == 400:
        assert answer.mimetype == "text/plain"
        assert answer.text.endswith(".\n")
        assert answer.text.count("\n") == 1


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=ANYTHING)
def test_anything_else_is_refused(client: FlaskClient, body: Any) -> None:
    assert post(client, body).status_code == 400


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"output": ' * 50_000])
def test_invalid_json_is_refused(client: FlaskClient, body: bytes) -> None:
    answer = client.post(UPDATE, data=body, content_type="application/json")

    assert answer.status_code == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_question_of_another_kind_is_refused(client: FlaskClient, kind: str) -> None:
    assert client.post(UPDATE, data=json.dumps(QUESTIONS[0]), content_type=kind).status_code == 400


def test_output_of_a_client_side_callback_is_refused(tmp_path: Path) -> None:
    app = create_app(tmp_path)

    assert "no" in str(find_flaw({**QUESTIONS[0], "output": "tick.data"}, app.callback_map)).lower()
