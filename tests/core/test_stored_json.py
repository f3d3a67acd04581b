"""Reading of stored files: whatever one holds, reading it ends with the expected values or with a CheckpointError."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfs_core.errors import CheckpointError, NewerFormatError
from tfs_core.stored_json import MAX_DEPTH, difference, parse_json, read_bytes, read_json

FITS: list[tuple[object, object]] = [
    (0, int),
    (2**63 - 1, int),
    (1, range(1, 9)),
    (8, range(1, 9)),
    ("cpu", {"cpu", "cuda"}),
    (1.5, float),
    (2, float),
    (-2, float),
    ("", str),
    (False, bool),
    ({"a": [1]}, dict),
    ([{}], list),
    (None, None),
    ([1, "a"], object),
    (None, (int, None)),
    (3, (int, None)),
    ([], [str]),
    (["a", "b"], [str]),
    ({"step": 1, "more": "x"}, {"step": int}),
    ({}, {"step?": int}),
    ({"step": 1}, {"step?": int}),
    ({"a": 1, "b": 2}, {str: int}),
    ({"a": {"b": [1]}}, {"a": {"b": [int]}}),
]

DIFFERS: list[tuple[object, object, str]] = [
    (-1, int, "its content is -1, not a whole number from 0 on"),
    (2**63, int, "not a whole number from 0 on"),
    (True, int, "its content is True, not a whole number"),
    (1.0, int, "its content is 1.0, not a whole number"),
    ("1", int, "its content is '1', not a whole number"),
    (0, range(1, 9), "its content is 0, not in range(1, 9)"),
    (9, range(1, 9), "its content is 9, not in range(1, 9)"),
    (True, range(1, 9), "its content is True, not in range(1, 9)"),
    ("-", range(1, 1 << 62), "its content is '-', not in range"),
    ("tpu", {"cpu"}, "its content is 'tpu', not in {'cpu'}"),
    (["cpu"], {"cpu"}, "its content is ['cpu'], not in {'cpu'}"),
    (True, float, "its content is True, not a number"),
    ("x", float, "its content is 'x', not a number"),
    (2**63, float, "not a number"),
    (None, str, "its content is None, not a text"),
    (0, bool, "its content is 0, not true or false"),
    ([], dict, "its content is [], not an object"),
    ({}, list, "its content is {}, not a list"),
    (0, None, "its content is 0, not null"),
    ("x", (int, None), "its content is 'x', not a whole number from 0 on"),
    ({}, [str], "its content is not a list"),
    (["a", 1], [str], "1 is 1, not a text"),
    ([], {"step": int}, "its content is not an object"),
    ({}, {"step": int}, "'step' is missing"),
    ({"step": "x"}, {"step?": int}, "step is 'x', not a whole number from 0 on"),
    ({"a": 1, "b": "x"}, {str: int}, "b is 'x', not a whole number from 0 on"),
    ({"a": {}}, {"a": {"b": int}}, "'b' is missing in a"),
    ({"a": {"b": [1, "x"]}}, {"a": {"b": [int]}}, "a.b.1 is 'x', not a whole number from 0 on"),
]


@pytest.mark.parametrize(("value", "shape"), FITS)
def test_value_fits_its_shape(value: object, shape: object) -> None:
    assert difference(value, shape) == ""


@pytest.mark.parametrize(("value", "shape", "problem"), DIFFERS)
def test_difference_says_where_and_how(value: object, shape: object, problem: str) -> None:
    assert problem in difference(value, shape)


def test_long_values_and_names_are_cut() -> None:
    assert len(difference("x" * 10_000, int)) < 100
    assert len(difference({"n" * 10_000: "x"}, {str: int})) < 150


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "Expecting value"),
        (b"\xff", "invalid start byte"),
        (b"[NaN]", "it contains NaN"),
        (b"[-Infinity]", "it contains -Infinity"),
        (b"[1e999]", "the number 1e999 is too large"),
        (b"1" * 5000, "digits"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "it is nested too deeply"),
        (rb'["\ud800"]', "surrogates not allowed"),
        (rb'{"a\uDFFF": 1}', "surrogates not allowed"),
        (b"{} {}", "Extra data"),
    ],
)
def test_text_that_is_not_strict_json_is_a_value_error(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_json(content)


def test_strict_json_is_read() -> None:
    content = rb'{"a": [1, -2.5, null, true, "\ud83d\ude00 \u00e9"]}'
    assert parse_json(content) == {"a": [1, -2.5, None, True, "\U0001f600 é"]}
    assert parse_json(b"[" + b"[],{}," * MAX_DEPTH + b"1]")[-1] == 1  # many, but not deep
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert json.dumps(parse_json(deep)).encode() == deep


@given(st.binary(max_size=60))
def test_any_bytes_are_values_or_a_value_error(content: bytes) -> None:
    try:
        value = parse_json(content)
    except ValueError:
        return
    assert difference(value, object) == ""


def test_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b"[1]")
    assert read_bytes(file, limit=3) == b"[1]"
    assert read_json(file, [int], limit=3) == [1]
    with pytest.raises(CheckpointError, match=r"a\.json has more than 2 bytes"):
        read_bytes(file, limit=2)
    with pytest.raises(CheckpointError, match=r"a\.json has more than 2 bytes"):
        read_json(file, [int], limit=2)


@pytest.mark.skipif(sys.platform == "win32", reason="has no named pipes")
def test_pipes_devices_and_folders_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(CheckpointError, match="is not a regular file"):
            read_bytes(path, limit=100)
    with pytest.raises(CheckpointError, match=r"cannot be read: Is a directory|is not a regular file"):
        read_json(tmp_path, dict)


def test_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.json cannot be read: No such file"):
        read_json(tmp_path / "a.json", dict)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"a\.json is damaged: Expecting"):
        read_json(tmp_path / "a.json", dict)
    (tmp_path / "a.json").write_text('{"a": 1}')
    with pytest.raises(CheckpointError, match=r"a\.json is damaged: a is 1, not a text"):
        read_json(tmp_path / "a.json", {"a": str})


@pytest.mark.parametrize(
    ("version", "error", "message"),
    [
        (3, NewerFormatError, "has format 3, and this tfs reads format 2: upgrade tfs"),
        (1, CheckpointError, "its format_version is 1, not 2"),
        ("3", CheckpointError, "its format_version is '3', not 2"),
        (True, CheckpointError, "its format_version is True, not 2"),
        (None, CheckpointError, "its format_version is None, not 2"),
    ],
)
def test_only_a_higher_version_asks_for_an_upgrade(version: Any, error: type, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"format_version": version, "a": "of another shape"}))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_json(tmp_path / "a.json", {"a": int}, version=2)
    assert type(caught.value) is error


def test_value_of_the_expected_version_is_returned(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"format_version": 2, "a": 5}')
    assert read_json(tmp_path / "a.json", {"a": int}, version=2) == {"format_version": 2, "a": 5}
    (tmp_path / "a.json").write_text('{"format_version": true, "a": 5}')
    with pytest.raises(CheckpointError, match="its format_version is True, not 1"):
        read_json(tmp_path / "a.json", {"a": int}, version=1)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(CheckpointError, match="its format_version is None"):
        read_json(tmp_path / "a.json", {"a": int}, version=2)
