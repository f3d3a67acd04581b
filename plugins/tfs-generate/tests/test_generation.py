"""Text generation: sampling a token, the window, the cache, whole characters."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from tfs_generate.generation import (
    FEW_THREADS_UP_TO,
    Sampling,
    choose_token,
    generate,
    single_token_cpu_settings,
    stream_text,
    use_column_major_weights,
)
from torch import Tensor, nn

from tfs_core.contracts import ModelConfig
from tfs_core.errors import TrainingError, UsageError
from tfs_core.models import AutogradModel
from tfs_core.registry import get_registry

GREEDY = Sampling(temperature=0)
ALL = Sampling(temperature=1.0, top_k=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(logits: list[float], sampling: Sampling, times: int = 300) -> set[int]:
    """Return the set of all sampled ids."""
    generator = seeded()
    return {choose_token(torch.tensor(logits), sampling, generator) for _ in range(times)}


class Successor(AutogradModel):
    """Predicts id + 1 after every id, and records its inputs."""

    def __init__(self, vocab_size: int = 256, max_seq_len: int = 4, dtype: Any = "float32") -> None:
        super().__init__(ModelConfig(max_seq_len=max_seq_len, dtype=dtype), vocab_size=vocab_size)
        self.unused = nn.Parameter(torch.zeros(1))
        self.shown: list[list[int]] = []
        self.modes: set[tuple[bool, bool]] = set()

    def forward(self, input_ids: Tensor) -> Tensor:
        self.shown.append(input_ids[0].tolist())
        self.modes.add((self.training, torch.is_grad_enabled()))
        return 50.0 * nn.functional.one_hot((input_ids + 1) % self.vocab_size, self.vocab_size).float()


class ByteTokenizer:
    """Ids are bytes; 255, which no UTF-8 text holds, is the end of text."""

    vocab_size = 256
    end_of_text_id = 255

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(token for token in ids if token != self.end_of_text_id)


class Reciter(AutogradModel):
    """Predicts given bytes, for any input."""

    def __init__(self, written: bytes) -> None:
        super().__init__(ModelConfig(max_seq_len=100), vocab_size=256)
        self.unused = nn.Parameter(torch.zeros(1))
        self.left = list(written)

    def forward(self, input_ids: Tensor) -> Tensor:
        logits = torch.zeros(*input_ids.shape, 256)
        logits[..., self.left.pop(0)] = 50.0
        return logits


def text_of(model: Any, prompt: str = "ab", max_length: int = 5, **options: Any) -> list[str]:
    return list(stream_text(model, ByteTokenizer(), prompt, max_length=max_length, sampling=GREEDY, seed=0, **options))  # type: ignore[arg-type]


# --- choosing -----------------------------------------------------------------------------------------------------


def test_temperature_zero_takes_the_likeliest_and_of_equals_the_lowest_id() -> None:
    assert drawn([0.0, 2.0, 1.0, 2.0], GREEDY, times=5) == {1}


def test_temperature_near_zero_takes_the_likeliest_without_overflow() -> None:
    assert drawn([-5.0, 2.0, 1.9], Sampling(temperature=1e-300)) == {1}


def test_high_temperature_makes_all_alike() -> None:
    assert drawn([0.0, 5.0, 9.0], Sampling(temperature=1e6)) == {0, 1, 2}


def test_top_k_draws_among_the_k_likeliest_only() -> None:
    assert drawn([1.0, 4.0, 3.0, 2.0], Sampling(temperature=5.0, top_k=2)) == {1, 2}


@pytest.mark.parametrize("top_k", [0, 4, 99])
def test_top_k_of_zero_or_above_the_vocabulary_draws_among_all(top_k: int) -> None:
    assert drawn([1.0, 1.0, 1.0, 1.0], Sampling(temperature=1.0, top_k=top_k)) == {0, 1, 2, 3}


def test_top_p_draws_among_the_fewest_that_make_up_the_share() -> None:
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log().tolist()
    assert drawn(logits, Sampling(temperature=1.0, top_k=0, top_p=0.6)) == {1, 3}
    assert drawn(logits, Sampling(temperature=1.0, top_k=0, top_p=1e-9)) == {1}


def test_top_p_ends_with_the_id_that_reaches_the_share_exactly() -> None:
    assert drawn([0.0] * 4, Sampling(temperature=1.0, top_k=0, top_p=0.5)) == {0, 1}


def test_top_p_comes_after_the_temperature() -> None:
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log().tolist()
    # At temperature 0.5 the probabilities are squared: 0.25 of 0.345 is 0.72, so the likeliest id alone reaches 0.6.
    assert drawn(logits, Sampling(temperature=0.5, top_k=0, top_p=0.6)) == {1}
    # At temperature 10 they are nearly 0.23, 0.27, 0.24 and 0.26, of which it takes three to reach 0.6.
    assert drawn(logits, Sampling(temperature=10.0, top_k=0, top_p=0.6)) == {1, 2, 3}


def test_top_p_counts_the_probability_of_the_top_k_only() -> None:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().tolist()
    assert drawn(logits, Sampling(temperature=1.0, top_k=2, top_p=0.5)) == {1}  # 0.4 of 0.7
    assert drawn(logits, Sampling(temperature=1.0, top_k=0, top_p=0.5)) == {1, 3}


@pytest.mark.parametrize("temperature", [1e-300, 0.3, 1.0, 50.0, 1e300])
@pytest.mark.parametrize("vocab_size", [1, 2, 3, 5, 17, 64, 300, 5000])
def test_top_k_of_one_is_temperature_zero_ties_included(vocab_size: int, temperature: float) -> None:
    generator = seeded(vocab_size)
    for levels in (1, 2, 3, vocab_size):  # few levels: many equal logits
        logits = torch.randint(levels, (vocab_size,), generator=generator).float()
        greedy = choose_token(logits, GREEDY, generator)
        assert choose_token(logits, Sampling(temperature=temperature, top_k=1), generator) == greedy
        assert greedy == logits.tolist().index(max(logits.tolist()))


@pytest.mark.parametrize("vocab_size", [5, 17, 64, 300])
def test_top_k_and_top_p_take_the_lowest_ids_of_equal_ones(vocab_size: int) -> None:
    logits = [0.0] * vocab_size
    assert drawn(logits, Sampling(temperature=1.0, top_k=3), times=100) == {0, 1, 2}
    top_p = 2.5 / vocab_size  # of equal probabilities, three reach it
    assert drawn(logits, Sampling(temperature=1.0, top_k=0, top_p=top_p), times=100) == {0, 1, 2}


def test_tokens_are_drawn_by_their_probability() -> None:
    generator, times = seeded(), 20_000
    probabilities = torch.tensor([0.1, 0.6, 0.3])
    counts = Counter(choose_token(probabilities.log(), ALL, generator) for _ in range(times))
    assert all(abs(counts[token] / times - float(p)) < 0.02 for token, p in enumerate(probabilities))


def test_a_draw_that_rounds_to_the_whole_probability_takes_the_last_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.ones(1, dtype=torch.float64))
    assert choose_token(torch.tensor([0.0, 1.0, 0.5]), ALL, seeded()) == 2


def test_an_id_of_probability_zero_is_never_drawn() -> None:
    assert drawn([float("-inf"), 0.0, float("-inf"), 0.0], ALL) == {1, 3}


@pytest.mark.parametrize("sampling", [GREEDY, ALL])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error_in_a_sentence(sampling: Sampling, bad: float) -> None:
    with pytest.raises(TrainingError, match="logits are not finite"):
        choose_token(torch.tensor([0.0, bad]), sampling, seeded())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 .* not -1.0"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"temperature": float("inf")}, "temperature must be"),
        ({"top_k": -1}, "top-k must be 0 .* not -1"),
        ({"top_p": 2.0}, "top-p is a probability.* not 2.0"),
        ({"top_p": 0.0}, "top-p is a probability.* not 0.0"),
        ({"top_p": float("nan")}, "top-p is a probability"),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sampling(**options)  # type: ignore[arg-type]


# --- the loop -----------------------------------------------------------------------------------------------------


def ids_of(model: Any, prompt: list[int], n: int, sampling: Sampling = GREEDY, **options: Any) -> list[int]:
    return list(generate(model, prompt, max_new_tokens=n, sampling=sampling, generator=seeded(), **options))


def test_generate_continues_the_prompt() -> None:
    assert ids_of(Successor(), [5], 3) == [6, 7, 8]


def test_generate_stops_at_the_stop_id_without_yielding_it() -> None:
    assert ids_of(Successor(), [5], 99, stop_id=8) == [6, 7]


def test_generate_keeps_the_last_half_of_an_outgrown_context() -> None:
    model = Successor(max_seq_len=4)
    assert ids_of(model, [0, 1], 6) == [2, 3, 4, 5, 6, 7]
    assert model.shown == [[0, 1], [0, 1, 2], [0, 1, 2, 3], [3, 4], [3, 4, 5], [3, 4, 5, 6]]


def test_generate_with_a_context_of_one_token() -> None:
    model = Successor(max_seq_len=1)
    assert ids_of(model, [0, 1], 3) == [2, 3, 4]
    assert model.shown == [[1], [2], [3]]


def test_generate_without_a_context_limit_keeps_everything() -> None:
    model = Successor()
    model.context_limit = None
    ids_of(model, [0], 9)
    assert model.shown[-1] == list(range(9))


def test_generate_reads_a_long_prompt_from_its_end() -> None:
    model = Successor(max_seq_len=4)
    ids_of(model, list(range(10)), 1)
    assert model.shown == [[6, 7, 8, 9]]


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "at least one token"), ([3, 256], "token id 256 is outside"), ([-1], "token id -1")]
)
def test_generate_refuses_bad_prompts_at_once(prompt: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(Successor(), prompt, max_new_tokens=1, sampling=GREEDY, generator=seeded())


@pytest.mark.parametrize("training", [True, False])
def test_generate_runs_in_eval_mode_without_a_graph_and_gives_the_mode_back(training: bool) -> None:
    model = Successor().train(training)
    ids_of(model, [1], 3)
    assert model.modes == {(False, False)}
    assert model.training is training


def test_generate_gives_the_mode_back_when_it_is_left_early() -> None:
    model = Successor().train()
    tokens = generate(model, [1], max_new_tokens=9, sampling=GREEDY, generator=seeded())
    next(tokens)
    assert torch.is_grad_enabled(), "the caller's gradients are the caller's"
    tokens.close()
    assert model.training


def test_generate_computes_in_bfloat16_when_the_model_does() -> None:
    class Product(Successor):
        def forward(self, input_ids: Tensor) -> Tensor:
            self.product_dtype = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
            return super().forward(input_ids)

    model = Product(dtype="bfloat16")
    tokens = generate(model, [1], max_new_tokens=2, sampling=GREEDY, generator=seeded())
    next(tokens)
    assert model.product_dtype == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu"), "the caller's context is the caller's"
    tokens.close()


def test_generate_moves_no_global_random_state() -> None:
    before = torch.get_rng_state()
    ids_of(Successor(), [1], 5, ALL)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def transformer() -> Any:
    """A small `torch` model with large weights, so that its predictions differ between positions."""
    entry = get_registry().find("model", "torch")
    config_class = entry.load_config_class()
    assert config_class is not None
    config = config_class(d_model=16, n_heads=2, n_blocks=2, max_seq_len=12, dropout=0.3)
    model = entry.load_factory()(config, vocab_size=256, generator=seeded())
    noise = seeded(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise))
    return model


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(temperature=1.3, top_k=0, top_p=0.9)])
def test_generate_gives_the_same_tokens_with_and_without_a_cache(transformer: Any, sampling: Sampling) -> None:
    prompt = list(range(20, 27))
    cached = ids_of(transformer, prompt, 40, sampling)
    assert cached == ids_of(transformer, prompt, 40, sampling, use_cache=False)
    assert len(set(cached)) > 3, "a model that repeats itself shows nothing"


def test_generate_with_a_cache_shows_each_token_once(transformer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    whole = transformer.forward_with_cache
    monkeypatch.setattr(
        transformer, "forward_with_cache", lambda ids, *rest: lengths.append(ids.shape[1]) or whole(ids, *rest)
    )
    ids_of(transformer, [1, 2, 3], 11)
    assert lengths == [3] + 9 * [1] + [6]


@pytest.fixture
def two_threads_and_medium() -> Iterator[None]:
    """Set two threads and `medium`, as a run may have done."""
    threads, kernel = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(kernel)


@pytest.mark.usefixtures("two_threads_and_medium")
@pytest.mark.parametrize("few_threads_up_to", [10**9, 0])
def test_generate_sets_the_machine_to_one_token_only_while_it_computes_one(
    transformer: Any, monkeypatch: pytest.MonkeyPatch, few_threads_up_to: int
) -> None:
    seen = []
    whole = transformer.forward_with_cache

    def look(ids: Tensor, *rest: Any) -> Tensor:
        seen.append((ids.shape[1], torch.get_num_threads(), torch.get_float32_matmul_precision()))
        logits: Tensor = whole(ids, *rest)
        return logits

    monkeypatch.setattr(transformer, "forward_with_cache", look)
    monkeypatch.setattr("tfs_generate.generation.FEW_THREADS_UP_TO", few_threads_up_to)
    tokens = generate(transformer, [1, 2, 3], max_new_tokens=3, sampling=GREEDY, generator=seeded())
    for _ in tokens:
        assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (2, "medium")
    threads = 1 if few_threads_up_to else 2
    assert seen == [(3, 2, "medium"), (1, threads, "highest"), (1, threads, "highest")]


@pytest.mark.usefixtures("two_threads_and_medium")
@pytest.mark.parametrize(("compiled", "threads"), [(False, 1), (True, 2)])
def test_compiled_step_may_use_two_threads(compiled: bool, threads: int) -> None:
    torch.set_num_threads(4)
    with single_token_cpu_settings(torch.device("cpu"), FEW_THREADS_UP_TO, compiled=compiled):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 4
    with single_token_cpu_settings(torch.device("cpu"), FEW_THREADS_UP_TO + 1, compiled=compiled):
        assert torch.get_num_threads() == 4


def test_a_model_laid_out_for_writing_has_the_same_numbers_and_writes_the_same(transformer: Any) -> None:
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    text = ids_of(transformer, [1, 2, 3], 30)
    use_column_major_weights(transformer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in transformer.state_dict().items())
    assert transformer.blocks[0].attention.query.weight.stride() == (1, 16)
    assert ids_of(transformer, [1, 2, 3], 30) == text


# --- text ---------------------------------------------------------------------------------------------------------


def test_stream_text_yields_whole_characters() -> None:
    assert text_of(Reciter("é日👍!".encode()), max_length=10) == ["é", "日", "👍", "!"]


def test_stream_text_shows_bytes_that_are_no_text_as_replacement_characters() -> None:
    assert "".join(text_of(Reciter(b"a\xe6\x97b\xe6"), max_length=5)) == "a\ufffdb\ufffd"


def test_stream_text_ends_at_end_of_text() -> None:
    assert text_of(Reciter(b"ab\xffcd")) == ["a", "b"]


def test_stream_text_starts_an_empty_prompt_from_end_of_text() -> None:
    model = Successor(max_seq_len=9)
    text_of(model, "", max_length=1)
    assert model.shown == [[255]]


def test_stream_text_puts_end_of_text_before_a_prompt_that_begins_a_document() -> None:
    model = Successor(max_seq_len=9)
    text_of(model, "ab", max_length=1, begins_document=True)
    assert model.shown == [[255, 97, 98]]


def test_stream_text_tells_of_a_prompt_longer_than_the_context() -> None:
    told: list[str] = []
    model = Successor(max_seq_len=4)
    text_of(model, "abcdef", max_length=1, tell=told.append)
    assert model.shown == [list(b"cdef")]
    assert told == ["the prompt has 6 tokens and the model sees 4: it continues the last 4"]


def test_stream_text_is_the_same_for_the_same_seed_and_other_for_another(transformer: Any) -> None:
    def text(seed: int) -> str:
        sampling = Sampling(temperature=1.5, top_k=0)
        return "".join(
            stream_text(transformer, ByteTokenizer(), "ab", max_length=30, sampling=sampling, seed=seed)  # type: ignore[arg-type]
        )

    assert text(1) == text(1) != text(2)


def test_stream_text_uses_the_token_step(transformer: Any) -> None:
    lengths = []

    class Step:
        in_force = True

        def __call__(self, input_ids: Tensor, positions: Tensor, cache: Any) -> Tensor:
            lengths.append(input_ids.shape[1])
            logits: Tensor = transformer.forward_with_cache(input_ids, positions, cache)
            return logits

    text = text_of(transformer, max_length=4)
    assert text_of(transformer, max_length=4, token_step=Step()) == text
    assert lengths == [1, 1, 1]
