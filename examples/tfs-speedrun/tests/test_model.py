import math
from pathlib import Path
from typing import Any

import pytest
import tfs_speedrun.model
import torch
from tfs_lab.testing.shape_comments import check_shape_comments
from tfs_speedrun.config import SpeedrunConfig
from tfs_speedrun.model import Speedrun, TokenTaps, hashed_contexts
from torch import Tensor

from tfs_core.models import compute_context, parameter_dtype

BATCH_SIZE, SEQ_LEN, MAX_SEQ_LEN, N_HEADS, D_HEAD, D_FFN, N_BLOCKS, VOCAB_SIZE = 2, 7, 11, 3, 5, 17, 4, 23
D_MODEL = N_HEADS * D_HEAD
NGRAMS = {"ngram_contexts": (1, 3), "ngram_rows": (VOCAB_SIZE + 1, 41)}


def build(*, shake: float = 0.3, **options: Any) -> Speedrun:
    """Return a small model with noise on all parameters, so that none is zero."""
    sizes = {"d_model": D_MODEL, "n_heads": N_HEADS, "n_blocks": N_BLOCKS, "d_ffn": D_FFN, "max_seq_len": MAX_SEQ_LEN}
    config = SpeedrunConfig(**(sizes | {"dtype": "float64"} | options))
    generator = torch.Generator().manual_seed(0)
    model = Speedrun(config, vocab_size=VOCAB_SIZE, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(shake * torch.randn(parameter.shape, generator=generator))
    model.to(device="cpu", dtype=parameter_dtype(config))
    return model


def random_ids(*shape: int) -> Tensor:
    return torch.randint(VOCAB_SIZE, shape or (BATCH_SIZE, SEQ_LEN), generator=torch.Generator().manual_seed(1))


def logits_by_formula(weights: dict[str, Tensor], ids: list[int]) -> Tensor:
    """Return the logits [seq_len, vocab_size] of one row by the formulas, per position and head."""

    def norm(x: Tensor) -> Tensor:
        centered = x - x.mean()
        return centered / (centered.square().mean() + 1e-5).sqrt()

    def back(position: int, places: int) -> int:
        return ids[position - places] if position >= places else VOCAB_SIZE

    taps = weights["taps.weight"]
    xs = [norm(sum(taps[k][back(t, k)] for k in range(len(taps)))) for t in range(len(ids))]
    for block in range(N_BLOCKS):
        part = {name: weights[f"blocks.{block}.{name}"] for name in ("query", "key", "value", "output", "expand")}
        bias, contract = weights[f"blocks.{block}.distance_bias"], weights[f"blocks.{block}.contract"]
        queries, keys, values = (
            [(part[name] @ norm(x)).view(N_HEADS, D_HEAD) for x in xs] for name in ("query", "key", "value")
        )
        for t in range(len(xs)):
            gathered = []
            for head in range(N_HEADS):
                scores = [
                    queries[t][head] @ keys[s][head] / math.sqrt(D_HEAD) + bias[t - s, head] for s in range(t + 1)
                ]
                shares = torch.stack(scores).softmax(0)
                gathered.append(sum(share * values[s][head] for s, share in enumerate(shares)))
            xs[t] = xs[t] + part["output"] @ torch.cat(gathered)
        xs = [x + contract @ (part["expand"] @ norm(x)).clamp(min=0).square() for x in xs]
    return torch.stack([weights["head"] @ norm(x) for x in xs])


def test_forward_is_the_formula() -> None:
    model = build()
    input_ids = random_ids()
    with torch.no_grad():
        logits = model.forward(input_ids)
        for row, ids in enumerate(input_ids.tolist()):
            expected = logits_by_formula(model.state_dict(), ids)
            assert (logits[row] - expected).norm() <= 1e-12 * expected.norm()


def test_ngram_tables_add_the_rows_of_the_last_tokens() -> None:
    model = build(**NGRAMS)
    input_ids = random_ids()
    one, three = model.ngram_tables
    with torch.no_grad():
        logits = model.forward(input_ids)
        rows = hashed_contexts(input_ids, 3, n_rows=41, vocab_size=VOCAB_SIZE)
        remembered = one[input_ids] + three[rows]
        for table in model.ngram_tables:
            table.zero_()
        assert torch.allclose(logits, model.forward(input_ids) + remembered, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("options", [{}, NGRAMS], ids=["plain", "ngrams"])
def test_later_tokens_leave_earlier_logits_bit_equal(options: dict[str, Any], dtype: str) -> None:
    model = build(dtype=dtype, **options).eval()
    input_ids = random_ids(BATCH_SIZE, MAX_SEQ_LEN)
    with torch.no_grad(), compute_context(model.config, "cpu"):
        logits = model.forward(input_ids)
        for position in range(1, MAX_SEQ_LEN):
            changed = input_ids.clone()
            changed[:, position:] = (changed[:, position:] + 1) % VOCAB_SIZE
            assert torch.equal(model.forward(changed)[:, :position], logits[:, :position])


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    model = build(**NGRAMS).eval()
    input_ids = random_ids()
    with torch.no_grad():
        alone = torch.cat([model.forward(row[None]) for row in input_ids])
        assert torch.allclose(model.forward(input_ids), alone, rtol=1e-12, atol=1e-12)


def test_every_token_is_as_likely_as_any_other_before_training() -> None:
    model = build(shake=0.0, **NGRAMS)
    assert torch.equal(model.forward(random_ids()), torch.zeros(BATCH_SIZE, SEQ_LEN, VOCAB_SIZE, dtype=torch.float64))


def test_initial_values_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = build(shake=0.0), build(shake=0.0)
    assert torch.equal(torch.get_rng_state(), before), "the global random state was moved"
    for (name, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_contexts_have_rows_of_their_own_where_there_is_room() -> None:
    ids = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    n_rows = 6**2
    rows = hashed_contexts(ids, 2, n_rows=n_rows, vocab_size=5)
    both = {*rows[:, 0].tolist(), *rows[:, 1].tolist()}
    assert len(set(rows[:, 1].tolist())) == 25
    assert len(both) == 30, "the five contexts that begin a sequence have rows of their own too"
    assert both <= set(range(n_rows))


@pytest.mark.parametrize("n_context", [1, 2, 3, 6])
def test_hashed_rows_fit_the_table_and_depend_on_the_last_tokens_alone(n_context: int) -> None:
    input_ids = random_ids(3, 11)
    rows = hashed_contexts(input_ids, n_context, n_rows=13, vocab_size=VOCAB_SIZE)
    assert 0 <= int(rows.min()) <= int(rows.max()) < 13
    changed = input_ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % VOCAB_SIZE
    again = hashed_contexts(changed, n_context, n_rows=13, vocab_size=VOCAB_SIZE)
    assert torch.equal(again[:, n_context:], rows[:, n_context:])


def test_hashed_contexts_spread_over_the_table() -> None:
    ids = torch.cartesian_prod(*[torch.arange(20)] * 3)
    rows = hashed_contexts(ids, 3, n_rows=1000, vocab_size=65)[:, -1]
    assert len(set(rows.tolist())) == 1000
    assert int(rows.bincount(minlength=1000).max()) <= 4 * 8000 // 1000


def test_taps_read_no_further_back_than_there_are_taps() -> None:
    taps = TokenTaps(SpeedrunConfig(d_model=6, n_heads=1, n_taps=3), VOCAB_SIZE)
    torch.nn.init.normal_(taps.weight, generator=torch.Generator().manual_seed(0))
    input_ids = random_ids(1, 9)
    changed = input_ids.clone()
    changed[0, 4] = (changed[0, 4] + 1) % VOCAB_SIZE
    differs = (taps(input_ids) != taps(changed)).any(dim=-1)[0]
    assert differs.tolist() == [4 <= position <= 6 for position in range(9)]


def test_ids_outside_the_vocabulary_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=f"token id {VOCAB_SIZE} is outside the vocabulary"):
        build().loss(torch.tensor([[0, VOCAB_SIZE]]), torch.tensor([[0, 1]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 10, "n_heads": 3}, "n_heads must divide d_model .* 3 does not divide 10"),
        ({"n_taps": 0}, "n_taps must be at least 1, not 0"),
        ({"ngram_contexts": (2,)}, "one number each; 1 and 0 numbers are given"),
        ({"ngram_contexts": (0,), "ngram_rows": (5,)}, "ngram_contexts must be numbers of at least 1"),
    ],
)
def test_impossible_options_are_refused_in_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpeedrunConfig(**options)


def test_shape_comments_are_true() -> None:
    sizes = {
        "batch_size": BATCH_SIZE, "seq_len": SEQ_LEN, "n_tokens": BATCH_SIZE * SEQ_LEN, "n_maps": BATCH_SIZE * N_HEADS,
        "n_heads": N_HEADS, "d_head": D_HEAD, "d_model": D_MODEL, "d_ffn": D_FFN, "vocab_size": VOCAB_SIZE,
    }  # fmt: skip
    check_shape_comments(
        lambda: build(dropout=0.5, **NGRAMS).forward(random_ids()),
        [Path(tfs_speedrun.model.__file__)],
        sizes,
        per_call={"n_features"},
    ).require()
