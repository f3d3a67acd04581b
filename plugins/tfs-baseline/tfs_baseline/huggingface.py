"""Weights from and to Hugging Face: the same function under other names.

With its default options (RMSNorm, rotary positions, SwiGLU), `baseline` is the same function as Qwen3, and with
`qk_norm: false` the same as Llama. Every tensor corresponds to one of their tensors, in the same layout; only the names
differ. Pretrained weights need the sizes, `rope_theta` and `norm_epsilon` of their config.json. Shapes are those of the
model's parameters.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from tfs_baseline.model import Transformer
from tfs_core.errors import UsageError

OUTSIDE_THE_BLOCKS = {
    "token_embedding.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "unembedding.weight": "lm_head.weight",
}

IN_A_BLOCK = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.query_norm.weight": "self_attn.q_norm.weight",
    "attention.key_norm.weight": "self_attn.k_norm.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "feed_forward_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.gate.weight": "mlp.gate_proj.weight",
    "feed_forward.expand.weight": "mlp.up_proj.weight",
    "feed_forward.contract.weight": "mlp.down_proj.weight",
}


def huggingface_name(name: str) -> str:
    """Return the name that the parameter `name` of `baseline` has in Qwen3 and Llama of `transformers`.

    Raises UsageError for parameters that Qwen3 and Llama lack, such as those of LayerNorm and of learned positions.
    """
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if block is not None and block[2] in IN_A_BLOCK:
        return f"model.layers.{block[1]}.{IN_A_BLOCK[block[2]]}"
    if name in OUTSIDE_THE_BLOCKS:
        return OUTSIDE_THE_BLOCKS[name]
    raise UsageError(
        f"baseline: Qwen3 and Llama have no parameter for '{name}'. Only a model with `norm: rms`, "
        "`positions: rotary` and `feed_forward: swiglu` is one of theirs."
    )


def huggingface_weights(model: Transformer) -> dict[str, Tensor]:
    """Return the model's tensors under their Hugging Face names, for `load_state_dict` of a `transformers` model.

    With tied embeddings, the table is returned under both names. Raises UsageError as `huggingface_name` does.
    """
    weights = {huggingface_name(name): tensor for name, tensor in model.state_dict().items()}
    if model.config.tied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights


def load_huggingface_weights(model: Transformer, weights: Mapping[str, Tensor]) -> None:
    """Copy the `state_dict()` of a Qwen3ForCausalLM or LlamaForCausalLM into the model.

    Raises UsageError, and copies nothing, when a tensor is missing, has another shape, or does not exist in `baseline`.
    """
    names = {name: huggingface_name(name) for name in model.state_dict()}
    left_over = set(weights) - set(names.values())
    if model.config.tied:
        left_over.discard("lm_head.weight")  # the token table once more
    problems = [f"{theirs} has no place in it" for theirs in sorted(left_over)]
    for name, own in model.state_dict().items():
        if names[name] not in weights:
            problems.append(f"{names[name]} is missing for {name}")
        elif weights[names[name]].shape != own.shape:
            theirs = list(weights[names[name]].shape)
            problems.append(f"{names[name]} is {theirs} and {name} is {list(own.shape)}")
    if problems:
        raise UsageError(
            f"baseline: the weights are of another model than the configuration describes: {'; '.join(problems[:5])}. "
            "Compare the sizes, tied and qk_norm with their config.json (biases and other norms have no place here)."
        )
    model.load_state_dict({name: weights[theirs] for name, theirs in names.items()})
