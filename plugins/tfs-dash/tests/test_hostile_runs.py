"""Untrusted run folders: malformed data is skipped or counted, and the pages still show the other runs."""

import json
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tfs_dash import export_report, log_columns
from tfs_dash import store as store_module
from tfs_dash.exports import curves_as_csv
from tfs_dash.figures.style import encoded
from tfs_dash.log_columns import LogColumns
from tfs_dash.page import installed_pages
from tfs_dash.store import RunStore
from tfs_dash.view import chosen_runs, parse_view

MakeRun = Callable[..., Path]

VALUES = [
    *["1e400", "-1e400", "1e308", "123456789012345678901234567890", "-1", "0", "1.5", "null", "true"],
    *['"x"', '""', "[]", "{}", "[1,[2]]", '{"a":{"b":1}}', r'"\u0000\u001b]0;x\u0007"', r'"\ud800"', '"<b>"'],
]
LOGS = ("metrics", "validation", "samples", "events")
QUERIES = ("?seeds=mean&group=tag&rows=all&x=seconds&log=xy&second=perplexity", "?y=perplexity&x=flops&axes=xy")
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def victim(make_run: MakeRun) -> Path:
    """Return a run next to an intact one."""
    make_run("well", info={"tags": ["a"]})
    samples = [{"step": step, "prompt": "def ", "text": "x", "settings": {}} for step in (10, 50)]
    events = [{"at": "2026-01-01", "step": step, "kind": "spike", "details": {"loss": 9.1}} for step in (1, 2)]
    return make_run("victim", samples=samples, events=events)


def write_object(values: dict[str, Any], replaced: str, value: str) -> str:
    """Return the values as a JSON object, with one of them replaced by a literal, valid or not."""
    literals = {name: json.dumps(given) for name, given in values.items()} | {replaced: value}
    return "{" + ",".join(f"{json.dumps(name)}:{literal}" for name, literal in literals.items()) + "}"


def show_everything(assets: Path) -> None:
    """Make every page with several views."""
    for query in QUERIES:
        show(assets, query)


def show(assets: Path, query: str) -> None:
    store = RunStore(assets)
    store.index.refresh()
    view = parse_view(query)
    runs, _ = chosen_runs(view, store)
    for page in installed_pages():
        page.page.layout(view, store)
        for chart in page.charts.values():
            encoded(chart(runs, view, None))
        for part in page.parts.values():
            part(runs, view, store)
    assert "well" in [run.name for run in runs]
    curves_as_csv(runs)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", VALUES)
def test_run_json_of_any_values_is_shown(assets: Path, victim: Path, value: str) -> None:
    info = json.loads((victim / "run.json").read_text())
    literals = {name: json.dumps(given) for name, given in info.items() if name in ("format_version", "name")}
    whole = dict.fromkeys(info, value)
    within = {
        **whole,
        "summary": write_object(
            dict.fromkeys(info["summary"]), "best_validation", f'{{"step":{value},"loss":{value}}}'
        ),
        "parameters": f'{{"total":{value}}}',
        "tags": f"[{value}]",
        "total_steps": "10",
    }
    steps = {**whole, "summary": f'{{"last_step":{value},"tokens":{value},"flops":{value}}}', "total_steps": "10"}
    for values in (whole, within, steps):
        written = ",".join(f"{json.dumps(name)}:{literal}" for name, literal in {**values, **literals}.items())
        (victim / "run.json").write_text("{" + written + "}")
        show_everything(assets)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("log", LOGS)
def test_log_of_any_values_is_shown(assets: Path, victim: Path, log: str, value: str) -> None:
    rows = [json.loads(line) for line in (victim / f"{log}.jsonl").read_text().splitlines()][:12]
    names = list(rows[0])
    lines = [write_object(row, names[position % len(names)], value) for position, row in enumerate(rows)]
    (victim / f"{log}.jsonl").write_text("\n".join(lines) + "\n")
    show_everything(assets)


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 5000 + b"\n", b'{"step":' + DEEP.encode() + b"}\n", b"\xff\xfe\n", b'{"step":1}\n', b"[1]\nnull\n"],
    ids=["empty", "zeros", "deep", "no UTF-8", "bare", "no objects"],
)
def test_damaged_log_is_shown_as_far_as_it_is_valid(assets: Path, victim: Path, log: str, content: bytes) -> None:
    (victim / f"{log}.jsonl").write_bytes(content)
    show_everything(assets)


@pytest.mark.parametrize(
    "text",
    [
        *["[1]", "a: &a [*a]", "{a: 1, a: 2}", "x: !!python/object/apply:os.mkdir [pwned]", "[" * 5000, "? [x]\n: 3"],
        *["&a [1]: *a", "1: {2: 3}\nnull: 4\ntrue: [5]", "seed: {a: b}", "\0", "d: 2020-01-01\nn: .nan"],
        *["x: " + "[" * 200 + "]" * 200, "x: !!timestamp x", "x: !!bool x", "x: !!binary ="],
        *["x: 0x" + "f" * 6000, "? 0x" + "f" * 6000 + "\n: 1", "x: [0x" + "f" * 6000 + "]"],
        "a: &a [1, 2, 3]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\n"
        + "".join(f"{name}: &{name} [{f'*{before}, ' * 9}]\n" for before, name in zip("cdefgh", "defghi", strict=True)),
    ],
)
def test_configuration_of_any_kind_is_shown(
    assets: Path, victim: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(assets)
    (victim / "config.yaml").write_text(text)
    show_everything(assets)
    assert not (assets / "pwned").exists()


ODD_LOGS = [
    ("validation", ['{"loss":1.0}', '{"loss":2.0,"step":"inf"}']),
    ("validation", ['{"loss":2.0,"step":1,"flops":-3e9}', '{"loss":1.0,"step":2,"flops":-1e9}']),
    ("metrics", [f'{{"step":{-step},"loss":2.0,"learning_rate":1.0}}' for step in range(5000)]),
    ("metrics", [f'{{"step":{step * 2.0**-60!r},"loss":2.0}}' for step in range(200)]),
    ("metrics", ['{"step":1,"loss":"' + "x" * 300_000 + '"}', '{"step":2,"loss":2.0}']),
    ("samples", ['{"step":' + "9" * 400 + ',"prompt":"a","text":"b"}']),
    ("events", ['{"at":{},"step":{},"kind":{"a":1},"details":{"a":{"b":[]}}}', '{"kind":["checkpoint"]}']),
    ("events", ['{"kind":"spike","step":' + "9" * 4000 + ',"details":{"loss":' + "9" * 4000 + "}}"]),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("log", "lines"), ODD_LOGS)
def test_log_of_odd_numbers_is_shown(assets: Path, victim: Path, log: str, lines: list[str]) -> None:
    (victim / f"{log}.jsonl").write_text("\n".join(lines) + "\n")
    show_everything(assets)
    export_report([assets / "runs" / "well", victim], assets / "report.html")


def test_tags_and_seeds_of_odd_digits_are_shown(assets: Path, victim: Path) -> None:
    info = json.loads((victim / "run.json").read_text())
    (victim / "run.json").write_text(json.dumps({**info, "tags": ["²", "9" * 5000, "٣"]}))
    (victim / "config.yaml").write_text("seed: 0x" + "f" * 6000 + "\n")
    show_everything(assets)


# Special files, and files that are too large


def test_link_out_of_the_run_is_not_followed(assets: Path, victim: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"name": "of somebody", "format_version": 1}')
    for name in ("config.yaml", "run.json"):
        (victim / name).unlink()
        try:
            (victim / name).symlink_to(secret)
        except OSError:
            pytest.skip("this system does not let us make links")
        store = RunStore(assets)
        store.index.refresh()
        shown = {run.name: run.read_config() for run in store.runs()}
        assert "of somebody" not in str(shown)
    assert list(shown) == ["well"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX named pipes")
@pytest.mark.parametrize("name", ["run.json", "run.lock", "config.yaml", *(f"{log}.jsonl" for log in LOGS)])
def test_named_pipe_in_a_run_does_not_block(assets: Path, victim: Path, name: str) -> None:
    info = json.loads((victim / "run.json").read_text())
    (victim / "run.json").write_text(json.dumps({**info, "status": "running"}))
    (victim / name).unlink(missing_ok=True)
    os.mkfifo(victim / name)
    shown: list[bool] = []

    def show_and_note() -> None:
        show_everything(assets)
        shown.append(True)

    thread = threading.Thread(target=show_and_note, daemon=True)
    thread.start()
    thread.join(60)
    assert shown, "the thread is blocked, or raised an exception"


def test_files_of_gigabytes_do_not_fill_the_memory(assets: Path, victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_columns, "LONGEST_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(store_module, "MAX_LINES_BYTES", 1 << 20)
    for name in ("metrics.jsonl", "validation.jsonl", "samples.jsonl", "events.jsonl", "config.yaml"):
        with (victim / name).open("r+b") as file:
            file.truncate(100 << 20)  # a sparse file, which takes no disk space
    with (victim / "metrics.jsonl").open("ab") as file:
        file.write(b'\n{"step":1000,"loss":0.5}\n')
    tracemalloc.start()
    try:
        store = RunStore(assets)
        store.index.refresh()
        run = store.find("victim")
        assert run is not None
        assert run.training("step", "loss")["step"][-1] == 1000
        assert run.bad_lines() >= 1
        assert run.read_lines("samples") == run.read_lines("events") == []
        assert run.read_config() == {}
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    (victim / "run.json").write_bytes(b'{"name":"victim"}' + b" " * (2 << 20))
    show_everything(assets)


def test_report_with_a_lone_surrogate_is_written(assets: Path, victim: Path) -> None:
    lines = [write_object({"step": 10, "prompt": "def ", "text": "", "settings": {}}, "text", r'"\ud800"')]
    (victim / "samples.jsonl").write_text("\n".join(lines) + "\n")
    assert export_report([victim], assets / "report.html").exists()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "query",
    [
        *[
            "?budget=1e39",
            "?step=1e39&target=1e39",
            "?" + "a=1&" * 100,
            "?runs=" + "," * 5000 + "well",
            "?smooth=0.9999",
        ],
        *["?prompt=%ff%00", "?runs=well,../well,%00,/etc", "?x=__class__&y=read", "?budget=1e-39&axes=xy", "?;&=&=;"],
    ],
)
def test_address_of_any_kind_is_answered(assets: Path, victim: Path, query: str) -> None:
    show(assets, query)


def test_run_json_nested_too_deep_hides_that_run_alone(assets: Path, victim: Path) -> None:
    (victim / "run.json").write_text('{"a":' + DEEP + "}")
    show_everything(assets)


def test_columns_agree_when_a_line_is_bad_for_one_of_them_only(assets: Path) -> None:
    path = assets / "metrics.jsonl"
    path.write_text('{"step":1,"tokens":1}\n{"step":2,"tokens":1e400}\n{"step":3,"tokens":3}\n')
    columns = LogColumns(path)
    columns.read(["step"])
    columns.read(["step", "tokens"])
    assert len(columns.read(["step"])["step"]) == len(columns.read(["tokens"])["tokens"])
