"""Contract of every tokenizer: lossless, no text is encoded to a special id, exact byte counts."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfs_tokenizers import bpe, byte, character
from tfs_tokenizers.config import BpeConfig, CharacterConfig
from tfs_tokenizers.kept import locked

from tfs_core.config.schema import Choice
from tfs_core.contracts import Tokenizer
from tfs_core.data.prepare import build_tokenizer
from tfs_core.errors import DataError
from tfs_core.registry import get_registry

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TEXTS = [
    "The quick brown fox jumps over the lazy dog. " * 20,
    "def encode(self, text: str) -> list[int]:\n\treturn [1, 22, 333]\n" * 20,
    "Grüße, naïve café — 東京 и Москва 🦊🦊 " * 20,
]


class Texts:
    """Training text that counts how often it is read."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        self.fingerprint = repr(texts)
        self.read = 0

    def __call__(self) -> Iterator[str]:
        self.read += 1
        yield from self._texts


NAMES = ["byte", "character", "bpe"]
OPTIONS: dict[str, Any] = {"byte": None, "character": CharacterConfig(), "bpe": BpeConfig(vocab_size=320)}


def build(name: str, assets: Path, texts: Any = None) -> Tokenizer:
    choice = Choice(f"tfs-tokenizers/{name}", OPTIONS[name])
    return build_tokenizer(choice, assets=assets, offline=True, documents=texts or Texts(TEXTS))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tokenizer]:
    assets = tmp_path_factory.mktemp("assets")
    made = {name: build(name, assets) for name in NAMES}
    return made.__getitem__


any_text = st.text(st.characters(exclude_categories=["Cs"])) | st.text(st.sampled_from("the def🦊\n\t <|endoftext>"))


@pytest.mark.parametrize("name", NAMES)
@settings(untimed, max_examples=200)
@given(text=any_text)
def test_any_unicode_text_survives(built: Callable[[str], Tokenizer], name: str, text: str) -> None:
    tokenizer = built(name)
    ids = list(tokenizer.encode_batch([text])[0])
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())
    assert all(0 <= token_id < tokenizer.vocab_size for token_id in ids)
    assert tokenizer.end_of_text_id not in ids


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "<|endoftext|>",
        "a<|endoftext|>b",
        " <|endoftext|> ",
        "<0x41>",
        "<0xE2>",
        "\x00\x01\x7f\x80\xff",
        "\ufeff\ufffe\uffff\U0010ffff",
        "e\u0301 \u0065\u0301 \u00e9",
        "\r\n\r\r\n \u2028\u00a0\u3000",
        "👨‍👩‍👧‍👦🏳️‍🌈",
        "ﷺ" * 50,
        "ĠĊ",
        "a" * 100_000,
    ],
)
def test_hostile_text_survives(built: Callable[[str], Tokenizer], name: str, text: str) -> None:
    tokenizer = built(name)
    ids = list(tokenizer.encode_batch([text])[0])
    assert tokenizer.decode(ids) == text
    assert tokenizer.end_of_text_id not in ids


@pytest.mark.parametrize("name", NAMES)
def test_batch_gives_the_ids_of_each_text_in_order(built: Callable[[str], Tokenizer], name: str) -> None:
    tokenizer = built(name)
    together = [list(ids) for ids in tokenizer.encode_batch([*TEXTS, ""])]
    assert together == [list(tokenizer.encode_batch([text])[0]) for text in [*TEXTS, ""]]
    assert list(tokenizer.encode_batch([])) == []


@pytest.mark.parametrize("name", NAMES)
def test_lone_surrogate_is_an_error(built: Callable[[str], Tokenizer], name: str) -> None:
    with pytest.raises(DataError, match=r"lone surrogate U\+DC80"):
        built(name).encode_batch(["fine", "not \udc80"])


@pytest.mark.parametrize("name", NAMES)
def test_special_id_stands_for_no_text(built: Callable[[str], Tokenizer], name: str) -> None:
    tokenizer = built(name)
    end = tokenizer.end_of_text_id
    assert tokenizer.byte_lengths()[end] == 0
    assert tokenizer.decode([end, *tokenizer.encode_batch(["ab"])[0], end]) == "ab"


@pytest.mark.parametrize("name", NAMES)
def test_byte_lengths_are_those_of_every_id(built: Callable[[str], Tokenizer], name: str) -> None:
    tokenizer = built(name)
    lengths = tokenizer.byte_lengths()
    assert (lengths.dtype, lengths.shape) == (np.int64, (tokenizer.vocab_size,))
    assert lengths.tolist() == [len(tokenizer.decode_bytes([token_id])) for token_id in range(tokenizer.vocab_size)]
    assert sorted(np.flatnonzero(lengths == 0)) == [tokenizer.end_of_text_id]


@pytest.mark.parametrize("name", NAMES)
def test_half_a_character_decodes_to_the_replacement_character(built: Callable[[str], Tokenizer], name: str) -> None:
    tokenizer = built(name)
    ids = list(tokenizer.encode_batch(["\U0010fffd"])[0])  # in no training text: byte fallback
    assert len(ids) > 1
    assert tokenizer.decode(ids[:1]) == "\ufffd"
    assert tokenizer.decode_bytes(ids[:1]) == b"\xf4"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [-1, 10**6])
def test_id_outside_the_vocabulary_is_an_error(built: Callable[[str], Tokenizer], name: str, bad: int) -> None:
    with pytest.raises(DataError, match=f"{bad} is not a token id"):
        built(name).decode([bad])


@pytest.mark.parametrize("name", NAMES)
def test_saved_tokenizer_is_the_same_when_loaded(built: Callable[[str], Tokenizer], name: str, tmp_path: Path) -> None:
    tokenizer = built(name)
    tokenizer.save(tmp_path)
    loaded = get_registry().find("tokenizer", f"tfs-tokenizers/{name}").load_loader()(tmp_path)
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert (loaded.vocab_size, loaded.end_of_text_id) == (tokenizer.vocab_size, tokenizer.end_of_text_id)
    text = "<|endoftext|> naïve 東京 fox \U0001f9ff"
    assert list(loaded.encode_batch([text])[0]) == list(tokenizer.encode_batch([text])[0])


@pytest.mark.parametrize("name", NAMES)
@settings(untimed, max_examples=60)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_saved_file_is_the_same_tokenizer_for_hugging_face(
    built: Callable[[str], Tokenizer], tmp_path_factory: pytest.TempPathFactory, name: str, text: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"saved-{name}"
    if not folder.exists():
        folder.mkdir()
        built(name).save(folder)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True  # split_special_tokens in transformers
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert ids == list(built(name).encode_batch([text])[0])
    assert theirs.decode(ids) == text
    assert theirs.token_to_id("<|endoftext|>") == built(name).end_of_text_id


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[]"])
def test_folder_without_a_whole_tokenizer_is_an_error(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        get_registry().find("tokenizer", f"tfs-tokenizers/{name}").load_loader()(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_loader_refuses_the_file_of_another_tokenizer(
    built: Callable[[str], Tokenizer], name: str, tmp_path: Path
) -> None:
    built({"byte": "character", "character": "bpe", "bpe": "character"}[name]).save(tmp_path)
    reason = "is not byte-level BPE" if name == "bpe" else f"was not written by the tokenizer '{name}'"
    with pytest.raises(DataError, match=reason):
        get_registry().find("tokenizer", f"tfs-tokenizers/{name}").load_loader()(tmp_path)


def test_byte_ids_are_the_bytes() -> None:
    assert [ids.tolist() for ids in byte.ByteTokenizer().encode_batch(["aé"])] == [[97, 195, 169]]


def test_character_ids_are_bytes_then_characters_in_order_then_end_of_text() -> None:
    tokenizer = character.train(iter(["aéb", "zя"]), min_frequency=1)
    assert [ids.tolist() for ids in tokenizer.encode_batch(["aéяœ"])] == [[97, 256, 257, 197, 147]]
    assert tokenizer.end_of_text_id == 258


def test_character_too_rare_is_spelled_in_bytes() -> None:
    tokenizer = character.train(iter(["éé", "я"]), min_frequency=2)
    assert [ids.tolist() for ids in tokenizer.encode_batch(["éя"])] == [[256, 209, 143]]


def test_bpe_has_as_many_ids_as_asked_for_and_ends_with_end_of_text(built: Callable[[str], Tokenizer]) -> None:
    assert (built("bpe").vocab_size, built("bpe").end_of_text_id) == (320, 319)


def test_bpe_makes_text_shorter(built: Callable[[str], Tokenizer]) -> None:
    assert len(built("bpe").encode_batch([TEXTS[0]])[0]) < 0.7 * len(TEXTS[0])


def test_bpe_that_finds_too_few_pairs_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):  # when trained, and when taken from the cache
        caplog.clear()
        choice, texts = Choice("bpe", BpeConfig(vocab_size=1000)), Texts(["ab ab ab"])
        tokenizer = build_tokenizer(choice, assets=tmp_path, offline=True, documents=texts)  # type: ignore[arg-type]
        assert f"gives {tokenizer.vocab_size} ids, not the 1000 of vocab_size" in caplog.text


def test_bpe_training_is_the_same_in_another_process() -> None:
    here = bpe.train(iter(TEXTS), vocab_size=320, min_frequency=2)
    script = (
        "import sys, json; from tfs_tokenizers import bpe;"
        "print(bpe.train(iter(json.loads(sys.argv[1])), vocab_size=320, min_frequency=2))"
    )
    there = subprocess.run(
        [sys.executable, "-c", script, json.dumps(TEXTS)], capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert json.loads(there) == json.loads(here)


@pytest.mark.parametrize("name", ["character", "bpe"])
class TestCache:
    """Trained tokenizers are cached."""

    def test_trained_tokenizer_is_reused_when_nothing_changed(self, name: str, tmp_path: Path) -> None:
        first = build(name, tmp_path)
        texts = Texts(TEXTS)
        assert build(name, tmp_path, texts).fingerprint() == first.fingerprint()
        assert texts.read == 0

    def test_other_text_trains_another_tokenizer(self, name: str, tmp_path: Path) -> None:
        first = build(name, tmp_path)
        texts = Texts(["something else: ẞ, " * 9])
        assert build(name, tmp_path, texts).fingerprint() != first.fingerprint()
        assert texts.read == 1

    def test_other_options_train_another_tokenizer(self, name: str, tmp_path: Path) -> None:
        build(name, tmp_path)
        texts = Texts(TEXTS)
        options = {"character": CharacterConfig(min_frequency=3), "bpe": BpeConfig(vocab_size=300)}[name]
        build_tokenizer(Choice(name, options), assets=tmp_path, offline=True, documents=texts)  # type: ignore[arg-type]
        assert texts.read == 1

    def test_damaged_tokenizer_is_trained_again(self, name: str, tmp_path: Path) -> None:
        first = build(name, tmp_path)
        (cached,) = tmp_path.glob("tokenizers/*/tokenizer.json")
        cached.write_bytes(cached.read_bytes()[:-10])
        assert build(name, tmp_path).fingerprint() == first.fingerprint()

    def test_no_training_text_is_an_error(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=f"'{name}' needs training text"):
            build_tokenizer(Choice(name, OPTIONS[name]), assets=tmp_path, offline=True, documents=None)

    def test_folder_that_cannot_be_written_is_an_error(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "tokenizers").write_text("a file where a folder should be", encoding="utf-8")
        with pytest.raises(DataError, match=r"cannot be written: .*--assets"):
            build(name, tmp_path)


TRAIN = """
import os, sys, time
from pathlib import Path
from tfs_tokenizers import bpe
from tfs_tokenizers.config import BpeConfig
class Slow:
    fingerprint = "slow"
    def __call__(self):
        print("reading", flush=True)
        deadline = time.monotonic() + 60
        while len(list(started.glob("*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        yield "the same text for both " * 60
started = Path(sys.argv[1], "started")
started.mkdir(exist_ok=True)
(started / str(os.getpid())).touch()
tokenizer = bpe.build(BpeConfig(vocab_size=270), assets=Path(sys.argv[1]), offline=True, documents=Slow())
print("ids", tokenizer.vocab_size)
"""


def test_two_processes_that_want_the_same_bpe_train_it_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRAIN, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert all("ids 270" in output for output in outputs)
    assert sorted("reading" in output for output in outputs) == [False, True]


@pytest.mark.parametrize(
    ("config", "values"),
    [(BpeConfig, {"vocab_size": 256}), (BpeConfig, {"min_frequency": 0}), (CharacterConfig, {"min_frequency": 0})],
)
def test_invalid_option_is_an_error(config: type, values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        config(**values)


def test_process_that_waits_for_the_training_of_another_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build("bpe", tmp_path)
    (folder,) = (tmp_path / "tokenizers").iterdir()
    (folder / "tokenizer.json").unlink()
    with ThreadPoolExecutor() as pool:
        with locked(folder):
            waiting = pool.submit(build, "bpe", tmp_path)
            while "another process is training this tokenizer: waiting for it" not in caplog.messages:
                assert not waiting.done()
        assert waiting.result().vocab_size == 320
