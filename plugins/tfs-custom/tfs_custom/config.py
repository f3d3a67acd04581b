"""The options of the model `custom` and of the two hand-written optimizers.

The classes raise ValueError for invalid values.
"""

from dataclasses import dataclass
from typing import Literal

from tfs_core.contracts import ModelConfig


@dataclass(frozen=True, kw_only=True)
class CustomConfig(ModelConfig):
    """A pre-norm transformer with learned positions: GPT-2's function, every gradient derived by hand."""

    d_model: int = 256
    """The width of the residual stream. Twice the width is four times the parameters and the work of the blocks."""

    n_heads: int = 4
    """Attention heads in a block, each d_model / n_heads wide; widths of 32 to 128 work well."""

    n_blocks: int = 6
    """Transformer blocks, one after the other. More blocks learn more per parameter, and each step takes longer."""

    d_ffn: int | None = None
    """The hidden width of the feed-forward part; null for 4 * d_model."""

    gelu: Literal["tanh", "exact"] = "tanh"
    """Which form of GELU: `tanh` is GPT-2's approximation, `exact` the definition."""

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


@dataclass(frozen=True, kw_only=True)
class AdamWByHandConfig:
    """The options of the hand-written AdamW, the same as those of the built-in `adamw`."""

    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates (beta1, beta2) of the exponential moving averages of the gradient and of its square."""

    eps: float = 1e-8
    """Added to the denominator (the root of the mean squared gradient): prevents division by a number near 0."""

    def __post_init__(self) -> None:
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, not {list(self.betas)}")
        if self.eps < 0.0:
            raise ValueError(f"eps must be at least 0, not {self.eps}")


@dataclass(frozen=True, kw_only=True)
class SGDByHandConfig:
    """The options of the hand-written SGD, the same as those of the built-in `sgd`."""

    momentum: float = 0.0
    """Each update direction is the gradient plus `momentum` times the last direction. 0 for none; 0.9 is usual."""

    nesterov: bool = False
    """Nesterov momentum: look ahead along the momentum before the gradient is applied. Needs a momentum above 0."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must be at least 0 and below 1, not {self.momentum}")
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs a momentum above 0, such as 0.9")
