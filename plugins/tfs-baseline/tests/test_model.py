"""The model `baseline`: held against the formulas of its papers, and what the core relies on."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tfs_baseline.model
import torch
import torch.nn.functional as F
from tfs_baseline.config import BaselineConfig
from tfs_baseline.key_value_cache import CachedTransformer
from tfs_baseline.model import EXPLICIT_UP_TO, RMSNorm, Rotation, SwiGLU, rotate
from tfs_lab.testing.shape_comments import check_shape_comments
from torch import Tensor

from tfs_core.contracts import (
    IGNORED_TARGET,
    LanguageModel,
    SupportsDocumentMasks,
    SupportsFeatures,
    SupportsKeyValueCache,
)
from tfs_core.models import AutogradModel, compute_context, parameter_dtype
from tfs_core.registry import get_registry

BATCH_SIZE, SEQ_LEN, MAX_SEQ_LEN, VOCAB_SIZE = 5, 7, 11, 23
D_MODEL, N_HEADS, N_KV_HEADS, D_HEAD, D_FFN, N_BLOCKS = 13, 6, 3, 8, 17, 2

SWITCHES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "one head answers": {"n_kv_heads": 1},
    "layer norm": {"norm": "layer"},
    "learned positions": {"positions": "learned"},
    "no QK-norm": {"qk_norm": False},
    "GELU": {"feed_forward": "gelu"},
    "untied": {"tied": False},
    "other constants": {"rope_theta": 50.0, "norm_epsilon": 1e-2},
}


def build(*, seed: int = 0, shake: float = 0.3, **options: Any) -> CachedTransformer:
    """Return a small model whose every parameter matters: norms are moved off 1, too."""
    sizes = {
        "d_model": D_MODEL, "n_heads": N_HEADS, "n_kv_heads": N_KV_HEADS, "d_head": D_HEAD, "n_blocks": N_BLOCKS,
        "d_ffn": D_FFN, "max_seq_len": MAX_SEQ_LEN,
    }  # fmt: skip
    config = BaselineConfig(**(sizes | {"dtype": "float64"} | options))
    generator = torch.Generator().manual_seed(seed)
    model = CachedTransformer(config, vocab_size=VOCAB_SIZE, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(shake * torch.randn(parameter.shape, generator=generator))
    model.to(device="cpu", dtype=parameter_dtype(config))
    return model


def random_ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(VOCAB_SIZE, shape or (BATCH_SIZE, SEQ_LEN), generator=torch.Generator().manual_seed(seed))


def random_document_ids() -> Tensor:
    """Return ids of rows that hold one, two or three documents."""
    begins = torch.rand(BATCH_SIZE, SEQ_LEN, generator=torch.Generator().manual_seed(4)) < 0.3
    return begins.cumsum(1)


def logits_by_formulas(model: CachedTransformer, input_ids: list[int], document_ids: list[int] | None = None) -> Tensor:
    """Return the logits [seq_len, vocab_size] of one row by the papers' formulas, one position and head at a time."""
    weights, config = model.state_dict(), model.config
    epsilon = config.norm_epsilon
    document_ids = document_ids or [0] * len(input_ids)

    def rms_norm(x: Tensor, name: str) -> Tensor:
        return x / torch.sqrt((x @ x) / len(x) + epsilon) * weights[f"{name}.weight"]

    def norm(x: Tensor, name: str) -> Tensor:
        if config.norm == "rms":
            return rms_norm(x, name)
        centered = x - x.mean()
        variance = (centered @ centered) / len(x)
        return centered / torch.sqrt(variance + epsilon) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def turned(x: Tensor, position: int) -> Tensor:
        """Return x after each pair of features, as a complex number, was multiplied by e^(i * angle)."""
        half = len(x) // 2
        angles = [position * config.rope_theta ** (-2 * pair / len(x)) for pair in range(half)]
        turn = torch.polar(torch.ones(half, dtype=torch.float64), torch.tensor(angles, dtype=torch.float64))
        result = torch.complex(x[:half], x[half:]) * turn
        return torch.cat([result.real, result.imag])

    def head_of(x: Tensor, name: str, head: int, position: int) -> Tensor:
        result = (weights[f"{name}.weight"] @ x)[head * D_HEAD : (head + 1) * D_HEAD]
        if config.qk_norm and not name.endswith("value"):
            result = rms_norm(result, f"{name}_norm")
        if config.positions == "rotary" and not name.endswith("value"):
            result = turned(result, position)
        return result

    def feed_forward(x: Tensor, name: str) -> Tensor:
        expanded = weights[f"{name}.expand.weight"] @ x
        if config.feed_forward == "swiglu":
            gate = weights[f"{name}.gate.weight"] @ x
            hidden = gate / (1 + torch.exp(-gate)) * expanded
        else:
            hidden = expanded * (1 + torch.erf(expanded / math.sqrt(2))) / 2
        return weights[f"{name}.contract.weight"] @ hidden

    xs = [weights["token_embedding.weight"][token] for token in input_ids]
    if config.positions == "learned":
        xs = [x + weights["position_embedding.weight"][position] for position, x in enumerate(xs)]
    for block in range(N_BLOCKS):
        name = f"blocks.{block}.attention"
        normed = [norm(x, f"{name}_norm") for x in xs]
        for t in range(len(xs)):
            seen = [s for s in range(t + 1) if document_ids[s] == document_ids[t]]
            gathered = []
            for head in range(N_HEADS):
                answering = head // (N_HEADS // config.kv_heads)
                query = head_of(normed[t], f"{name}.query", head, t)
                keys = [head_of(normed[s], f"{name}.key", answering, s) for s in seen]
                values = [head_of(normed[s], f"{name}.value", answering, s) for s in seen]
                shares = torch.stack([query @ key / math.sqrt(D_HEAD) for key in keys]).exp()
                gathered.append(torch.stack(values).T @ (shares / shares.sum()))
            xs[t] = xs[t] + weights[f"{name}.output.weight"] @ torch.cat(gathered)
        name = f"blocks.{block}.feed_forward"
        xs = [x + feed_forward(norm(x, f"{name}_norm"), name) for x in xs]
    table = weights["token_embedding.weight" if config.tied else "unembedding.weight"]
    return torch.stack([table @ norm(x, "final_norm") for x in xs])


@pytest.mark.parametrize("attention", ["fused", "explicit"])
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_forward_is_the_papers_function(switches: dict[str, Any], attention: str) -> None:
    model = build(attention=attention, **switches)
    input_ids = random_ids(2, SEQ_LEN)
    with torch.no_grad():
        logits = model.forward(input_ids)
        for row, ids in enumerate(input_ids.tolist()):
            expected = logits_by_formulas(model, ids)
            assert (logits[row] - expected).norm() <= 1e-13 * expected.norm()


@pytest.mark.parametrize("attention", ["fused", "explicit"])
def test_document_masks_hide_other_documents(attention: str) -> None:
    model = build(attention=attention)
    input_ids, document_ids = random_ids(), random_document_ids()
    with torch.no_grad():
        logits = model.forward(input_ids, document_ids)
        for row in range(2):
            expected = logits_by_formulas(model, input_ids[row].tolist(), document_ids[row].tolist())
            assert (logits[row] - expected).norm() <= 1e-13 * expected.norm()


@pytest.mark.parametrize("attention", ["fused", "explicit"])
def test_another_document_changes_nothing_to_the_last_bit(attention: str) -> None:
    model = build(attention=attention, dtype="float32").eval()
    input_ids, document_ids = random_ids(), torch.tensor([0, 0, 0, 1, 1, 1, 1]).expand(BATCH_SIZE, -1)
    changed = torch.where(document_ids == 0, (input_ids + 1) % VOCAB_SIZE, input_ids)
    with torch.no_grad():
        logits = model.forward(input_ids, document_ids)
        assert torch.equal(model.forward(changed, document_ids)[:, 3:], logits[:, 3:])
        assert not torch.equal(model.forward(changed)[:, 3:], model.forward(input_ids)[:, 3:])


def test_one_document_a_row_is_what_no_document_ids_mean() -> None:
    model = build(attention="explicit")
    assert torch.equal(
        model.forward(random_ids(), torch.zeros(BATCH_SIZE, SEQ_LEN).long()), model.forward(random_ids())
    )


@pytest.mark.parametrize("masked", [False, True], ids=["packed", "document masks"])
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_fused_and_explicit_attention_have_the_same_gradients(switches: dict[str, Any], masked: bool) -> None:
    fused, explicit = build(attention="fused", **switches), build(attention="explicit", **switches)
    for model in (fused, explicit):
        model.loss(random_ids(), random_ids(seed=2), random_document_ids() if masked else None)
        model.backward(1.0)
    whole = torch.cat([parameter.grad.flatten() for parameter in fused.parameters()]).norm()
    for (name, one), other in zip(fused.named_parameters(), explicit.parameters(), strict=True):
        assert (one.grad - other.grad).norm() <= 1e-12 * max(other.grad.norm(), 1e-3 * whole), name


def test_auto_is_explicit_on_a_processor_up_to_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(attention="auto", max_seq_len=EXPLICIT_UP_TO + 1)
    calls = []
    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *inputs, **options: calls.append(1) or attend(*inputs, **options)
    )
    with torch.no_grad():
        model.forward(random_ids(1, EXPLICIT_UP_TO))
        assert not calls
        model.forward(random_ids(1, EXPLICIT_UP_TO + 1))
        assert len(calls) == N_BLOCKS


def test_auto_is_fused_on_other_devices() -> None:
    with torch.device("meta"):
        model = CachedTransformer(BaselineConfig(d_model=8, n_heads=2), vocab_size=5, generator=torch.Generator())
    assert model.is_fused(2, 2)


def test_rms_norm_gives_a_mean_square_of_the_gains() -> None:
    x = 100 * torch.randn(3, 5, D_MODEL, dtype=torch.float64)
    norm = RMSNorm(D_MODEL, 1e-12).double()
    assert torch.allclose(norm(x).square().mean(-1), torch.ones(3, 5, dtype=torch.float64), rtol=1e-12)


def test_rms_norm_of_zeros_is_zero() -> None:
    assert torch.equal(RMSNorm(D_MODEL, 1e-6)(torch.zeros(2, D_MODEL)), torch.zeros(2, D_MODEL))


def test_rotation_makes_scores_depend_on_distance_alone() -> None:
    rotation = Rotation(BaselineConfig(d_model=D_HEAD, n_heads=1, max_seq_len=MAX_SEQ_LEN, dtype="float64"))
    query, key = torch.randn(2, D_HEAD, dtype=torch.float64)
    everywhere = rotation(slice(0, MAX_SEQ_LEN))
    queries = rotate(query.expand(1, MAX_SEQ_LEN, 1, -1), everywhere)[0, :, 0]
    keys = rotate(key.expand(1, MAX_SEQ_LEN, 1, -1), everywhere)[0, :, 0]
    scores = queries @ keys.T
    for distance in range(-MAX_SEQ_LEN + 1, MAX_SEQ_LEN):
        same = scores.diagonal(distance)
        assert torch.allclose(same, same[:1].expand_as(same), rtol=1e-12)
    assert len({round(float(scores.diagonal(distance)[0]), 6) for distance in range(MAX_SEQ_LEN)}) == MAX_SEQ_LEN


def test_rotation_keeps_lengths_and_leaves_position_zero_alone() -> None:
    rotation = Rotation(BaselineConfig(d_model=D_HEAD, n_heads=1, max_seq_len=MAX_SEQ_LEN, dtype="float64"))
    x = torch.randn(2, MAX_SEQ_LEN, 3, D_HEAD, dtype=torch.float64)
    turned = rotate(x, rotation(slice(0, MAX_SEQ_LEN)))
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-12)
    assert torch.equal(turned[:, 0], x[:, 0])


def test_a_shut_gate_lets_nothing_through() -> None:
    part = SwiGLU(BaselineConfig(d_model=4, n_heads=1, d_ffn=6))
    with torch.no_grad():
        part.gate.weight.zero_()
    assert torch.equal(part(torch.randn(2, 3, 4)), torch.zeros(2, 3, 4))


def test_qk_norm_makes_scores_blind_to_the_size_of_queries_and_keys() -> None:
    with_norm, without = build(norm_epsilon=1e-12), build(qk_norm=False)
    for model, equal in ((with_norm, True), (without, False)):
        before = model.forward(random_ids())
        with torch.no_grad():
            for block in model.blocks:
                block.attention.query.weight.mul_(10.0)
        assert torch.allclose(model.forward(random_ids()), before, rtol=1e-6) is equal


def test_parameters_have_the_promised_names_order_and_shapes() -> None:
    asked, answered = N_HEADS * D_HEAD, N_KV_HEADS * D_HEAD
    block = {
        "attention_norm": [D_MODEL], "attention.query": [asked, D_MODEL], "attention.key": [answered, D_MODEL],
        "attention.value": [answered, D_MODEL], "attention.query_norm": [D_HEAD], "attention.key_norm": [D_HEAD],
        "attention.output": [D_MODEL, asked], "feed_forward_norm": [D_MODEL], "feed_forward.gate": [D_FFN, D_MODEL],
        "feed_forward.expand": [D_FFN, D_MODEL], "feed_forward.contract": [D_MODEL, D_FFN],
    }  # fmt: skip
    expected = {"token_embedding": [VOCAB_SIZE, D_MODEL]}
    expected |= {f"blocks.{i}.{name}": shape for i in range(N_BLOCKS) for name, shape in block.items()}
    expected |= {"final_norm": [D_MODEL], "unembedding": [VOCAB_SIZE, D_MODEL]}
    model = build(tied=False)
    assert {n: list(p.shape) for n, p in model.named_parameters()} == {f"{n}.weight": s for n, s in expected.items()}
    assert list(model.state_dict()) == [f"{name}.weight" for name in expected], "rotation follows from the options"


def test_initial_values_are_drawn_in_order_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    model = build(seed=5, shake=0.0, dtype="float32", tied=False, norm="layer")
    assert torch.equal(torch.get_rng_state(), before), "the global random state was moved"
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            expected = torch.full(parameter.shape, 1.0 if name.endswith("norm.weight") else 0.0)
        else:
            last = name.endswith(("attention.output.weight", "feed_forward.contract.weight"))
            std = 0.02 / math.sqrt(2 * N_BLOCKS) if last else 0.02
            expected = torch.empty(parameter.shape).normal_(0.0, std, generator=generator)
        assert torch.equal(parameter, expected), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("attention", ["fused", "explicit"])
def test_later_tokens_leave_earlier_logits_bit_equal(attention: str, dtype: str) -> None:
    model = build(attention=attention, dtype=dtype).eval()
    input_ids = random_ids(BATCH_SIZE, MAX_SEQ_LEN)
    with torch.no_grad(), compute_context(model.config, "cpu"):
        logits = model.forward(input_ids)
        for position in range(1, MAX_SEQ_LEN):
            changed = input_ids.clone()
            changed[:, position:] = (changed[:, position:] + 1) % VOCAB_SIZE
            assert torch.equal(model.forward(changed)[:, :position], logits[:, :position])


@pytest.mark.parametrize("attention", ["fused", "explicit"])
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_cache_equals_the_full_forward_for_prompts_of_different_lengths(
    switches: dict[str, Any], attention: str
) -> None:
    model = build(attention=attention, **switches).eval()
    assert isinstance(model, SupportsKeyValueCache)
    input_ids = random_ids(2, SEQ_LEN)
    with torch.no_grad():
        full = model.forward(input_ids)
        cache = model.make_cache(2)
        lengths = torch.tensor([3, 5])
        positions = torch.arange(5).expand(2, 5)
        prompts = torch.where(positions < lengths[:, None], input_ids[:, :5], 0)
        logits = model.forward_with_cache(prompts, positions, cache)
        for row, length in enumerate(lengths.tolist()):
            assert torch.allclose(logits[row, :length], full[row, :length], rtol=1e-12, atol=1e-12)
        for _ in range(2):
            new = model.forward_with_cache(input_ids.gather(1, lengths[:, None]), lengths[:, None], cache)
            for row, length in enumerate(lengths.tolist()):
                assert torch.allclose(new[row, 0], full[row, length], rtol=1e-12, atol=1e-12)
            lengths = lengths + 1


@pytest.mark.parametrize("attention", ["fused", "explicit", "auto"])
@pytest.mark.parametrize("n_kv_heads", [1, N_KV_HEADS, N_HEADS])
def test_cache_equals_the_full_forward_token_by_token(n_kv_heads: int, attention: str) -> None:
    model = build(attention=attention, n_kv_heads=n_kv_heads).eval()
    input_ids = random_ids(2, SEQ_LEN)
    with torch.no_grad():
        full = model.forward(input_ids)
        cache = model.make_cache(2)
        for position in range(SEQ_LEN):
            new = model.forward_with_cache(input_ids[:, position, None], torch.full((2, 1), position), cache)
            assert torch.allclose(new[:, 0], full[:, position], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("attention", ["fused", "explicit", "auto"])
def test_cache_in_bfloat16_is_as_near_the_exact_logits_as_the_full_forward(attention: str, seed: int) -> None:
    """With `auto`, a single token takes the fused form and a row the explicit one, which rounds scores and weights.

    Their logits then differ by 0.6 to 0.9 % of the size of the logits (root mean square), and a single one by up to
    5 %. Either is as far, 0.7 to 1.1 %, from the exact logits: 2 to 3 roundings to bfloat16, of 0.4 % each.
    """
    rounding = 2.0**-8
    input_ids = random_ids(2, MAX_SEQ_LEN, seed=seed)
    exact = build(seed=seed).eval().forward(input_ids).detach()  # in float64
    model = build(seed=seed, attention=attention, dtype="bfloat16").eval()
    with torch.no_grad(), compute_context(model.config, "cpu"):
        full = model.forward(input_ids).double()
        cache, steps = model.make_cache(2), []
        for position in range(MAX_SEQ_LEN):
            at = torch.full((2, 1), position)
            steps.append(model.forward_with_cache(input_ids[:, position, None], at, cache).double())
        cached = torch.cat(steps, dim=1)

    def distance(first: Tensor, second: Tensor) -> float:
        return float((first - second).square().mean().sqrt() / exact.square().mean().sqrt())

    assert distance(full, exact) < 4 * rounding
    assert distance(cached, exact) < 1.25 * distance(full, exact)
    assert distance(cached, full) < 4 * rounding
    assert float((cached - full).abs().max() / exact.square().mean().sqrt()) < 20 * rounding


def test_cache_takes_positions_in_any_order() -> None:
    """A row whose positions do not follow each other is written slot by slot."""
    model = build(attention="explicit").eval()
    input_ids = random_ids(1, SEQ_LEN)
    order = torch.tensor([[1, 0, 2, 3, 6, 5, 4]])
    with torch.no_grad():
        shuffled = model.forward_with_cache(input_ids.gather(1, order), order, model.make_cache(1))
        assert torch.allclose(shuffled, model.forward(input_ids).gather(1, order[..., None].expand_as(shuffled)))


def test_cache_holds_the_answering_heads_in_the_compute_type() -> None:
    model = build(dtype="bfloat16").eval()
    cache = model.make_cache(2)
    assert cache[0].keys.dtype == torch.bfloat16
    assert cache[0].values.shape == (2, N_KV_HEADS, MAX_SEQ_LEN, D_HEAD)
    with torch.no_grad(), compute_context(model.config, "cpu"):
        logits = model.forward_with_cache(random_ids(2, 4), torch.arange(4).expand(2, 4), cache)
        expected = model.forward(random_ids(2, 4))
    assert (logits - expected).norm() <= 0.05 * expected.norm()


def test_bfloat16_keeps_norms_rotation_residual_and_parameters_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[torch.dtype]] = {}
    model = build(dtype="bfloat16", attention="explicit")
    for name, module in model.named_modules():
        if name.endswith("norm"):
            kind = "norm of queries or keys" if "query" in name or "key" in name else "norm"
            module.register_forward_hook(lambda _m, inputs, output, kind=kind: seen.setdefault(kind, set()).update(
                {inputs[0].dtype, output.dtype}))  # fmt: skip
    addcmul = torch.addcmul
    monkeypatch.setattr(torch, "addcmul", lambda *x: seen.setdefault("rotation", set()).add(x[0].dtype) or addcmul(*x))
    with compute_context(model.config, "cpu"):
        loss = model.loss(random_ids(), random_ids(seed=2))
    model.backward(1.0)
    assert seen == {
        "norm": {torch.float32},
        "norm of queries or keys": {torch.bfloat16, torch.float32},
        "rotation": {torch.float32},
    }
    assert loss.dtype == torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


def test_softmax_of_bfloat16_computes_in_float32() -> None:
    """What `attend` relies on: only what comes out is rounded."""
    scores = 5 * torch.randn(7, 300, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert torch.equal(scores.softmax(-1), scores.float().softmax(-1).bfloat16())


def test_features_and_unembed_are_forward_in_two_steps() -> None:
    for tied in (True, False):
        model = build(tied=tied)
        assert isinstance(model, SupportsFeatures)
        features = model.features(random_ids())
        assert features.shape == (BATCH_SIZE, SEQ_LEN, D_MODEL)
        assert torch.equal(model.unembed(features), model.forward(random_ids()))


def test_capabilities_are_declared() -> None:
    model = build()
    assert isinstance(model, SupportsDocumentMasks)
    assert model.takes_document_ids


def test_dropout_is_off_in_eval_and_by_default() -> None:
    assert torch.equal(build(dropout=0.5).eval().forward(random_ids()), build().eval().forward(random_ids()))
    explicit = build(attention="explicit")
    assert torch.equal(explicit.train().forward(random_ids()), explicit.eval().forward(random_ids()))


@pytest.mark.parametrize("attention", ["fused", "explicit", "auto"])
def test_dropout_drops_in_its_four_places_in_order(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    dropout = F.dropout
    monkeypatch.setattr(F, "dropout", lambda x, *rest: shapes.append(x.numel()) or dropout(x, *rest))
    build(dropout=0.1, n_blocks=1, attention=attention).train().forward(random_ids())
    stream = BATCH_SIZE * SEQ_LEN * D_MODEL
    assert shapes == [stream, BATCH_SIZE * N_HEADS * SEQ_LEN * SEQ_LEN, stream, stream]


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_flops_are_those_that_pytorch_counts(switches: dict[str, Any]) -> None:
    model = build(**switches)
    assert model.flops_per_token(SEQ_LEN) == AutogradModel.flops_per_token(model, SEQ_LEN)


def test_flops_are_the_formula() -> None:
    attention = 2 * N_HEADS * D_HEAD * D_MODEL + 2 * N_KV_HEADS * D_HEAD * D_MODEL
    matrices = N_BLOCKS * (attention + 3 * D_MODEL * D_FFN) + VOCAB_SIZE * D_MODEL
    assert build().flops_per_token(SEQ_LEN) == 3 * (2 * matrices + 4 * N_BLOCKS * SEQ_LEN * N_HEADS * D_HEAD)


def test_embedding_parameters_are_the_tables_of_the_input() -> None:
    assert build(tied=False).embedding_parameters() == ["token_embedding.weight"]
    learned = build(positions="learned").embedding_parameters()
    assert learned == ["token_embedding.weight", "position_embedding.weight"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"d_model": 256}, 672),
        ({"d_model": 384}, 1024),
        ({"d_model": 13, "d_head": 8}, 32),
        ({"d_model": 256, "feed_forward": "gelu"}, 1024),
        ({"d_model": 256, "d_ffn": 99}, 99),
    ],
)
def test_d_ffn_follows_from_d_model_unless_given(options: dict[str, Any], expected: int) -> None:
    assert BaselineConfig(**options).hidden_width == expected


def test_the_whole_loss_compiles_without_a_graph_break() -> None:
    model = build(dtype="float32", attention="explicit")
    explained = torch._dynamo.explain(model.sum_of_nats)(random_ids(), random_ids(seed=2))
    assert explained.graph_break_count == 0
    assert explained.graph_count == 1


def test_ids_outside_the_vocabulary_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=f"token id {VOCAB_SIZE} is outside the vocabulary"):
        build().loss(torch.tensor([[0, VOCAB_SIZE]]), torch.tensor([[0, 1]]))


def test_sequences_past_max_seq_len_are_refused_in_a_sentence() -> None:
    model = build()
    with pytest.raises(ValueError, match="12 tokens is longer than the model's context of 11"):
        model.forward(random_ids(1, MAX_SEQ_LEN + 1))
    with pytest.raises(ValueError, match="position 11 is outside the model's context of 11"):
        model.forward_with_cache(random_ids(1, 1), torch.tensor([[MAX_SEQ_LEN]]), model.make_cache(1))


def test_a_row_of_padding_adds_nothing() -> None:
    model = build()
    input_ids, target_ids = random_ids(2, SEQ_LEN), random_ids(2, SEQ_LEN, seed=2)
    alone = float(model.loss(input_ids[:1], target_ids[:1]))
    target_ids[1] = IGNORED_TARGET
    assert math.isclose(float(model.loss(input_ids, target_ids)), alone, rel_tol=1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 10, "n_heads": 3}, "n_heads must divide d_model .* 3 does not divide 10 .or give d_head."),
        ({"n_heads": 4, "n_kv_heads": 3}, "n_kv_heads must divide n_heads; 3 does not divide 4"),
        ({"d_head": 5}, "rotary positions rotate pairs of features: a head of 5 cannot be paired"),
        ({"n_blocks": 0}, "n_blocks must be at least 1, not 0"),
        ({"d_ffn": 0}, "d_ffn must be at least 1, not 0"),
        ({"norm_epsilon": 0.0}, "norm_epsilon must be above 0, not 0.0"),
        ({"rope_theta": -1.0}, "rope_theta must be above 0, not -1.0"),
        ({"positions": "learned", "rope_theta": 5e5}, "rope_theta has no effect with learned positions"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ],
)
def test_impossible_options_are_refused_in_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BaselineConfig(**options)


def test_shape_comments_are_true() -> None:
    sizes = {
        "batch_size": BATCH_SIZE, "seq_len": SEQ_LEN, "max_seq_len": MAX_SEQ_LEN, "n_heads": N_HEADS, "d_ffn": D_FFN,
        "n_kv_heads": N_KV_HEADS, "n_shared": N_HEADS // N_KV_HEADS, "d_head": D_HEAD, "d_model": D_MODEL,
        "vocab_size": VOCAB_SIZE,
    }  # fmt: skip
    models = [build(attention="explicit"), build(attention="fused"), build(positions="learned", feed_forward="gelu")]

    def read() -> None:
        build()
        for model in models:
            model.forward(random_ids(), random_document_ids())
            cache = model.make_cache(BATCH_SIZE)
            model.forward_with_cache(random_ids(), torch.arange(2, 2 + SEQ_LEN).expand(BATCH_SIZE, SEQ_LEN), cache)
            uneven = torch.arange(BATCH_SIZE)[:, None] % 3 + torch.arange(SEQ_LEN)
            model.forward_with_cache(random_ids(), uneven, cache)

    def generate() -> None:
        for model in models:
            positions = torch.full((BATCH_SIZE, 1), MAX_SEQ_LEN - 2)
            model.forward_with_cache(random_ids(BATCH_SIZE, 1), positions, model.make_cache(BATCH_SIZE))

    folder, per_call = Path(tfs_baseline.model.__file__).parent, {"n_rows", "n_keys", "width"}
    files = [folder / "model.py", folder / "key_value_cache.py"]
    reading = check_shape_comments(read, files, sizes, per_call=per_call)
    generating = check_shape_comments(generate, files, sizes | {"seq_len": 1}, per_call=per_call)
    assert not reading.complaints + generating.complaints
    assert not set(reading.never_reached) & set(generating.never_reached)
    assert len(reading.checked) > 50


def test_baseline_is_found_by_name_and_builds_a_language_model() -> None:
    entry = get_registry().find("model", "baseline")
    config_class = entry.load_config_class()
    assert config_class is BaselineConfig
    model: LanguageModel = entry.load_factory()(
        BaselineConfig(d_model=8, n_heads=2, n_blocks=1), vocab_size=9, generator=torch.Generator()
    )
    assert model.context_limit == 256


def test_naming_the_plugin_imports_no_torch() -> None:
    code = (
        "import sys, tfs_baseline.config, tfs_baseline.plugin as p; p.tfs_models(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE])
def test_the_cache_takes_no_ids_outside_the_vocabulary(token_id: int) -> None:
    model = build().eval()
    with pytest.raises(ValueError, match=f"token id {token_id} is outside the vocabulary"):
        model.forward_with_cache(torch.tensor([[token_id]]), torch.tensor([[0]]), model.make_cache(1))


def test_auto_on_a_processor_goes_by_the_keys_and_one_token_is_fused() -> None:
    model = build(attention="auto").eval()
    assert [model.is_fused(2, n_keys) for n_keys in (2, EXPLICIT_UP_TO, EXPLICIT_UP_TO + 1)] == [False, False, True]
    assert model.is_fused(1, 2)


@pytest.mark.parametrize("attention", ["fused", "auto"])
def test_dropout_takes_the_fused_form_away_in_training_only(attention: str) -> None:
    model = build(attention=attention, dropout=0.1)
    assert not model.train().is_fused(EXPLICIT_UP_TO + 1, EXPLICIT_UP_TO + 1)
    assert model.eval().is_fused(EXPLICIT_UP_TO + 1, EXPLICIT_UP_TO + 1)


def test_bfloat16_rotates_by_the_angles_of_float32() -> None:
    rotations = [
        Rotation(BaselineConfig(d_model=D_HEAD, n_heads=1, max_seq_len=300, dtype=dtype))
        for dtype in ("bfloat16", "float32")
    ]
    for name in ("cosines", "sines"):
        narrow, wide = (rotation.get_buffer(name) for rotation in rotations)
        assert narrow.dtype == torch.float32
        assert torch.equal(narrow, wide)


def test_prompt_of_one_sequence_is_hidden_from_its_own_future() -> None:
    model = build(attention="fused").eval()
    input_ids = random_ids(1, SEQ_LEN)
    with torch.no_grad():
        logits = model.forward_with_cache(input_ids, torch.arange(SEQ_LEN)[None], model.make_cache(1))
        assert torch.allclose(logits, model.forward(input_ids), rtol=1e-12, atol=1e-12)
