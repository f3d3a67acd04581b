"""The fast encoder gives the ids of `tokenizers` for any text, or is not used."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfs_tokenizers import bpe, bpe_trainer
from tfs_tokenizers.byte_level import FEW_CHARACTERS, LONGEST_TEXT, ByteLevelTokenizer
from tfs_tokenizers.fast_encoder import SEPARATOR, FastEncoder, fast_encoder

from tfs_core.errors import DataError

TEXTS = [
    "The quick brown fox isn't lazy; it's jumping, we've seen 12,345 of them. " * 30,
    "def encode(self, text: str) -> list[int]:\n\treturn [1, 22, 333]\n\n\n    # naïve\r\n" * 30,
    "Grüße, café — 東京東京 и Москва 🦊🦊 ٣٤٥ ½ नमस्ते " * 30,
    "aaaa aaaaaaa bababab abababa  aab aabaab " * 30,
]

hostile = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    | st.text(st.sampled_from("ab'sStTrRvedlLm \t\n\r\u00a0\u2028\u3000\u0085\x1c\u180e\u200b1٣½é\u0301東🦊.-_"))
    | st.sampled_from(["<|endoftext|>", SEPARATOR, SEPARATOR[1:], SEPARATOR[:-1], "\x00", "aaaa", "  a", "don't"]),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module")
def content() -> str:
    return bpe.train(iter(TEXTS), vocab_size=500, min_frequency=2)


@pytest.fixture(scope="module")
def fast(content: str) -> FastEncoder:
    made = encoder_of(content)
    assert made is not None
    return made


@pytest.fixture(scope="module")
def slow(content: str) -> Callable[[Sequence[str]], list[list[int]]]:
    tokenizer = tokenizers.Tokenizer.from_str(content)
    tokenizer.encode_special_tokens = True
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def encoder_of(content: str) -> FastEncoder | None:
    tokenizer = ByteLevelTokenizer(content)
    return fast_encoder(
        content,
        tokenizers.Tokenizer.from_str(content),
        [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size)],
    )


def lists(encoded: Sequence[Any]) -> list[list[int]]:
    return [ids.tolist() for ids in encoded]


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(hostile, max_size=5))
def test_fast_ids_are_those_of_tokenizers_for_hostile_text(fast: FastEncoder, slow: Any, texts: list[str]) -> None:
    assert lists(fast.encode_batch(texts)) == slow(texts)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(st.sampled_from("ab"), max_size=60), words=st.lists(st.text(st.sampled_from("ab"), min_size=1)))
def test_fast_ids_are_those_of_tokenizers_for_any_training_text(text: str, words: list[str]) -> None:
    content = bpe_trainer.train(iter([" ".join(words)]), vocab_size=300, min_frequency=1, special_tokens=())
    made, theirs = encoder_of(content), tokenizers.Tokenizer.from_str(content)
    assert made is not None
    assert made.encode_batch([text])[0].tolist() == theirs.encode(text).ids


@pytest.mark.parametrize("start", [0, 0x2000, 0xA000, 0x1E000, 0x30000, 0xE0000])
def test_fast_ids_are_those_of_tokenizers_for_every_character_of_a_block(
    fast: FastEncoder, slow: Any, start: int
) -> None:
    characters = [chr(code) for code in range(start, start + 0x2000) if not 0xD800 <= code < 0xE000]
    texts = [f"a{c}b1{c} {c}\n{c}  {c}{c}'{c}" for c in characters]
    assert lists(fast.encode_batch(texts)) == slow(texts)


@pytest.mark.parametrize("text", [" ", "a", "ab", "ACGT", "\n", " \n", "-", "東", "🦊", "é"])
def test_fast_ids_of_a_long_run_are_those_of_tokenizers(fast: FastEncoder, slow: Any, text: str) -> None:
    run = text * (60_000 // len(text))
    assert lists(fast.encode_batch([run, run + "x"])) == slow([run, run + "x"])


def test_fast_encoder_refuses_a_lone_surrogate(content: str) -> None:
    with pytest.raises(DataError, match="lone surrogate"):
        ByteLevelTokenizer(content).encode_batch(["a" * FEW_CHARACTERS, "b\ud800"])


def test_fast_encoder_is_thread_safe(fast: FastEncoder) -> None:
    texts = [text * n for n in range(1, 5) for text in TEXTS]
    alone = lists(fast.encode_batch(texts))
    with ThreadPoolExecutor(4) as pool:
        assert all(lists(encoded) == alone for encoded in pool.map(fast.encode_batch, [texts] * 20))


def test_tokenizer_encodes_much_text_fast_and_the_same(content: str, slow: Any) -> None:
    tokenizer = ByteLevelTokenizer(content)
    texts = [*TEXTS * 2, "", "a literal <|endoftext|>"]
    assert sum(map(len, texts)) > FEW_CHARACTERS
    encoded = tokenizer.encode_batch(texts)
    assert not isinstance(encoded[0], list)  # the fast encoder returns arrays
    assert lists(encoded) == slow(texts)


def test_tokenizer_leaves_a_very_long_text_to_tokenizers(content: str) -> None:
    run = " " * (LONGEST_TEXT + 1)
    tokenizer = ByteLevelTokenizer(content)
    assert tokenizer.decode(list(tokenizer.encode_batch([run])[0])) == run


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "words that are split differently": lambda rules: rules["pre_tokenizer"].update(use_regex=False),
    "ids not in the order of the merges": lambda rules: rules["model"]["merges"].reverse(),
    "words that are tokens at once, by no merge": lambda rules: (
        rules["model"].update(ignore_merges=True),
        rules["model"]["vocab"].update({"qqqq": 900}),
    ),
    "text that becomes a token before it is split": lambda rules: rules["added_tokens"].append(
        dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        | {"id": 901, "content": "added"}
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_fast_encoder_is_not_used_where_the_rules_do_not_fit(content: str, change: str) -> None:
    rules = json.loads(content)
    CHANGES[change](rules)
    assert encoder_of(json.dumps(rules)) is None


def test_token_that_no_merge_reaches_is_never_made(content: str) -> None:
    rules = json.loads(content)
    rules["model"]["vocab"]["qqqq"] = 900
    made = encoder_of(json.dumps(rules))
    assert made is not None
    assert 900 not in made.encode_batch(["qqqq qqqq"])[0]
