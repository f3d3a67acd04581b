"""The data set `jsonl`: JSON files of any form, dotted keys, templates, and the error messages that lead to them."""

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfs_datasets import jsonl
from tfs_datasets.config import JsonlConfig

from tfs_core.config.schema import Choice
from tfs_core.data.prepare import build_source
from tfs_core.errors import DataError

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SHAREGPT = [
    {"id": "a", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    {"id": "b", "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
]
OPENAI = {
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "this?"}]},
        {"role": "assistant", "content": "A cat"},
        {"role": "assistant", "content": None},
    ]
}
TELEGRAM = {
    "name": "Group",
    "messages": [
        {"id": 1, "type": "service", "actor": "Ann", "action": "create_group", "text": ""},
        {"id": 2, "type": "message", "from": "Ann", "text": "hello"},
        {"id": 3, "type": "message", "from": "Bob", "text": ["see ", {"type": "link", "text": "http://x"}, "!"]},
    ],
}
DISCORD = {
    "guild": {"name": "G"},
    "messages": [
        {"timestamp": "2024", "content": "hey", "author": {"name": "bob", "color": None}},
        {"timestamp": "2024", "content": "yo", "author": {"name": "eve", "color": None}},
    ],
}
ALPACA = [{"instruction": "Add", "input": "1 2", "output": "3"}, {"instruction": "Hi", "input": "", "output": "Ho"}]
CHATGPT = [
    {
        "title": "T",
        "mapping": {
            "a1": {"message": None, "children": ["b2"]},
            "b2": {"message": {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["Hi"]}}},
            "c3": {"message": {"author": {"role": "bot"}, "content": {"content_type": "text", "parts": ["Yo", "!"]}}},
        },
    }
]
MESSENGER = {
    "participants": [{"name": "Ann"}, {"name": "Bob"}],
    "messages": [{"sender_name": "Ann", "timestamp_ms": 1, "content": "hi", "reactions": [{"actor": "Bob"}]}],
}


def build(file: Path, **options: Any) -> Any:
    choice = Choice("tfs-datasets/jsonl", JsonlConfig(path=file, **options))
    return build_source(choice, assets=file.parent, offline=True)


def documents(file: Path, **options: Any) -> list[str]:
    source = build(file, **options)
    found = list(source.documents("train"))
    assert list(source.documents("train")) == found  # a second pass gives the same
    return found


def written(folder: Path, content: Any, **style: Any) -> Path:
    """Write text, bytes or a JSON value to a file, and return the file."""
    file = folder / "a.json"
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content, **style)).encode()
    file.write_bytes(content)
    return file


class TestForms:
    """Lines, arrays and objects of many lines."""

    def test_each_line_is_a_document(self, tmp_path: Path) -> None:
        file = written(tmp_path, '\ufeff{"text": "1\\n", "n": 2}\n\n{"text": ""}\r\n{"text": null}\n{"text": "é"}')
        assert documents(file) == ["1\n", "", "", "é"]

    def test_concatenated_files_with_byte_order_marks_are_read(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, '\ufeff{"text": "1"}\n\ufeff{"text": "2"}\n')) == ["1", "2"]

    @pytest.mark.parametrize("style", [{}, {"indent": 2}, {"indent": "\t"}, {"separators": (",", ":")}], ids=str)
    @pytest.mark.parametrize("space", ["", "\n", " \r\n\t"])
    def test_each_item_of_an_array_is_a_document(self, tmp_path: Path, style: dict[str, Any], space: str) -> None:
        content = space + json.dumps([{"text": "1"}, {"text": "2\n"}, {"text": None}], **style) + space
        assert documents(written(tmp_path, content)) == ["1", "2\n", ""]

    def test_array_with_an_object_in_each_line_is_read(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, '[\n{"text": "1"},\n{"text": "2"}\n]\n')) == ["1", "2"]
        assert documents(written(tmp_path, "[]")) == []

    def test_objects_of_many_lines_are_documents(self, tmp_path: Path) -> None:
        one, two = (json.dumps({"text": text, "n": [1, {"a": 2}]}, indent=2) for text in ("1", "2"))
        assert documents(written(tmp_path, one)) == ["1"]
        assert documents(written(tmp_path, f"{one}\n\n{two}\n")) == ["1", "2"]

    @untimed
    @given(
        texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=8),
        form=st.sampled_from(["lines", "array", "pretty array", "pretty objects"]),
        ascii_only=st.booleans(),
        block=st.integers(1, 40),
    )
    def test_documents_come_back_however_they_are_written_and_read(
        self, texts: list[str], form: str, ascii_only: bool, block: int, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        records = [{"n": -1.5e3, "text": text, "more": [True, None, {"{": text}]} for text in texts]
        indent = 2 if form.startswith("pretty") else None
        style: dict[str, Any] = {"ensure_ascii": ascii_only, "indent": indent}
        if form.endswith("array"):
            content = json.dumps(records, **style)
        else:
            content = "\n".join(json.dumps(record, **style) for record in records)
        file = written(tmp_path_factory.getbasetemp(), content)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jsonl, "BLOCK_CHARACTERS", block)
            assert documents(file) == texts

    @pytest.mark.parametrize("block", range(1, 15))
    def test_number_at_the_end_of_a_block_is_whole(
        self, tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jsonl, "BLOCK_CHARACTERS", block)
        assert documents(written(tmp_path, "[1234, -5.6e7]"), template="{}") == ["1234", "-56000000.0"]

    def test_array_is_not_held_in_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        longest = 0

        class Watched(jsonl.JsonText):
            def _read_on(self) -> bool:
                nonlocal longest
                more = super()._read_on()
                longest = max(longest, len(self._text))
                return more

        monkeypatch.setattr(jsonl, "JsonText", Watched)
        file = written(tmp_path, [{"text": "x" * 100}] * 20_000)
        assert len(documents(file)) == 20_000
        assert longest < 4 * jsonl.BLOCK_CHARACTERS

    def test_long_value_is_decoded_few_times(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        decoded = 0

        class Decoder(json.JSONDecoder):
            def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
                nonlocal decoded
                decoded += 1
                return super().raw_decode(s, idx)

        monkeypatch.setattr(jsonl, "DECODER", Decoder())
        monkeypatch.setattr(jsonl, "BLOCK_CHARACTERS", 10)
        assert documents(written(tmp_path, [{"text": "x" * 100_000}]))[0] == "x" * 100_000
        assert decoded < 2 * 20

    def test_utf16_and_other_encodings_are_read(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, json.dumps([{"text": "é"}], ensure_ascii=False).encode("utf-16"))) == ["é"]
        latin = written(tmp_path, '{"text": "café"}\n'.encode("cp1252"))
        assert documents(latin, encoding="cp1252") == ["café"]


class TestInvalid:
    """Text that is not JSON, and records without text."""

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"text": "a"', "line 2 is not JSON: Expecting ',' delimiter at .* Each line must be a JSON object"),
            ('{"text": "a" "b"}', "line 2 is not JSON: Expecting ',' delimiter at '\"b\"}"),
            ('["a"]', "line 2, item 1 has no key 'text'"),
            ("7", "line 2 is a number, not an object such as"),
            ('{"text": 3}', "line 2 holds a number under 'text', not text"),
            ('{"txt": "a", "id": 3}', r"line 2 has no key 'text'\. Its keys that hold text: txt"),
            ("{}", "line 2 has no key 'text', and none of its keys holds text"),
            (r'{"text": "a \ud800 b"}', r"line 2 contains the lone surrogate U\+D800"),
            ("[" * 100_000, "line 2 is not JSON"),
            ("1" * 5000, "line 2 is not JSON"),
        ],
    )
    def test_bad_line_is_an_error_with_file_and_line(self, tmp_path: Path, line: str, message: str) -> None:
        file = written(tmp_path, '{"text": "fine"}\n' + line + '\n{"text": "good"}\n')
        with pytest.raises(DataError, match=rf"a\.json, {message}.*\(To skip invalid input, set on_error: skip\.\)"):
            documents(file)
        assert documents(file, on_error="skip") == ["fine", "good"]

    @pytest.mark.parametrize("depth", [100, 300, 600, 900, 980, 2000])
    @pytest.mark.parametrize(
        "options",
        [{}, {"template": "{text}"}, {"text_key": "text.a"}, {"text_key": "text", "template": "{a}"}],
        ids=str,
    )
    def test_deep_lists_are_refused_or_read(self, tmp_path: Path, depth: int, options: dict[str, Any]) -> None:
        file = written(tmp_path, '{"text": {"a": "fine"}}\n{"text": ' + "[" * depth + "]" * depth + "}")
        with contextlib.suppress(DataError):
            documents(file, **options)

    def test_line_that_is_not_utf8_is_an_error_with_file_and_line(self, tmp_path: Path) -> None:
        file = written(tmp_path, b'{"text": "fine"}\n{"text": "na\xefve"}\n')
        with pytest.raises(DataError, match=r"a\.json, line 2: byte 0xef is not UTF-8"):
            documents(file)
        file = written(tmp_path, b'[{"text": "fine"},\n{"text": "na\xefve"}]\n')
        with pytest.raises(DataError, match=r"a\.json, item 2 \(line 2\): byte 0xef is not UTF-8"):
            documents(file)
        assert documents(file, on_error="skip") == ["fine"]

    def test_surrogate_pair_is_a_character(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, r'{"text": "\ud83e\udd8a"}')) == ["🦊"]

    @untimed
    @given(lines=st.lists(st.sampled_from(['{"text": "a"}', '{"text": "b"', "no", '{"txt": "c"}', "[1]"]), min_size=1))
    def test_lines_read_and_left_out_are_all_lines(
        self, lines: list[str], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        lines = ["no", *lines, '{"text": "a"}']
        source = build(written(tmp_path_factory.getbasetemp(), "\n".join(lines)), on_error="skip")
        read = list(source.documents("train"))
        assert len(read) == lines.count('{"text": "a"}')
        (report,) = source.left_out()
        assert f"{len(lines) - len(read)} left out" in report

    def test_first_line_that_is_cut_off_leaves_the_others(self, tmp_path: Path) -> None:
        for line in ('{"text": "a"', '{"text": "a', "{", '{"text":'):
            file = written(tmp_path, line + '\n{"text": "b"}\n{"text": "c"}')
            if line != '{"text":':  # the second line is the value then
                assert documents(file, on_error="skip") == ["b", "c"]
            with pytest.raises(DataError, match=r"a\.json, line \d"):
                documents(file)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('[{"text": "1"},\n{"text": "2"}', "line 2: the array has no end"),
            ('[{"text": "1"}\n{"text": "2"}]', "line 2: the array has no end, or a comma is missing"),
            ('[{"text": "1"},\n{"text": }, {"text": "3"}]', "line 2 is not JSON: Expecting value at '}, "),
            ('[{"text": "1"},\n', "line 2 is not JSON: Expecting value at the end"),
            ('[{"text": "1"}]\n[{"text": "2"}]', "line 2: a file must end after its array"),
            ('{\n"text": "1"}\n{\n"text": 2', "line 4 is not JSON: Expecting ',' delimiter at the end"),
        ],
    )
    def test_rest_of_an_array_or_object_that_is_broken_is_left_out(
        self, tmp_path: Path, content: str, message: str
    ) -> None:
        file = written(tmp_path, content)
        with pytest.raises(DataError, match=f"{message}.*. The rest of the file cannot be read"):
            documents(file)
        source = build(file, on_error="skip")
        assert list(source.documents("train"))[:1] == ["1"]
        assert message.partition(": ")[0] in source.left_out()[0]

    def test_broken_array_is_not_read_to_its_end_to_find_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = 0
        read_on = jsonl.JsonText._read_on

        def counted(text: jsonl.JsonText) -> bool:
            nonlocal read
            read += 1
            return read_on(text)

        monkeypatch.setattr(jsonl.JsonText, "_read_on", counted)
        file = written(tmp_path, '[{"text": "1"} oops, ' + '{"text": "1"}, ' * 100_000)
        with pytest.raises(DataError, match="a comma is missing"):
            documents(file)
        assert read < 5


class TestKeys:
    """Dotted keys, lists within them, and `*`."""

    def test_text_key_says_which_key_is_read(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, {"text": "1", "body": "2"}), text_key="body") == ["2"]

    def test_dotted_key_is_a_key_of_a_key(self, tmp_path: Path) -> None:
        file = written(tmp_path, {"meta": {"text": "1", "more": {"text": "2"}}})
        assert documents(file, text_key="meta.text") == ["1"]
        assert documents(file, text_key="meta.more.text") == ["2"]

    def test_key_that_contains_a_dot_goes_first(self, tmp_path: Path) -> None:
        file = written(tmp_path, {"meta": {"text": "1"}, "meta.text": "2", "a.b": {"c": "3"}})
        assert documents(file, text_key="meta.text") == ["2"]
        assert documents(file, text_key="a.b.c") == ["3"]

    def test_list_within_a_key_has_a_document_in_each_item(self, tmp_path: Path) -> None:
        file = written(tmp_path, {"data": [{"text": "1"}, {"text": "2"}]}, indent=2)
        assert documents(file, text_key="data.text") == ["1", "2"]
        file = written(tmp_path, {"chats": {"list": [{"m": [{"t": "1"}, {"t": "2"}]}, {"m": [{"t": "3"}]}]}})
        assert documents(file, text_key="chats.list.m.t") == ["1", "2", "3"]

    def test_null_within_a_key_is_an_empty_document(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, {"meta": None}), text_key="meta.text") == [""]

    def test_star_is_each_item_or_value(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, {"lines": ["1", "2"]}), text_key="lines.*") == ["1", "2"]
        assert documents(written(tmp_path, {"data": ALPACA}), text_key="data.*", template="{output}!") == ["3!", "Ho!"]
        found = documents(written(tmp_path, CHATGPT), text_key="mapping.*.message.content.parts", template="{}")
        assert found == ["", "Hi", "Yo!"]

    def test_item_without_the_key_is_left_out_alone(self, tmp_path: Path) -> None:
        file = written(tmp_path, {"data": [{"text": "1"}, {"txt": "2"}, "3", {"text": 4}, {"text": "5"}]})
        with pytest.raises(DataError, match=r"line 1, item 2 has no key 'data\.text'"):
            documents(file, text_key="data.text")
        source = build(file, text_key="data.text", on_error="skip")
        assert list(source.documents("train")) == ["1", "5"]
        assert "3 left out" in source.left_out()[0]


class TestWholeFile:
    """The key `.`: all objects of a file are one document."""

    @pytest.mark.parametrize("style", [{}, {"indent": 2}])
    def test_items_or_lines_are_one_document(self, tmp_path: Path, style: dict[str, Any]) -> None:
        messages = [{"user": "a", "text": "1"}, {"user": "b", "text": "2"}]
        options = {"text_key": ".", "template": "{user}: {text}\n"}
        assert documents(written(tmp_path, messages, **style), **options) == ["a: 1\nb: 2\n"]
        lines = "\n".join(json.dumps(message, **style) for message in messages)
        assert documents(written(tmp_path, lines), **options) == ["a: 1\nb: 2\n"]

    def test_file_without_objects_has_no_document(self, tmp_path: Path) -> None:
        assert documents(written(tmp_path, "[]"), text_key=".", template="{text}") == []

    def test_invalid_objects_are_left_out_alone(self, tmp_path: Path) -> None:
        file = written(tmp_path, b'{"text": "1"}\nno\n{"text": "\xff"}\n{"txt": "2"}\n{"text": "3"}\n')
        source = build(file, text_key=".", template="{text}\n", on_error="skip")
        assert list(source.documents("train")) == ["1\n3\n"]
        assert "3 left out, the first: line 2 is not JSON" in source.left_out()[0]


class TestTemplates:
    """Messages, parts and several keys in one document."""

    @pytest.mark.parametrize(
        ("content", "options", "expected"),
        [
            (
                SHAREGPT,
                {"text_key": "conversations", "template": "{from}: {value}\n"},
                ["human: Hi\ngpt: Hello\n", "human: 2+2?\ngpt: 4\n"],
            ),
            (
                OPENAI,
                {"text_key": "messages", "template": "<{role}>{content}"},
                ["<user>What is this?<assistant>A cat<assistant>"],
            ),
            (DISCORD, {"text_key": "messages", "template": "{author.name}: {content}\n"}, ["bob: hey\neve: yo\n"]),
            (ALPACA, {"template": "{instruction}\n{input}\n{output}"}, ["Add\n1 2\n3", "Hi\n\nHo"]),
            ({"lines": ["1", "2"]}, {"text_key": "lines", "template": "{}\n"}, ["1\n2\n"]),
            (["1", "2"], {"template": "{}"}, ["1", "2"]),
            ([["1", "2"], ["3"]], {"template": "- {}\n"}, ["- 1\n- 2\n", "- 3\n"]),
            ([{"text": "1", "n": 2.5, "b": True}], {"template": "{{{text}}} {n} {b}"}, ["{1} 2.5 true"]),
            ([{"a": [{"b": "1"}, {"b": "2"}]}], {"template": "{a.b}"}, ["12"]),
            (
                CHATGPT,
                {"text_key": "mapping.*", "template": "{message.author.role}: {message.content.parts}\n"},
                ["user: Hi\nbot: Yo!\n"],
            ),
            ([{"a": None, "b": None}, {"a": None, "b": "1"}], {"template": "<{a}{b}>"}, ["", "<1>"]),
            ([{"a": [None, "1"]}, {"a": [None]}], {"template": "<{a.*}>"}, ["<1>", ""]),
            ([{"messages": None}], {"text_key": "messages", "template": "{role}"}, [""]),
            ([{"messages": []}], {"text_key": "messages", "template": "{role}"}, [""]),
        ],
        ids=[
            "sharegpt",
            "openai",
            "discord",
            "alpaca",
            "lines",
            "texts",
            "lists",
            "values",
            "inner",
            "chatgpt",
            "nulls",
            "nulls in lists",
            "null",
            "none",
        ],
    )
    def test_template_writes(self, tmp_path: Path, content: Any, options: dict[str, Any], expected: list[str]) -> None:
        assert documents(written(tmp_path, content, indent=1), **options) == expected

    def test_item_without_a_key_that_others_have_is_told(self, tmp_path: Path) -> None:
        file = written(tmp_path, [{"parts": [1, {"text": "a"}]}])
        with pytest.raises(DataError, match=r"item 1 has no key 'parts\.text', which items beside it have\. \(To skip"):
            documents(file, text_key="parts.text")
        with pytest.raises(DataError, match=r"item without the key 'parts\.text', which items beside it have\. \("):
            documents(file, template="{parts.text}")
        assert documents(file, text_key="parts.text", on_error="skip") == ["a"]

    def test_message_without_a_key_is_left_out_and_counted(self, tmp_path: Path) -> None:
        options = {"text_key": "messages", "template": "{from}: {text}\n"}
        file = written(tmp_path, TELEGRAM, indent=1)
        with pytest.raises(DataError, match=r"item 1 has no key 'from'\. Its keys that hold text: type, actor, .*skip"):
            documents(file, **options)
        source = build(file, **options, on_error="skip")
        assert list(source.documents("train")) == ["Ann: hello\nBob: see http://x!\n"]
        assert "1 left out, the first: line 1, item 1 has no key 'from'" in source.left_out()[0]

    def test_list_of_nothing_but_invalid_items_is_no_document(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no document could be read\. .* 4 left out, .* item 1 has no key 'role'"):
            documents(written(tmp_path, SHAREGPT), text_key="conversations", template="{role}", on_error="skip")

    def test_part_without_text_is_an_error(self, tmp_path: Path) -> None:
        image = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}
        with pytest.raises(DataError, match="item 1 holds an object under 'content', which has no key 'text'"):
            documents(written(tmp_path, image), text_key="messages", template="{role}: {content}")

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            ("hello", "template must contain a key in braces"),
            ("", "template must contain a key in braces"),
            ("{a", r"template .* is invalid: .* Write \{\{ or \}\} for a brace"),
            ("a}", "template .* is invalid"),
            ("{a:>10}", "the key 'a' must end at its brace"),
            ("{a!r}", "the key 'a' must end at its brace"),
        ],
    )
    def test_invalid_template_is_an_error_of_the_option(self, template: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            JsonlConfig(path=Path("a"), template=template)


class TestAdvice:
    """Error messages that contain the settings which read the file."""

    @pytest.mark.parametrize(
        ("content", "options", "advice"),
        [
            (SHAREGPT, {}, r'text_key: conversations and template: "{from}: {value}\n"'),
            (OPENAI, {}, r'text_key: messages and template: "{role}: {content}\n"'),
            (OPENAI, {"text_key": "messages"}, r'template: "{role}: {content}\n"'),
            (DISCORD, {}, r'text_key: messages and template: "{author.name}: {content}\n"'),
            (TELEGRAM, {}, r'text_key: messages and template: "{from}: {text}\n"'),
            (ALPACA, {}, r'template: "{instruction}\n{input}\n{output}"'),
            ({"lines": ["1", "2"]}, {"text_key": "lines"}, r'template: "{}\n"'),
            ({"lines": ["1", "2"]}, {"text_key": "lines"}, "text_key: lines.*"),
            (["1", "2"], {}, 'text_key: null and template: "{}"'),
            ({"meta": {"text": "1"}, "id": "2"}, {}, "Did you mean 'meta.text'? Set text_key to it."),
            ({"meta": {"text": "1"}}, {"text_key": "meta.txt"}, "Did you mean 'meta.text'?"),
            ({"meta": {"title": "1"}}, {"text_key": "meta"}, "Set text_key to a key that holds text: meta.title."),
            ({"body": "1"}, {}, "hold text: body. (Set text_key to it)"),
            ({"id": "1", "body": "2"}, {}, "Set text_key to one of them, such as body)"),
            ({f"k{i}": "1" for i in range(50)}, {}, "k18, k19 and more. (Set text_key to one of them, or to join"),
            (OPENAI["messages"][1:2], {}, r'text_key: . and template: "{role}: {content}\n"'),
            (ALPACA, {"text_key": "."}, r'template: "{instruction}\n{input}\n{output}\n"'),
            (CHATGPT, {}, r'text_key: mapping.* and template: "{message.author.role}: {message.content.parts}\n"'),
            (MESSENGER, {}, r'text_key: messages and template: "{sender_name}: {content}\n"'),
        ],
    )
    def test_first_error_says_how_to_read_the_file(
        self, tmp_path: Path, content: Any, options: dict[str, Any], advice: str
    ) -> None:
        with pytest.raises(DataError) as raised:
            documents(written(tmp_path, content), **options)
        assert advice in str(raised.value)
        assert "?." not in str(raised.value)
        assert "on_error" not in str(raised.value)  # would leave out everything

    def test_advice_can_be_copied(self, tmp_path: Path) -> None:
        import yaml

        for content in (SHAREGPT, OPENAI, DISCORD, CHATGPT, MESSENGER):
            file = written(tmp_path, content)
            with pytest.raises(DataError) as raised:
                documents(file)
            key, template = str(raised.value).partition("set text_key: ")[2].rstrip(")").split(" and ")
            assert documents(file, text_key=key, **yaml.safe_load(template))

    def test_keys_of_a_deep_record_are_listed_in_part(self, tmp_path: Path) -> None:
        content = '{"a": ' * 900 + '{"id": 1}' + "}" * 900
        with pytest.raises(DataError, match="has no key 'text', and none of its keys holds text"):
            documents(written(tmp_path, content))
        deep = '{"name": "x", "a": ' + '{"a": [' * 400 + '{"id": 1}' + "]}" * 400 + "}"
        with pytest.raises(DataError, match=r"has no key 'text'\. Its keys that hold text: name"):
            documents(written(tmp_path, deep))

    def test_keys_of_a_large_record_are_listed_in_part(self, tmp_path: Path) -> None:
        record = {f"key{i}": {f"inner{j}": "text" for j in range(50)} | {"n": 1} for i in range(50)} | {"m": 1}
        with pytest.raises(DataError) as raised:
            documents(written(tmp_path, record))
        assert len(str(raised.value)) < 1000


class TestFingerprint:
    """Old readings keep their fingerprint, new ones get their own."""

    def test_fingerprint_of_lines_with_a_plain_key_is_that_of_the_first_version(self, tmp_path: Path) -> None:
        file = written(tmp_path, '{"text": "1"}\n{"text": "2"}\n')
        assert build(file).fingerprint() == "64acf7ef30f69c10ac32"
        assert build(file, text_key="text").fingerprint() == "64acf7ef30f69c10ac32"
        assert build(file, text_key="body").fingerprint() == "153128c1a6b30237467c"
        assert build(file, on_error="skip").fingerprint() == "6464e503ac7ce4215443"

    def test_every_reading_has_its_own_fingerprint(self, tmp_path: Path) -> None:
        file = written(tmp_path, SHAREGPT)
        readings: list[dict[str, Any]] = [
            {},
            {"text_key": "conversations"},
            {"template": "{id}"},
            {"text_key": ".", "template": "{id}"},
            {"text_key": "conversations", "template": "{from}"},
            {"text_key": "conversations", "template": "{value}"},
            {"text_key": "conversations", "template": "{value}", "on_error": "skip"},
            {"text_key": "conversations", "template": "{value}", "encoding": "cp1252"},
        ]
        assert len({build(file, **options).fingerprint() for options in readings}) == len(readings)

    def test_array_that_was_skipped_as_lines_has_another_fingerprint_than_it_had(self, tmp_path: Path) -> None:
        file = written(tmp_path, '[\n{"text": "1"},\n{"text": "2"}\n]\n')
        assert build(file, on_error="skip").fingerprint() != "6862b580b812bc448386"
        assert build(file).fingerprint() == "1caef875d29f4fbb9418"  # it was an error


def test_fuzzed_files_are_read_or_refused(tmp_path: Path) -> None:
    source = random.Random(0)
    valid = [json.dumps(content, indent=indent) for content in (SHAREGPT, ALPACA, OPENAI) for indent in (None, 1)]
    for _ in range(500):
        content = list(source.choice(valid))
        for _ in range(source.randint(1, 4)):
            at = source.randrange(len(content))
            content[at : at + source.randint(0, 3)] = source.choice(['"', "{", "}", "[", "]", ",", "\n", "\\", "1", ""])
        file = written(tmp_path, "".join(content))
        for options in ({}, {"text_key": "conversations", "template": "{from}{value}"}, {"template": "{output}"}):
            for on_error in ("refuse", "skip"):
                with contextlib.suppress(DataError):
                    documents(file, on_error=on_error, **options)
