"""The options of the model `baseline`, in addition to the options of every model.

The classes raise ValueError for invalid values.
"""

from dataclasses import dataclass
from typing import Literal

from tfs_core.contracts import ModelConfig

D_FFN_MULTIPLE = 32
"""The default d_ffn of SwiGLU is rounded to a multiple of this number, because kernels work in tiles."""


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(ModelConfig):
    """A pre-norm transformer with the changes that became standard since GPT-2. The defaults are Qwen3's function."""

    d_model: int = 256
    """The width of the residual stream. Twice the width is four times the parameters and the work of the blocks."""

    n_heads: int = 4
    """Query heads in a block; widths of 32 to 128 each work well."""

    n_kv_heads: int | None = None
    """Key/value heads: each serves n_heads / n_kv_heads query heads. null for n_heads. Fewer make the key/value cache
    smaller, and the block too; 1 is multi-query attention."""

    d_head: int | None = None
    """The width of a head; null for d_model / n_heads. Must be even with rotary positions."""

    n_blocks: int = 6
    """Transformer blocks, one after the other. More blocks learn more per parameter, and each step takes longer."""

    d_ffn: int | None = None
    """The hidden width of the feed-forward part; null for 8/3 * d_model to the nearest 32 with SwiGLU and 4 * d_model
    with GELU: the same number of parameters."""

    norm: Literal["rms", "layer"] = "rms"
    """`rms` scales, `layer` also centers, as in GPT-2."""

    norm_epsilon: float = 1e-6
    """Added to the mean square, so that zeros are not divided by zero. Pretrained weights need the value that they
    were trained with (1e-5 or 1e-6)."""

    positions: Literal["rotary", "learned"] = "rotary"
    """`rotary` rotates queries and keys by angles proportional to the position, `learned` adds a table to the
    embeddings, as in GPT-2."""

    rope_theta: float = 10000.0
    """The base of rotary positions' wavelengths; larger for contexts of many thousands of tokens. Only for `rotary`."""

    qk_norm: bool = True
    """Normalize queries and keys, head by head: training is more stable at high learning rates."""

    feed_forward: Literal["swiglu", "gelu"] = "swiglu"
    """`swiglu` is gated; `gelu` is not, as in GPT-2 (but the exact GELU, not GPT-2's tanh approximation)."""

    tied: bool = True
    """Use one table for embedding and unembedding. false adds vocab_size * d_model parameters: for large models."""

    attention: Literal["auto", "explicit", "fused"] = "auto"
    """`explicit` is the formula, line by line; `fused` is one call that never stores all attention weights. `auto` is
    explicit on a CPU for rows of 2 to 512 tokens, and otherwise fused. With dropout, training uses explicit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("d_model", "n_heads", "n_kv_heads", "d_head", "n_blocks", "d_ffn"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.n_blocks > 1000:
            raise ValueError(f"n_blocks must be at most 1000, not {self.n_blocks}")
        for name in ("norm_epsilon", "rope_theta"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.positions == "learned" and self.rope_theta != type(self).rope_theta:
            raise ValueError("rope_theta has no effect with learned positions: leave it out")
        if self.d_head is None and self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads must divide d_model into heads of equal width; {self.n_heads} does not divide {self.d_model} "
                "(or give d_head)"
            )
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_kv_heads must divide n_heads; {self.n_kv_heads} does not divide {self.n_heads}")
        if self.positions == "rotary" and self.head_width % 2:
            raise ValueError(f"rotary positions rotate pairs of features: a head of {self.head_width} cannot be paired")

    @property
    def head_width(self) -> int:
        """Return d_head, or its default, d_model / n_heads."""
        return self.d_model // self.n_heads if self.d_head is None else self.d_head

    @property
    def kv_heads(self) -> int:
        """Return n_kv_heads, or its default, n_heads."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def hidden_width(self) -> int:
        """Return d_ffn, or its default."""
        if self.d_ffn is not None:
            return self.d_ffn
        if self.feed_forward == "gelu":
            return 4 * self.d_model
        return max(1, round(8 * self.d_model / 3 / D_FFN_MULTIPLE)) * D_FFN_MULTIPLE
