"""The options of the model `torch`, in addition to the options of every model.

The classes raise ValueError for invalid values.
"""

from dataclasses import dataclass
from typing import Literal

from tfs_core.contracts import ModelConfig


@dataclass(frozen=True, kw_only=True)
class TorchConfig(ModelConfig):
    """A pre-norm transformer with learned positions: GPT-2's function."""

    d_model: int = 256
    """The width of the residual stream. Twice the width is four times the parameters and the work of the blocks."""

    n_heads: int = 4
    """Attention heads in a block, each d_model / n_heads wide; widths of 32 to 128 work well."""

    n_blocks: int = 6
    """Transformer blocks, one after the other. More blocks learn more per parameter, and each step takes longer."""

    d_ffn: int | None = None
    """The hidden width of the feed-forward part; null for 4 * d_model."""

    gelu: Literal["tanh", "exact"] = "tanh"
    """Which form of GELU: `tanh` is GPT-2's approximation, `exact` the definition, and faster on a CPU."""

    attention: Literal["fused", "explicit"] = "fused"
    """`explicit` is the formula, line by line; `fused` is one call that never stores all attention weights, faster on a
    GPU and for long rows. With dropout, training uses explicit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("d_model", "n_heads", "n_blocks", "d_ffn"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.n_blocks > 1000:
            raise ValueError(f"n_blocks must be at most 1000, not {self.n_blocks}")
        if self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads must divide d_model into heads of equal width; {self.n_heads} does not divide {self.d_model}"
            )
