"""The model `torch`: GPT-2's function, held against a formula of its own, and what the core relies on."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tfs_torch.model
import torch
import torch.nn.functional as F
from tfs_lab.testing.shape_comments import check_shape_comments
from tfs_torch.config import TorchConfig
from tfs_torch.key_value_cache import CachedTransformer
from torch import Tensor

from tfs_core.contracts import IGNORED_TARGET, LanguageModel, SupportsKeyValueCache
from tfs_core.models import AutogradModel, compute_context, parameter_dtype
from tfs_core.registry import get_registry

BATCH_SIZE, SEQ_LEN, MAX_SEQ_LEN, N_HEADS, D_HEAD, D_FFN, N_BLOCKS, VOCAB_SIZE = 2, 7, 11, 3, 5, 17, 4, 23
D_MODEL = N_HEADS * D_HEAD


def build(*, seed: int = 0, shake: float = 0.3, **options: Any) -> CachedTransformer:
    """Return a small model whose every parameter matters: norms and biases are moved off 1 and 0, too."""
    sizes = {"d_model": D_MODEL, "n_heads": N_HEADS, "n_blocks": N_BLOCKS, "d_ffn": D_FFN, "max_seq_len": MAX_SEQ_LEN}
    config = TorchConfig(**(sizes | {"dtype": "float64"} | options))
    generator = torch.Generator().manual_seed(seed)
    model = CachedTransformer(config, vocab_size=VOCAB_SIZE, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(shake * torch.randn(parameter.shape, generator=generator))
    model.to(device="cpu", dtype=parameter_dtype(config))
    return model


def random_ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(VOCAB_SIZE, shape or (BATCH_SIZE, SEQ_LEN), generator=torch.Generator().manual_seed(seed))


def gpt2_logits(weights: dict[str, Tensor], input_ids: list[int], *, exact_gelu: bool = False) -> Tensor:
    """Return the logits [seq_len, vocab_size] of one row by GPT-2's formulas, one position and one head at a time."""

    def norm(x: Tensor, name: str) -> Tensor:
        variance = ((x - x.mean()) ** 2).mean()
        return (x - x.mean()) / (variance + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        if exact_gelu:
            return x * (1 + torch.erf(x / math.sqrt(2))) / 2
        return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2

    xs = [
        weights["token_embedding.weight"][i] + weights["position_embedding.weight"][p] for p, i in enumerate(input_ids)
    ]
    for block in range(N_BLOCKS):
        name = f"blocks.{block}"
        normed = [norm(x, f"{name}.attention_norm") for x in xs]
        queries, keys, values = (
            [linear(x, f"{name}.attention.{part}").view(N_HEADS, D_HEAD) for x in normed]
            for part in ("query", "key", "value")
        )
        for t in range(len(xs)):
            gathered = []
            for head in range(N_HEADS):
                scores = torch.stack([queries[t][head] @ keys[s][head] for s in range(t + 1)]) / math.sqrt(D_HEAD)
                shares = scores.exp() / scores.exp().sum()
                gathered.append(sum(share * values[s][head] for s, share in enumerate(shares)))
            xs[t] = xs[t] + linear(torch.cat(gathered), f"{name}.attention.output")
        for t, x in enumerate(xs):
            hidden = gelu(linear(norm(x, f"{name}.feed_forward_norm"), f"{name}.feed_forward.expand"))
            xs[t] = x + linear(hidden, f"{name}.feed_forward.contract")
    return torch.stack([weights["token_embedding.weight"] @ norm(x, "final_norm") for x in xs])


@pytest.mark.parametrize("attention", ["fused", "explicit"])
@pytest.mark.parametrize("gelu", ["tanh", "exact"])
def test_forward_is_gpt2s_function(attention: str, gelu: str) -> None:
    model = build(attention=attention, gelu=gelu)
    input_ids = random_ids()
    with torch.no_grad():
        logits = model.forward(input_ids)
        for row, ids in enumerate(input_ids.tolist()):
            expected = gpt2_logits(model.state_dict(), ids, exact_gelu=gelu == "exact")
            assert (logits[row] - expected).norm() <= 1e-13 * expected.norm()


def test_fused_and_explicit_attention_have_the_same_gradients() -> None:
    fused, explicit = build(attention="fused"), build(attention="explicit")
    for model in (fused, explicit):
        model.loss(random_ids(), random_ids(seed=2))
        model.backward(1.0)
    whole = torch.cat([parameter.grad.flatten() for parameter in fused.parameters()]).norm()
    for (name, one), other in zip(fused.named_parameters(), explicit.parameters(), strict=True):
        assert (one.grad - other.grad).norm() <= 1e-12 * max(other.grad.norm(), 1e-3 * whole), name


def test_parameters_have_the_promised_names_order_and_shapes() -> None:
    norm = {"weight": [D_MODEL], "bias": [D_MODEL]}
    square = {"weight": [D_MODEL, D_MODEL], "bias": [D_MODEL]}
    block: dict[str, dict[str, list[int]]] = {"attention_norm": norm}
    block |= {f"attention.{part}": square for part in ("query", "key", "value", "output")}
    block |= {"feed_forward_norm": norm}
    block |= {"feed_forward.expand": {"weight": [D_FFN, D_MODEL], "bias": [D_FFN]}}
    block |= {"feed_forward.contract": {"weight": [D_MODEL, D_FFN], "bias": [D_MODEL]}}
    parts = {"token_embedding": {"weight": [VOCAB_SIZE, D_MODEL]}, "position_embedding": {"weight": [11, D_MODEL]}}
    parts |= {f"blocks.{i}.{name}": shapes for i in range(N_BLOCKS) for name, shapes in block.items()}
    parts |= {"final_norm": norm}
    expected = [(f"{name}.{kind}", shape) for name, shapes in parts.items() for kind, shape in shapes.items()]
    assert [(name, list(parameter.shape)) for name, parameter in build().named_parameters()] == expected
    assert list(build().state_dict()) == [name for name, _ in expected]


def test_initial_values_are_drawn_in_order_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    model = build(seed=5, shake=0.0, dtype="float32")
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
def test_cache_equals_the_full_forward_for_prompts_of_different_lengths(attention: str) -> None:
    model = build(attention=attention).eval()
    assert isinstance(model, SupportsKeyValueCache)
    input_ids = random_ids()
    with torch.no_grad():
        full = model.forward(input_ids)
        cache = model.make_cache(BATCH_SIZE)
        lengths = torch.tensor([3, 5])
        positions = torch.arange(5).expand(BATCH_SIZE, 5)
        prompts = torch.where(positions < lengths[:, None], input_ids[:, :5], 0)
        logits = model.forward_with_cache(prompts, positions, cache)
        for row, length in enumerate(lengths.tolist()):
            assert torch.allclose(logits[row, :length], full[row, :length], rtol=1e-12, atol=1e-12)
        for _ in range(2):
            new = model.forward_with_cache(input_ids.gather(1, lengths[:, None]), lengths[:, None], cache)
            for row, length in enumerate(lengths.tolist()):
                assert torch.allclose(new[row, 0], full[row, length], rtol=1e-12, atol=1e-12)
            lengths = lengths + 1


def test_cache_in_bfloat16_takes_half_the_memory_and_computes() -> None:
    model = build(dtype="bfloat16").eval()
    cache = model.make_cache(1)
    assert cache[0].keys.dtype == torch.bfloat16
    with torch.no_grad(), compute_context(model.config, "cpu"):
        logits = model.forward_with_cache(random_ids(1, 4), torch.arange(4)[None], cache)
        expected = model.forward(random_ids(1, 4))
    assert (logits - expected).norm() <= 0.05 * expected.norm()


def test_bfloat16_keeps_norms_softmax_residual_and_parameters_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[torch.dtype]] = {}
    model = build(dtype="bfloat16", attention="explicit")
    for name, module in model.named_modules():
        if name.endswith("norm"):
            module.register_forward_hook(lambda _m, inputs, output: seen.setdefault("norm", set()).update(
                {inputs[0].dtype, output.dtype}))  # fmt: skip
        if name.endswith("gelu"):
            module.register_forward_hook(lambda _m, inputs, output: seen.setdefault("gelu", set()).add(output.dtype))
    softmax = Tensor.softmax
    monkeypatch.setattr(
        Tensor,
        "softmax",
        lambda x, **k: seen.setdefault("softmax", set()).add(softmax(x, **k).dtype) or softmax(x, **k),
    )
    with compute_context(model.config, "cpu"):
        loss = model.loss(random_ids(), random_ids(seed=2))
    model.backward(1.0)
    assert seen == {"norm": {torch.float32}, "gelu": {torch.bfloat16}, "softmax": {torch.float32}}
    assert loss.dtype == torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


def test_dropout_is_off_in_eval_and_by_default() -> None:
    assert torch.equal(build(dropout=0.5).eval().forward(random_ids()), build().eval().forward(random_ids()))
    assert torch.equal(build().train().forward(random_ids()), build().eval().forward(random_ids()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_dropout_draws_the_masks_that_bernoulli_draws(dtype: str) -> None:
    """What the hand-written mirror relies on, place by place: embeddings, weights, output, contract."""
    x = torch.ones(3, 5, dtype=getattr(torch, dtype))
    torch.manual_seed(3)
    dropped = F.dropout(x, 0.25)
    torch.manual_seed(3)
    mask = torch.empty_like(x).bernoulli_(0.75)
    assert torch.equal(dropped, x * (mask / 0.75))


@pytest.mark.parametrize("attention", ["fused", "explicit"])
def test_dropout_drops_in_its_four_places_in_order(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    dropout = F.dropout
    monkeypatch.setattr(F, "dropout", lambda x, *rest: shapes.append(list(x.shape)) or dropout(x, *rest))
    build(dropout=0.1, n_blocks=1, attention=attention).train().forward(random_ids())
    stream = [BATCH_SIZE, SEQ_LEN, D_MODEL]
    assert shapes == [stream, [BATCH_SIZE, N_HEADS, SEQ_LEN, SEQ_LEN], stream, stream]


def test_flops_are_those_that_pytorch_counts() -> None:
    model = build()
    matrices = N_BLOCKS * (4 * D_MODEL * D_MODEL + 2 * D_MODEL * D_FFN) + VOCAB_SIZE * D_MODEL
    expected = 3 * (2 * matrices + 4 * N_BLOCKS * SEQ_LEN * D_MODEL)
    assert model.flops_per_token(SEQ_LEN) == expected
    assert AutogradModel.flops_per_token(model, SEQ_LEN) == expected


def test_embedding_parameters_are_both_tables() -> None:
    assert build().embedding_parameters() == ["token_embedding.weight", "position_embedding.weight"]


def test_d_ffn_is_four_times_d_model_unless_given() -> None:
    assert build(d_ffn=None).state_dict()["blocks.0.feed_forward.expand.weight"].shape == (4 * D_MODEL, D_MODEL)


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
    input_ids, target_ids = random_ids(), random_ids(seed=2)
    alone = float(model.loss(input_ids[:1], target_ids[:1]))
    target_ids[1] = IGNORED_TARGET
    assert math.isclose(float(model.loss(input_ids, target_ids)), alone, rel_tol=1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 10, "n_heads": 3}, "n_heads must divide d_model .* 3 does not divide 10"),
        ({"n_blocks": 0}, "n_blocks must be at least 1, not 0"),
        ({"d_ffn": 0}, "d_ffn must be at least 1, not 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ],
)
def test_impossible_options_are_refused_in_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchConfig(**options)


def test_shape_comments_are_true() -> None:
    model, explicit = build(), build(attention="explicit")
    sizes = {
        "batch_size": BATCH_SIZE, "seq_len": SEQ_LEN, "n_keys": SEQ_LEN, "max_seq_len": MAX_SEQ_LEN, "n_heads": N_HEADS,
        "d_head": D_HEAD, "d_model": D_MODEL, "d_ffn": D_FFN, "vocab_size": VOCAB_SIZE,
    }  # fmt: skip

    def run() -> None:
        for either in (model, explicit):
            either.forward(random_ids())
            positions = torch.arange(SEQ_LEN).expand(BATCH_SIZE, SEQ_LEN)
            either.forward_with_cache(random_ids(), positions, either.make_cache(BATCH_SIZE))

    folder = Path(tfs_torch.model.__file__).parent
    check_shape_comments(run, [folder / "model.py", folder / "key_value_cache.py"], sizes).require()


def test_torch_is_found_by_name_and_builds_a_language_model() -> None:
    entry = get_registry().find("model", "torch")
    config_class = entry.load_config_class()
    assert config_class is TorchConfig
    model: LanguageModel = entry.load_factory()(
        TorchConfig(d_model=8, n_heads=2, n_blocks=1), vocab_size=9, generator=torch.Generator()
    )
    assert model.context_limit == 256


def test_naming_the_plugin_imports_no_torch() -> None:
    code = "import sys, tfs_torch.config, tfs_torch.plugin as p; p.tfs_models(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE])
def test_the_cache_takes_no_ids_outside_the_vocabulary(token_id: int) -> None:
    model = build().eval()
    with pytest.raises(ValueError, match=f"token id {token_id} is outside the vocabulary"):
        model.forward_with_cache(torch.tensor([[token_id]]), torch.tensor([[0]]), model.make_cache(1))


def test_dropout_takes_the_fused_form_away_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *inputs, **options: calls.append(1) or attend(*inputs, **options)
    )
    model = build(dropout=0.1)
    model.train().forward(random_ids())
    assert not calls
    model.eval().forward(random_ids())
    assert len(calls) == N_BLOCKS
    model.forward_with_cache(random_ids(1, 1), torch.tensor([[0]]), model.make_cache(1))
    assert len(calls) == 2 * N_BLOCKS


def test_prompt_of_one_sequence_is_hidden_from_its_own_future() -> None:
    model = build(attention="fused").eval()
    input_ids = random_ids(1, SEQ_LEN)
    with torch.no_grad():
        logits = model.forward_with_cache(input_ids, torch.arange(SEQ_LEN)[None], model.make_cache(1))
        assert torch.allclose(logits, model.forward(input_ids), rtol=1e-12, atol=1e-12)
