from pathlib import Path

import pytest

from tfs_core.config.document import Place, read_text, read_yaml
from tfs_core.errors import ConfigError

ROOT = Place(source="run.yaml", base=Path(), line=1)


def read(text: str) -> object:
    document = read_text(text, ROOT)
    assert document.problems == []
    return document.values


def problem_of(text: str) -> str:
    """Return the only problem of a text that is otherwise valid YAML."""
    with pytest.raises(ConfigError) as caught:
        read_text(text, ROOT).raise_problems()
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3e-4", 3e-4),
        ("3E4", 3e4),
        ("+1e3", 1e3),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -float("inf")),
        ("012", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("-7", -7),
    ],
)
def test_yaml_numbers_are_those_of_yaml_1_2(text: str, number: float) -> None:
    value = read(text)
    assert value == number
    assert type(value) is type(number)


@pytest.mark.parametrize(
    "text", ["1:30", "yes", "no", "on", "off", "1_000", "2026-01-31", "1e", "0b11", "=", "<<", "1,5"]
)
def test_yaml_text_that_yaml_1_1_takes_for_something_else_is_text(text: str) -> None:
    assert read(text) == text


@pytest.mark.parametrize(("text", "value"), [("true", True), ("FALSE", False), ("~", None), ("null", None), ("", None)])
def test_yaml_booleans_and_null_are_recognized(text: str, value: object) -> None:
    assert read(text) is value


def test_yaml_places_say_the_line_of_every_key_and_item() -> None:
    document = read_text("a:\n  b: 1\nc:\n  - x\n  - d: 2\n", ROOT)
    lines = {key: place.line for key, place in document.places.items()}
    assert lines == {(): 1, ("a",): 1, ("a", "b"): 2, ("c",): 3, ("c", 0): 4, ("c", 1): 5, ("c", 1, "d"): 5}


def test_yaml_doubled_key_names_both_lines() -> None:
    assert problem_of("a:\n  b: 1\n  c: 2\n  b: 3\n") == (
        "run.yaml:4: a.b is given twice; the first is on line 2. Remove one of them"
    )


def test_yaml_alias_stands_for_its_anchor() -> None:
    assert read("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("a: 1\n\tb: 2\n", 2, "a tab; indent with spaces"),
        ("a: b: c\n", 1, "a ':' where none is expected"),
        ("a: 1\nb: [1,\n\nc: 2\n", 2, "expected ',' or ']', but got '<stream end>' while parsing a flow sequence"),
        ("a: 'open\n\n", 1, "unexpected end of stream while scanning a quoted scalar"),
        ("a: 1\n---\nb: 2\n", 2, "expected a single document in the stream, but found another document"),
        ("a: 1\n  b: 2\n", 2, "a ':' where none is expected"),
        ("a:\n  - b\n c: 2\n", 3, "expected <block end>"),
        ("a: &x [*x]\n", 1, "an alias contains itself"),
        ("a: *x\n", 1, "undefined alias"),
        ("a: 1\nb: \x01\n", 2, "U+0001 is not allowed"),
        ("[" * 3000, 1, "nested too deeply"),
    ],
)
def test_invalid_yaml_is_an_error_with_its_line(text: str, line: int, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_text(text, ROOT)
    assert str(caught.value).startswith(f"run.yaml:{line}: ")
    assert expected in str(caught.value)


def test_yaml_aliases_that_multiply_do_not_fill_the_memory() -> None:
    layers = [f"x{n}: &x{n} [{', '.join(['*x' + str(n - 1)] * 9)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="more than 100000 values"):
        read_text("\n".join(["x0: &x0 [1]", *layers]), ROOT)


@pytest.mark.parametrize("text", ["a: !!python/name:os.system x", "a: !!binary aGk=", "a: !mine [1]", "a: !!set {b}"])
def test_yaml_tag_is_a_problem(text: str) -> None:
    assert problem_of(text).startswith("run.yaml:1: a: the tag !")


@pytest.mark.parametrize("text", ["a: !!int x", f"a: {'9' * 5000}"])
def test_yaml_number_that_cannot_be_read_is_a_problem(text: str) -> None:
    assert problem_of(text) == "run.yaml:1: a: cannot be read as int"


def test_yaml_key_that_is_a_list_is_a_problem() -> None:
    assert problem_of("? [a, b]\n: 1\n") == "run.yaml:1: a key must be a word, not a list or a mapping"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "run.yaml: the file is empty"),
        (b"# nothing yet\n", "run.yaml: the file is empty"),
        (b"- a\n- b\n", "run.yaml:1: expected settings, such as 'experiment_name: first', not a list"),
        (b"hello\n", "run.yaml:1: expected settings, such as 'experiment_name: first', not only 'hello'"),
        (b"a: 1\nb: caf\xe9\n", "run.yaml:2: this is not UTF-8"),
        ("a: 1\n".encode("utf-16"), "run.yaml:1: this is not UTF-8"),
    ],
)
def test_file_that_is_not_a_configuration_is_an_error(data: bytes, expected: str) -> None:
    Path("run.yaml").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_yaml(Path("run.yaml"))
    assert str(caught.value).startswith(expected)


def test_file_with_a_byte_order_mark_and_windows_line_ends_is_read() -> None:
    Path("run.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb:\r\n  c: 2\r\n")
    document = read_yaml(Path("run.yaml"))
    assert document.values == {"a": 1, "b": {"c": 2}}
    assert document.places["b", "c"].line == 3


def test_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: there is no such file"):
        read_yaml(Path("absent.yaml"))


def test_folder_instead_of_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)
