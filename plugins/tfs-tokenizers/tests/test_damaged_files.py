"""Damaged and hostile files: a tokenizer is lossless, or its loader raises a TfsError, in bounded time and memory."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tfs_tokenizers import bpe, byte, byte_level, character, file, gpt2, named, tokenizer_json
from tfs_tokenizers.byte_level import FEW_CHARACTERS
from tfs_tokenizers.config import BpeConfig, FileConfig
from tfs_tokenizers.tokenizer_json import LARGEST_FILE, write_tokenizer

from tfs_core.contracts import Tokenizer
from tfs_core.errors import DataError, TfsError

TEXTS = [
    "",
    "the fox's naïve é 東京 🦊 <|endoftext|> <|user|> the\n\t  12 0.5 \r\n",
    "the quick brown fox, the naïve fox. " * (FEW_CHARACTERS // 30),
]
MUTANTS = int(os.environ.get("TFS_TOKENIZER_MUTANTS", "60"))
"""Number of mutants of each file; more of them for a longer search."""


BUILD: dict[str, Any] = {"assets": Path("assets"), "offline": True, "documents": None}


def load_gpt2(folder: Path) -> Tokenizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt2, "PACKAGE", "a-package-that-is-not-installed")
        patch.setattr(gpt2, "from_hub", lambda *_arguments, **_options: folder / "tokenizer.json")
        return gpt2.build(None, assets=folder, offline=True, documents=None)


LOADERS: dict[str, Callable[[Path], Tokenizer]] = {
    "byte": byte.load,
    "character": character.load,
    "bpe": byte_level.load,
    "file": file.load,
    "file of byte": file.load,
    "file of character": file.load,
    "file of Llama": file.load,
    "gpt2": load_gpt2,
}


@pytest.fixture(scope="module")
def contents(gpt2_content: str) -> dict[str, str]:
    """Return a valid `tokenizer.json` for each of the loaders."""
    trained = bpe.train(iter(["the quick brown fox — naïve 東京 🦊. " * 30]), vocab_size=290, min_frequency=2)
    of_byte, of_characters = byte.ByteTokenizer().to_json(), character.CharacterTokenizer("éя東🦊").to_json()
    return {
        "byte": of_byte,
        "character": of_characters,
        "bpe": trained,
        "file": trained,
        "file of byte": of_byte,
        "file of character": of_characters,
        "file of Llama": json.dumps(like_llama(json.loads(trained))),
        "gpt2": gpt2_content,
    }


def like_llama(rules: dict[str, Any]) -> dict[str, Any]:
    """Return rules with the other features of a `tokenizer.json`: a split, a post-processor, several added tokens."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    split = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}| ?\p{L}+|\s+"}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    template = [{"SpecialToken": {"id": "<|user|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return rules | {
        "added_tokens": [
            *rules["added_tokens"],
            {"id": 290, "content": "<|user|>", "special": True} | flags,
            {"id": 291, "content": "<tool>", "special": False} | flags,
        ],
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 64},
            "direction": "Right",
            "pad_to_multiple_of": 8,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "!",
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|user|>": {"id": "<|user|>", "ids": [290], "tokens": ["<|user|>"]}},
        },
    }


def nested(depth: int, *, key: str | None = None) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value] if key is None else {"type": "Sequence", key: [value]}
    return value


HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 255, 2**22, 2**31, 2**32 - 1, 2**32, 2**63, 10**30, -(2**63), 0.5, 1e308),
    *(float("nan"), float("inf")),
    *(
        "",
        "a",
        "e",
        "\ud800",
        "Ġthe",
        "<|endoftext|>",
        "BPE",
        "ByteLevel",
        "Sequence",
        "Removed",
        "(((",
        "(a*)*$",
        "\x00",
    ),
    *([], {}, [None], ["a"], [["a", "b"]], {"": 0}, {"a": -1}, nested(200), nested(40, key="pretokenizers")),
]


def mutate_json(rules: Any, choose: random.Random) -> str:
    """Return JSON text in which one to three values are changed, removed, renamed, repeated or swapped."""
    for _ in range(choose.randint(1, 3)):
        parent, key = place(rules, choose)
        kind = choose.randrange(6)
        if kind <= 1:
            parent[key] = choose.choice(HOSTILE)
        elif kind == 2:
            del parent[key]
        elif kind == 3 and isinstance(parent, dict):
            parent[choose.choice([*"abeé", "", "\ud800", "Ġ", "type", "special"])] = parent.pop(key)
        elif kind == 3:
            parent.insert(choose.randrange(len(parent) + 1), parent[key])
        else:
            other, other_key = place(rules, choose)
            parent[key] = json.loads(json.dumps(other[other_key]))  # a copy: a cycle could not be written
    return json.dumps(rules, ensure_ascii=choose.random() < 0.5)


def place(rules: Any, choose: random.Random) -> tuple[Any, Any]:
    """Return a random container of the rules and a random key of it, mostly near the root."""
    parent, key = rules, choose.choice([*rules] or [None])
    if key is None:
        rules["version"], key = "1.0", "version"
    while isinstance(parent[key], dict | list) and parent[key] and choose.random() < 0.8:
        parent = parent[key]
        key = choose.choice([*parent]) if isinstance(parent, dict) else choose.randrange(len(parent))
    return parent, key


def mutate_bytes(content: bytes, choose: random.Random) -> bytes:
    """Return the content truncated, with flipped bits, with a repeated part, or with other bytes in it."""
    at = choose.randrange(len(content))
    kind = choose.randrange(4)
    if kind == 0:
        return content[:at]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(choose.randint(1, 4)):
            changed[choose.randrange(len(changed))] ^= 1 << choose.randrange(8)
        return bytes(changed)
    if kind == 2:
        return content[:at] + content[max(at - choose.randint(1, 30), 0) :]
    junk = [
        b"\xff",
        b"\x00",
        b"\xed\xa0\x80",
        b"\\ud800",
        b"9" * 5000,
        b"[" * 2000,
        b"-",
        b"1e999",
        b"NaN",
        b"\xef\xbb\xbf",
    ]
    return content[:at] + choose.choice(junk) + content[at:]


def check_bounded(load: Callable[[Path], Tokenizer], folder: Path) -> bool:
    """Return whether the folder has a tokenizer, which must be lossless. An exception other than a TfsError fails."""
    message = ""
    try:
        tokenizer = load(folder)
    except TfsError as error:
        message = str(error)
    if message:
        assert len(message.encode("utf-8")) < 2000, "the message repeats the file"
        return False
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert tokenizer.decode([int(token_id) for token_id in ids]) == text
    assert len(tokenizer.byte_lengths()) == tokenizer.vocab_size
    return True


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", LOADERS)
def test_mutant_of_a_file_is_lossless_or_an_error(
    kind: str, seed: int, contents: dict[str, str], tmp_path: Path
) -> None:
    choose = random.Random(f"{kind} {seed}")
    content, path = contents[kind], tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    assert check_bounded(LOADERS[kind], tmp_path)
    for number in range(MUTANTS if kind != "gpt2" else MUTANTS // 20):
        if number % 4:
            mutant = mutate_json(json.loads(content), choose).encode("utf-8", "surrogatepass")
        else:
            mutant = mutate_bytes(content.encode("utf-8"), choose)
        path.write_bytes(mutant)
        check_bounded(LOADERS[kind], tmp_path)


def change(contents: dict[str, str], kind: str, how: Callable[[dict[str, Any]], object]) -> str:
    rules = json.loads(contents[kind])
    how(rules)
    return json.dumps(rules)


def step(**settings: object) -> dict[str, object]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False} | settings


CASES: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "huge id": (
        "bpe",
        lambda rules: rules["model"]["vocab"].update(zz=2**31),
        "has the id 2147483648, and ids must be",
    ),
    "id at the limit": ("bpe", lambda rules: rules["model"]["vocab"].update(zz=1 << 22), "has the id 4194304"),
    "id of no vocabulary": ("bpe", lambda rules: rules["model"]["vocab"].update(zz=-1), "can read: invalid value"),
    "model of gpt2 that is a list": ("gpt2", lambda rules: rules.update(model=[]), "is not GPT-2's tokenizer"),
    "same id twice": ("bpe", lambda rules: rules["model"]["vocab"].update(zz=280), "have the same id"),
    "special token that is text": (
        "bpe",
        lambda rules: rules["added_tokens"].append(rules["added_tokens"][0] | {"id": 300, "content": "Ġfox"}),
        "the added token 'Ġfox' also stands for the text b' fox'",
    ),
    "literal token that is other text": (
        "bpe",
        lambda rules: rules["added_tokens"].append(
            rules["added_tokens"][0] | {"id": 300, "content": "Ġfox", "special": False}
        ),
        "also stands for the text b' fox'",
    ),
    "two steps of ByteLevel": (
        "bpe",
        lambda rules: rules.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [step(), step()]}),
        "has several ByteLevel steps",
    ),
    "steps within steps": (
        "bpe",
        lambda rules: rules.update(pre_tokenizer=nested(300, key="pretokenizers")),
        "nested too deeply",
    ),
    "vocabulary that is true": (
        "character",
        lambda rules: rules["model"].update(vocab=True),
        "was not written by the tokenizer 'character'",
    ),
    "added tokens that are numbers": ("file", lambda rules: rules.update(added_tokens=[1]), "its added_tokens are not"),
    "lone surrogate": ("character", lambda rules: rules["model"]["vocab"].update({"\ud800": 1}), "is damaged"),
    "message as long as the file": ("bpe", lambda rules: rules["model"].update(dropout=["a" * 5000]), "randomly"),
}


@pytest.mark.parametrize("case", CASES)
def test_hostile_file_is_an_error_that_names_it(case: str, contents: dict[str, str], tmp_path: Path) -> None:
    kind, how, expected = CASES[case]
    (tmp_path / "tokenizer.json").write_text(change(contents, kind, how), encoding="utf-8")
    with pytest.raises(TfsError, match=expected) as caught:
        LOADERS[kind](tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(caught.value)
    assert len(str(caught.value)) < 1200


READ = [(kind, "tokenizer.json") for kind in LOADERS] + [(kind, "tokenizer_config.json") for kind in ("bpe", "file")]
"""Loaders, and the files that they read."""


@pytest.mark.parametrize(("kind", "name"), READ)
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"model": ' * 5_000 + b"1" + b"}" * 5_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5_000 + b"}", "is damaged"),
        (b'{"a": NaN}', "it contains NaN"),
        (b'{"a": "\\ud800"}', "is damaged"),
        (b"\xff", "is damaged"),
        (b"7", "is not a JSON object"),
    ],
    ids=["deep list", "deep object", "digits", "NaN", "surrogate", "bytes", "number"],
)
def test_file_that_is_not_json_is_an_error(
    kind: str, name: str, content: bytes, expected: str, contents: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text(contents[kind], encoding="utf-8")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TfsError, match=expected) as caught:
        LOADERS[kind](tmp_path)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_huge_id_of_gpt2_never_gets_to_the_library_which_would_write_a_list_of_all_smaller_ids(
    contents: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = change(contents, "gpt2", lambda rules: rules["model"]["vocab"].update(zz=2**31))
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    vocabularies: list[object] = []
    monkeypatch.setattr(gpt2, "BPE", lambda vocabulary, _merges: vocabularies.append(vocabulary))
    with pytest.raises(DataError, match="is not GPT-2's tokenizer"):
        load_gpt2(tmp_path)
    assert vocabularies == []


@pytest.mark.parametrize("template", [[], [{"Sequence": {"id": "A", "type_id": 0}}] * 2], ids=["empty", "twice"])
def test_template_of_a_post_processor_changes_no_text(
    template: list[Any], contents: dict[str, str], tmp_path: Path
) -> None:
    content = change(contents, "file of Llama", lambda rules: rules["post_processor"].update(single=template))
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    assert check_bounded(file.load, tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("special", ["pipe", "device"])
def test_file_that_is_a_pipe_or_a_device_is_not_read(
    name: str, special: str, contents: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text(contents["file"], encoding="utf-8")
    (tmp_path / name).unlink(missing_ok=True)
    if special == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    for load in (file.load, byte_level.load, lambda folder: file.build(FileConfig(path=folder), **BUILD)):
        with pytest.raises(TfsError, match=f"{name} is not a regular file"):
            load(tmp_path)
    with pytest.raises(TfsError, match=r"exists with other content"):
        write_tokenizer(tmp_path, contents["file"])


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_huge_file_is_not_read(name: str, contents: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(contents["file"], encoding="utf-8")
    with (tmp_path / name).open("ab") as opened:
        opened.truncate(LARGEST_FILE + 1)  # sparse: takes no space
    for load in (file.load, byte_level.load):
        with pytest.raises(TfsError, match=f"{name} has more than 268,435,456 bytes, so it is not read"):
            load(tmp_path)


def test_tokenizer_too_large_to_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_json, "LARGEST_FILE", 3 << 20)
    with pytest.raises(DataError, match="would have 4 MiB, and at most 3 MiB can be read"):
        write_tokenizer(tmp_path, "é" * (2 << 20))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["byte", "character", "bpe"])
def test_saving_into_a_folder_never_replaces_another_tokenizer(
    kind: str, contents: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(contents[kind], encoding="utf-8")
    tokenizer = LOADERS[kind](tmp_path)
    tokenizer.save(tmp_path)  # the same content
    path.write_text(contents["file of Llama"], encoding="utf-8")
    with pytest.raises(DataError, match=r"tokenizer\.json exists with other content, and is not replaced"):
        tokenizer.save(tmp_path)
    assert path.read_text(encoding="utf-8") == contents["file of Llama"]


@pytest.mark.parametrize("how", ["truncated", "another tokenizer", "pipe"])
def test_damaged_tokenizer_in_the_cache_is_trained_again(how: str, contents: dict[str, str], tmp_path: Path) -> None:
    text = named.TrainingText(named.dataset(f"{{name: text, path: {Path(__file__)}}}", assets=tmp_path))
    first = bpe.build(BpeConfig(vocab_size=262), **BUILD | {"assets": tmp_path, "documents": text})
    (cached,) = tmp_path.glob("tokenizers/*/tokenizer.json")
    content = cached.read_bytes()
    cached.unlink()
    if how == "pipe":
        os.mkfifo(cached)
    else:
        cached.write_bytes(content[:-9] if how == "truncated" else contents["character"].encode("utf-8"))
    again = bpe.build(BpeConfig(vocab_size=262), **BUILD | {"assets": tmp_path, "documents": text})
    assert again.fingerprint() == first.fingerprint()
    assert cached.read_bytes() == content


def test_regular_expression_that_backtracks_too_long_is_an_error() -> None:
    rules = json.loads(byte.ByteTokenizer().to_json())
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    rules["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, rules["pre_tokenizer"]]}
    tokenizer = byte_level.ByteLevelTokenizer(json.dumps(rules))
    for repeats in (100, 2 * FEW_CHARACTERS):
        with pytest.raises(DataError, match=r"fails on the rules of this tokenizer: .*retry-limit"):
            tokenizer.encode_batch(["a" * repeats + "!"])
