"""`file`: any lossless tokenizer.json, by path; others are refused with a one-line message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tfs_tokenizers import bpe, byte, character, file
from tfs_tokenizers.config import BpeConfig, FileConfig
from tfs_tokenizers.tokenizer_json import END_OF_TEXT
from tokenizers import Tokenizer
from tokenizers.models import WordLevel, WordPiece

from tfs_core.config.schema import Choice
from tfs_core.contracts import Tokenizer as TfsTokenizer
from tfs_core.data.prepare import build_tokenizer
from tfs_core.errors import DataError
from tfs_core.registry import get_registry

TEXTS = ["The quick brown fox — naïve, 東京 🦊. " * 30]


@pytest.fixture(scope="module")
def content() -> str:
    return bpe.train(iter(TEXTS), vocab_size=280, min_frequency=2, special_tokens=["<|user|>", "</s>"])


@pytest.fixture
def saved(content: str, tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    return tmp_path


def build(path: Path, **options: Any) -> TfsTokenizer:
    choice = Choice("tfs-tokenizers/file", FileConfig(path=path, **options))
    return build_tokenizer(choice, assets=path / "assets", offline=True, documents=None)


def change(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "tokenizer.json"
    rules = json.loads(path.read_text(encoding="utf-8"))
    how(rules)
    path.write_text(json.dumps(rules), encoding="utf-8")


def test_file_is_found_by_its_path_and_by_its_folder(saved: Path) -> None:
    assert build(saved).fingerprint() == build(saved / "tokenizer.json").fingerprint()


def test_file_is_saved_and_loaded_unchanged(saved: Path, tmp_path: Path) -> None:
    tokenizer = build(saved, end_of_text="</s>")
    (folder := tmp_path / "checkpoint").mkdir()
    tokenizer.save(folder)
    loaded = get_registry().find("tokenizer", "tfs-tokenizers/file").load_loader()(folder)
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.end_of_text_id == tokenizer.end_of_text_id
    assert (folder / "tokenizer.json").read_bytes() == (saved / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("tokenizer", [byte.ByteTokenizer(), character.CharacterTokenizer("éя")], ids=["byte", "char"])
def test_file_of_every_tokenizer_of_this_package_gives_its_ids(tokenizer: TfsTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    text = "naïve é я 東京 <|endoftext|>"
    assert list(build(tmp_path).encode_batch([text])[0]) == list(tokenizer.encode_batch([text])[0])


def test_special_tokens_are_known_by_name_and_never_made_of_text(saved: Path) -> None:
    tokenizer = file.read(saved / "tokenizer.json")
    assert tokenizer.special_tokens == {"<|user|>": 277, "</s>": 278, END_OF_TEXT: 279}  # type: ignore[attr-defined]
    text = "<|user|> hi </s>"
    ids = list(tokenizer.encode_batch([text])[0])
    assert not {277, 278, 279} & set(ids)
    assert tokenizer.decode([277, *ids, 278]) == text


def test_end_of_text_is_the_one_that_is_named(saved: Path) -> None:
    assert build(saved).end_of_text_id == 279
    assert build(saved, end_of_text="</s>").end_of_text_id == 278
    assert build(saved).fingerprint() != build(saved, end_of_text="</s>").fingerprint()


@pytest.mark.parametrize("token", ["</s>", {"content": "</s>", "lstrip": False}])
def test_end_of_text_is_read_from_the_configuration_in_the_same_folder(saved: Path, token: object) -> None:
    (saved / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}), encoding="utf-8")
    assert build(saved).end_of_text_id == 278


def test_end_of_text_is_found_by_common_names(saved: Path) -> None:
    change(saved, lambda rules: rules["added_tokens"].pop())
    assert build(saved).end_of_text_id == 278


def test_missing_end_of_text_is_an_error_that_lists_the_special_tokens(saved: Path) -> None:
    with pytest.raises(
        DataError, match=r"no special token <eot> to separate documents\. .* Its special tokens: <\|user\|>, </s>, "
    ):
        build(saved, end_of_text="<eot>")


def byte_level(**changes: object) -> dict[str, object]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True} | changes


LOSSY: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "normalizer": (lambda rules: rules.update(normalizer={"type": "NFKC"}), "changes text: NFKC"),
    "normalizers": (
        lambda rules: rules.update(
            normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFD"}, {"type": "Lowercase"}]}
        ),
        "changes text: NFD, Lowercase",
    ),
    "added token that is not normalized": (
        lambda rules: (
            rules.update(normalizer={"type": "NFC"}),
            rules["added_tokens"][0].update(special=False, content="<e\u0301>"),
        ),
        "changes text: the added token '<e\u0301>', which is not in the normal form NFC",
    ),
    "prefix space": (lambda rules: rules.update(pre_tokenizer=byte_level(add_prefix_space=True)), "add_prefix_space"),
    "whitespace": (lambda rules: rules.update(pre_tokenizer={"type": "WhitespaceSplit"}), "WhitespaceSplit"),
    "not byte-level": (lambda rules: rules.update(pre_tokenizer=None), r"\(BPE\) is not byte-level BPE"),
    "bytes that are missing": (
        lambda rules: (rules["model"]["vocab"].pop("Ā"), rules["model"].update(merges=[])),
        "lacks some of the 256 bytes",
    ),
    "suffix": (lambda rules: rules["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix '</w>'"),
    "prefix": (
        lambda rules: rules["model"].update(continuing_subword_prefix="##"),
        "continuing_subword_prefix '##'",
    ),
    "SentencePiece's": (
        lambda rules: rules.update(
            model=rules["model"] | {"byte_fallback": True},
            normalizer={"type": "Prepend", "prepend": "▁"},
            pre_tokenizer=None,
        ),
        "changes text: Prepend",
    ),
    "added token that removes whitespace": (
        lambda rules: rules["added_tokens"][0].update(special=False, lstrip=True),
        "removes whitespace around it",
    ),
}


@pytest.mark.parametrize("case", LOSSY)
def test_lossy_tokenizer_is_refused_in_one_line(saved: Path, case: str) -> None:
    how, expected = LOSSY[case]
    change(saved, how)
    with pytest.raises(DataError, match=expected) as caught:
        build(saved)
    assert str(saved / "tokenizer.json") in str(caught.value)
    assert "byte-level BPE" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tokenizer_that_encodes_randomly_is_refused(saved: Path) -> None:
    change(saved, lambda rules: rules["model"].update(dropout=0.1))
    with pytest.raises(DataError, match=r'encodes text randomly: .* a dropout of 0\.1\. Set "dropout" to null'):
        build(saved)


def test_tokenizer_without_special_tokens_is_refused_with_advice(saved: Path) -> None:
    change(saved, lambda rules: rules.update(added_tokens=[]))
    with pytest.raises(DataError, match=r"It has no special tokens: add one with the method `add_special_tokens`"):
        build(saved)


@pytest.mark.parametrize("model", [None, {}, {"type": "Imaginary"}])
def test_file_that_is_no_tokenizer_is_refused(saved: Path, model: object) -> None:
    change(saved, lambda rules: rules.update(model=model))
    with pytest.raises(DataError, match=r"is not a tokenizer that `tokenizers` can read|is not byte-level BPE"):
        build(saved)


@pytest.mark.parametrize("model", [WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"), WordLevel({"a": 0})])
def test_tokenizer_of_another_kind_is_refused(model: Any, tmp_path: Path) -> None:
    Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="is not byte-level BPE"):
        build(tmp_path)


def test_path_without_a_tokenizer_lists_the_trained_ones(tmp_path: Path) -> None:
    (trained := tmp_path / "assets" / "tokenizers" / "mine").mkdir(parents=True)
    (trained / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"there is no tokenizer\.json.*mine"):
        build(tmp_path)


def split_otherwise(rules: dict[str, Any]) -> None:
    """Change the pre-tokenizer to that of Llama 3."""
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    rules["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level(use_regex=False)]}


@settings(deadline=None, max_examples=100)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_tokenizer_that_splits_otherwise_keeps_any_text(
    content: str, tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "otherwise"
    if not folder.exists():
        folder.mkdir()
        (folder / "tokenizer.json").write_text(content, encoding="utf-8")
        change(folder, split_otherwise)
    tokenizer = file.read(folder / "tokenizer.json")
    ids = list(tokenizer.encode_batch([text])[0])
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())


def test_file_with_truncation_and_padding_encodes_whole_texts(saved: Path) -> None:
    change(
        saved,
        lambda rules: rules.update(
            truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
            padding={
                "strategy": {"Fixed": 64},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "!",
            },
        ),
    )
    tokenizer = build(saved)
    assert tokenizer.decode(list(tokenizer.encode_batch(["a longer text than that"])[0])) == "a longer text than that"


@pytest.mark.parametrize("names", [("",), (END_OF_TEXT,), ("<a>", "<a>")])
def test_special_tokens_have_to_be_different_names(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="different names"):
        BpeConfig(special_tokens=names)


@pytest.mark.parametrize("end_of_text", [END_OF_TEXT, "</s>"])
def test_saved_folder_is_loaded_by_transformers_unaided(content: str, tmp_path: Path, end_of_text: str) -> None:
    transformers = pytest.importorskip("transformers", reason="tests the saved files with it")
    (tmp_path / "read").mkdir()
    (tmp_path / "read" / "tokenizer.json").write_text(content, encoding="utf-8")
    ours = file.read(tmp_path / "read" / "tokenizer.json", end_of_text=end_of_text)
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS, " a literal <|endoftext|> and </s>  .", "e\u0301 \u00e9 🦊\r\n\t "):
        ids = theirs.encode(text)
        assert ids == list(ours.encode_batch([text])[0])
        assert theirs.decode(ids) == text
    assert theirs.eos_token_id == ours.end_of_text_id
    assert len(theirs) == ours.vocab_size
