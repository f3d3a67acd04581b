"""`baseline` against `transformers`: the same weights give the same logits, and go both ways."""

from typing import Any

import pytest
import torch
from tfs_baseline.config import BaselineConfig
from tfs_baseline.huggingface import huggingface_name, huggingface_weights, load_huggingface_weights
from tfs_baseline.model import Transformer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3

from tfs_core.errors import UsageError
from tfs_core.models import parameter_dtype

VOCAB_SIZE, MAX_SEQ_LEN = 23, 13

SIZES: dict[str, dict[str, Any]] = {
    "one head answers": {"n_heads": 3, "n_kv_heads": 1, "d_head": 4, "d_model": 12},
    "groups, wide heads, untied": {"n_heads": 6, "n_kv_heads": 3, "d_head": 8, "d_model": 18, "tied": False},
    "as many answer as ask": {"n_heads": 5, "d_model": 30, "rope_theta": 1e6, "norm_epsilon": 1e-5},
    "groups, narrow heads": {"n_heads": 4, "n_kv_heads": 2, "d_head": 2, "d_model": 28, "rope_theta": 500.0},
}


class Widened:
    """The module torch, whose float32 is float64: theirs asks for float32 in norms, softmax and angles, whatever the
    weights are in, and logits that agree to 7 digits prove less than logits that agree to 13."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.fixture
def _in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (modeling_qwen3, modeling_llama):
        monkeypatch.setattr(module, "torch", Widened())


def build(family: str, sizes: dict[str, Any], dtype: str = "float64") -> Transformer:
    """Return a `baseline` of a family, every parameter moved off its initial value."""
    options = {"n_blocks": 3, "d_ffn": 17, "max_seq_len": MAX_SEQ_LEN, "dtype": dtype, "qk_norm": family == "qwen3"}
    config = BaselineConfig(**(options | sizes))
    generator = torch.Generator().manual_seed(0)
    model = Transformer(config, vocab_size=VOCAB_SIZE, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.to(device="cpu", dtype=parameter_dtype(config))
    return model.eval()


def build_theirs(family: str, own: Transformer) -> PreTrainedModel:
    """Return the model of `transformers` that `own` should be, with other weights."""
    settings = own.config
    options: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": settings.d_model,
        "intermediate_size": settings.d_ffn,
        "num_hidden_layers": settings.n_blocks,
        "num_attention_heads": settings.n_heads,
        "num_key_value_heads": settings.kv_heads,
        "head_dim": settings.head_width,
        "max_position_embeddings": settings.max_seq_len,
        "rms_norm_eps": settings.norm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": settings.rope_theta},
        "tie_word_embeddings": settings.tied,
        "attn_implementation": "eager",
    }
    torch.manual_seed(7)
    with torch.random.fork_rng():
        if family == "qwen3":
            model: PreTrainedModel = Qwen3ForCausalLM(Qwen3Config(**options))
        else:
            model = LlamaForCausalLM(LlamaConfig(**options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(parameter_dtype(settings)).eval()


def random_ids() -> Tensor:
    return torch.randint(VOCAB_SIZE, (2, MAX_SEQ_LEN), generator=torch.Generator().manual_seed(1))


def difference(own: Transformer, theirs: PreTrainedModel) -> float:
    """Return the norm of the difference between their logits and ours, relative to theirs."""
    with torch.no_grad():
        expected = theirs(random_ids()).logits
        logits = own.forward(random_ids())
    assert logits.dtype == expected.dtype
    return float((logits - expected).norm() / expected.norm())


@pytest.mark.parametrize("attention", ["explicit", "fused"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.usefixtures("_in_float64")
def test_logits_are_theirs_with_their_weights(family: str, sizes: dict[str, Any], attention: str) -> None:
    own = build(family, sizes | {"attention": attention})
    theirs = build_theirs(family, own)
    assert difference(own, theirs) > 0.1, "the weights are not yet the same"
    load_huggingface_weights(own, theirs.state_dict())
    assert difference(own, theirs) <= 1e-13


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.usefixtures("_in_float64")
def test_weights_go_back_to_theirs(family: str, sizes: dict[str, Any]) -> None:
    own = build(family, sizes)
    theirs = build_theirs(family, own)
    theirs.load_state_dict(huggingface_weights(own))
    assert difference(own, theirs) <= 1e-13


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_logits_are_theirs_in_float32_as_published(family: str) -> None:
    own = build(family, SIZES["groups, wide heads, untied"], dtype="float32")
    theirs = build_theirs(family, own)
    load_huggingface_weights(own, theirs.state_dict())
    assert difference(own, theirs) <= 1e-5


def test_every_name_of_theirs_is_used_once() -> None:
    own = build("qwen3", SIZES["groups, wide heads, untied"])
    names = [huggingface_name(name) for name in own.state_dict()]
    assert sorted(names) == sorted(build_theirs("qwen3", own).state_dict())


def test_weights_of_another_family_are_refused_by_name() -> None:
    own = build("llama", SIZES["one head answers"])
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    with pytest.raises(UsageError, match=r"model.layers.0.self_attn.k_norm.weight has no place in it"):
        load_huggingface_weights(own, build_theirs("qwen3", own).state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())


def test_weights_of_another_size_are_refused_by_name() -> None:
    own = build("llama", SIZES["one head answers"])
    other = build("llama", SIZES["one head answers"] | {"d_ffn": 19})
    with pytest.raises(UsageError, match=r"mlp.gate_proj.weight is \[19, 12\] and blocks.0.*is \[17, 12\]"):
        load_huggingface_weights(own, build_theirs("llama", other).state_dict())


def test_missing_weights_are_refused_by_name() -> None:
    own = build("qwen3", SIZES["one head answers"])
    weights = huggingface_weights(own)
    del weights["model.norm.weight"]
    with pytest.raises(UsageError, match=r"model.norm.weight is missing for final_norm.weight"):
        load_huggingface_weights(own, weights)


def test_a_model_that_is_not_theirs_is_refused_in_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"no parameter for 'position_embedding.weight'"):
        huggingface_weights(build("llama", SIZES["one head answers"] | {"positions": "learned"}))
