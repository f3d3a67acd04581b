"""Tokenizers that normalize text to NFC, as Qwen's does: lossless but for that, which is told."""

import json
import logging
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tfs_lab.testing import TokenizerConformance
from tfs_tokenizers import bpe, file
from tfs_tokenizers.byte_level import FEW_CHARACTERS, ByteLevelTokenizer
from tokenizers import Tokenizer

from tfs_core.cli.main import tfs

QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)


def like_qwen(rules: dict[str, Any]) -> dict[str, Any]:
    """Return the rules of a `tokenizer.json` with the other rules of Qwen's."""
    split = {"type": "Split", "pattern": {"Regex": QWEN_WORDS}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    n_ids = len(rules["model"]["vocab"]) + 1
    return rules | {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": level,
        "decoder": level,
        "added_tokens": [
            *rules["added_tokens"],
            {"id": n_ids, "content": "<|im_start|>", "special": True} | FLAGS,
            {"id": n_ids + 1, "content": "<|im_end|>", "special": True} | FLAGS,
            {"id": n_ids + 2, "content": "<think>", "special": False} | FLAGS,
        ],
    }


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small tokenizer with Qwen's rules."""
    content = bpe.train(iter(["the quick brown fox, naïve café 東京 12 été\n" * 30]), vocab_size=320, min_frequency=2)
    folder = tmp_path_factory.mktemp("qwen")
    (folder / "tokenizer.json").write_text(json.dumps(like_qwen(json.loads(content))), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}', encoding="utf-8")
    return folder


@pytest.fixture
def tokenizer(qwen: Path) -> ByteLevelTokenizer:
    read = file.read(qwen / "tokenizer.json")
    assert isinstance(read, ByteLevelTokenizer)
    return read


class TestLikeQwen(TokenizerConformance):
    name = "file"

    @pytest.fixture(autouse=True)
    def _use(self, qwen: Path) -> None:
        self.config = {"path": str(qwen)}


def test_only_text_in_another_form_is_changed(tokenizer: ByteLevelTokenizer) -> None:
    texts = ["caf\u00e9 <think>\n", "cafe\u0301 <think>\n", "\u212b"]
    decoded = [tokenizer.decode([int(i) for i in ids]) for ids in tokenizer.encode_batch(texts)]
    assert decoded == ["caf\u00e9 <think>\n", "caf\u00e9 <think>\n", "\u00c5"]


@settings(deadline=None, max_examples=300)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"])) | st.text(st.sampled_from("eé\u0301\u0323\u212bﬁ가ᄀ <th"))
)
def test_any_text_comes_back_with_the_same_normal_form(qwen: Path, text: str) -> None:
    tokenizer = file.read(qwen / "tokenizer.json")
    ids = [int(i) for i in tokenizer.encode_batch([text])[0]]
    decoded = tokenizer.decode(ids)
    assert unicodedata.normalize("NFC", decoded) == unicodedata.normalize("NFC", text)
    assert tokenizer.byte_lengths()[ids].sum() == len(decoded.encode())
    if unicodedata.is_normalized("NFC", text):
        assert decoded == text


def test_much_text_has_the_ids_of_tokenizers(tokenizer: ByteLevelTokenizer, qwen: Path) -> None:
    text = "the cafe\u0301 " * FEW_CHARACTERS  # more than is encoded without the fast encoder
    theirs = Tokenizer.from_file(str(qwen / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    assert list(tokenizer.encode_batch([text])[0]) == theirs


def test_change_is_told_once(tokenizer: ByteLevelTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tokenizer.encode_batch(["caf\u00e9"])
        assert caplog.messages == []
        tokenizer.encode_batch(["caf\u00e9", "cafe\u0301", "\u212b"])
        tokenizer.encode_batch(["cafe\u0301"])
    (message,) = caplog.messages
    assert r"'e\u0301' comes back as '\xe9', for example." in message


def test_tokenizer_without_normalization_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = ByteLevelTokenizer(bpe.train(iter(["ab"]), vocab_size=257, min_frequency=2))
    assert tokenizer.normalization is None
    tokenizer.encode_batch(["cafe\u0301"])
    assert caplog.messages == []


@pytest.fixture
def compare(tmp_path: Path, qwen: Path) -> Callable[..., str]:
    def run(text: str, *options: str) -> str:
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        data = f"{{name: text, path: {tmp_path / 'a.txt'}}}"
        result = CliRunner().invoke(tfs, ["tokenizer", "compare", str(qwen), "byte", "--data", data, *options])
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_comparison_says_what_is_lost(compare: Callable[..., str]) -> None:
    in_table = compare("the cafe\u0301\n" * 50)
    assert [line.split("  ")[-1] for line in in_table.splitlines()[1:]] == ["up to NFC: 1 of 1 text changed", "yes"]
    assert "up to NFC: 0 of 1 text changed" in compare("the caf\u00e9\n" * 50)
    in_json = json.loads(compare("the cafe\u0301\n" * 50, "--json"))["tokenizers"]
    assert [(row["lossless"], row["normalization"], row["changed_texts"]) for row in in_json] == [
        (False, "NFC", 1),
        (True, None, 0),
    ]
