"""The bigram logger: correct values, probabilities that sum to 1, vocabularies of any size."""

import math
from pathlib import Path

import numpy as np
import pytest
from tfs_lab import bigram
from tfs_lab.bigram import bigram_bits_per_byte

import tfs_core
from tfs_core.contracts import RunContext, RunLogger
from tfs_core.data.store import TokenSplit, open_store
from tfs_core.runs import Run
from tfs_core.trained import load_model

END = 3


def split_of(tokens: list[int]) -> TokenSplit:
    array = np.array(tokens, dtype=np.uint16)
    return TokenSplit(array, np.concatenate([[0], np.flatnonzero(array == END) + 1]), 0)


BYTE_LENGTHS = np.array([1, 1, 2, 0])


@pytest.fixture(params=["table", "sorted pairs"])
def any_counts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test with the dense and with the sparse counts."""
    if request.param == "sorted pairs":
        monkeypatch.setattr(bigram, "TABLE_CELLS", 0)


@pytest.mark.usefixtures("any_counts")
def test_bigram_of_a_strict_alternation_is_nearly_certain() -> None:
    text = split_of(([0, 1] * 50 + [END]) * 40)
    assert bigram_bits_per_byte(text, text, 4, BYTE_LENGTHS) < 0.1


@pytest.mark.usefixtures("any_counts")
def test_bigram_of_fair_coins_is_one_bit_a_byte() -> None:
    rng = np.random.default_rng(0)
    train, validation = (split_of([*rng.integers(0, 2, 20_000).tolist(), END]) for _ in range(2))
    assert bigram_bits_per_byte(train, validation, 4, BYTE_LENGTHS) == pytest.approx(1.0, abs=0.01)


@pytest.mark.usefixtures("any_counts")
def test_bigram_counts_the_nats_of_end_of_text_but_no_bytes_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigram, "STRENGTHS", (2.0,))
    train, validation = split_of([0, 1, 2, END, 0, 2, END]), split_of([0, 2, END])
    # unigrams (count + 1) / (7 + 4): 0 3/11, 1 2/11, 2 3/11, END 3/11; contexts: END 2 (one before all), 0 2, 1 1, 2 2
    expected = -sum(map(math.log, [(2 + 2 * 3 / 11) / (2 + 2), (1 + 2 * 3 / 11) / (2 + 2), (2 + 2 * 3 / 11) / (2 + 2)]))
    assert bigram_bits_per_byte(train, validation, 4, BYTE_LENGTHS) == pytest.approx(expected / math.log(2) / 3)


@pytest.mark.usefixtures("any_counts")
def test_bigram_probabilities_after_any_token_add_up_to_one() -> None:
    counted = bigram._Bigram(np.array([3, 0, 1, 2, 3, 0, 2, 3]), 5)
    for context in range(5):
        nats = [counted.nats(np.array([context, target]), [0.7])[0] for target in range(5)]
        assert sum(math.exp(-nat) for nat in nats) == pytest.approx(1.0)


def test_bigram_is_the_same_with_either_way_of_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    train, validation = (split_of([*(rng.integers(0, 9, 3000) % 3).tolist(), END]) for _ in range(2))
    table = bigram_bits_per_byte(train, validation, 4, BYTE_LENGTHS)
    monkeypatch.setattr(bigram, "TABLE_CELLS", 0)
    assert bigram_bits_per_byte(train, validation, 4, BYTE_LENGTHS) == pytest.approx(table, rel=1e-12)


def test_bigram_of_a_large_vocabulary_needs_no_table_of_all_pairs() -> None:
    text = split_of([7, 49_000, 3, 12, 3])
    assert 0 < bigram_bits_per_byte(text, text, 1 << 20, np.ones(1 << 20, dtype=np.int64)) < 100


def test_bigram_of_a_tiny_text_is_finite() -> None:
    text = split_of([0, END])
    assert math.isfinite(bigram_bits_per_byte(text, text, 4, BYTE_LENGTHS))


def test_strength_is_chosen_on_tokens_that_were_not_counted() -> None:
    rng = np.random.default_rng(0)
    train, validation = (TokenSplit(rng.integers(0, 30, 600).astype(np.uint16), np.array([0]), 0) for _ in range(2))
    assert bigram_bits_per_byte(train, validation, 30, np.ones(30, dtype=np.int64)) < math.log2(30) + 0.2


def test_bigram_without_a_byte_of_text_is_infinite() -> None:
    text = split_of([END])
    assert bigram_bits_per_byte(text, text, 4, BYTE_LENGTHS) == math.inf


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a run of two steps."""
    words = ["the cat sat on the mat. ", "a dog sat on the cat. "]
    (tmp_path / "text.txt").write_text("".join(words[i % 3 % 2] for i in range(60)), encoding="utf-8")
    config = {
        "experiment_name": "story",
        "data": {
            "dataset": {"name": "text", "path": str(tmp_path / "text.txt"), "separator": ". "},
            "tokenizer": "byte",
            "max_length": 8,
            "validation_fraction": 0.2,
        },
        "model": {"name": "torch", "d_model": 4, "n_heads": 1, "n_blocks": 1, "max_seq_len": 8},
        "training": {"batch_size": 2, "max_steps": 2, "warmup_steps": 0},
        "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
    }
    return tfs_core.run(config, assets=tmp_path / "assets")


def test_logger_writes_the_number_into_run_json(run: Run) -> None:
    assert run.latest is not None
    tokenizer = load_model(run.latest, assets=run.folder.parent.parent).tokenizer
    (store,) = (run.folder.parent.parent / "tokens").glob("*/tokens.json")
    opened = open_store(store.parent, identity={})
    assert opened is not None
    vocab_size, byte_lengths = tokenizer.vocab_size, tokenizer.byte_lengths()
    expected = bigram_bits_per_byte(opened.train, opened.validation, vocab_size, byte_lengths)
    assert run.info["bigram_bits_per_byte"] == expected


def test_infinite_number_is_none_in_run_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigram, "bigram_bits_per_byte", lambda *_: math.inf)
    other = tfs_core.run(run.folder / "config.yaml", assets=run.folder.parent.parent, name="infinite")
    assert other.info["bigram_bits_per_byte"] is None


def test_resumed_run_keeps_its_number(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigram, "bigram_bits_per_byte", lambda *_: pytest.fail("it is known already"))
    before, assets = run.info["bigram_bits_per_byte"], run.folder.parent.parent
    resumed = tfs_core.run(resume=run.folder, assets=assets, overrides=["training.max_steps=3"])
    assert resumed.info["bigram_bits_per_byte"] == before > 0


def test_number_does_not_depend_on_the_loggers_that_are_chosen(run: Run) -> None:
    for loggers in ("loggers=[jsonl]", "loggers=[jsonl, bigram]"):
        other = tfs_core.run(run.folder / "config.yaml", assets=run.folder.parent.parent, overrides=[loggers])
        assert other.info["bigram_bits_per_byte"] == run.info["bigram_bits_per_byte"]


def test_logger_of_a_loop_of_one_s_own_has_no_number(tmp_path: Path) -> None:
    context = RunContext(folder=tmp_path, name="own", config={}, info={}, total_steps=1, start_step=0)
    assert isinstance(bigram.build(None, run=context), RunLogger)
