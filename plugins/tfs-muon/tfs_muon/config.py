"""The options of the optimizer `muon`.

The class raises ValueError for invalid values.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MuonConfig:
    """Options of `muon`: Muon for hidden matrices, AdamW for all other parameters.

    Learning rate and weight decay are settings of `training`.
    """

    momentum: float = 0.95
    """Decay rate of the exponential moving average of a matrix's gradient. Lower it for runs of a few hundred steps."""

    nesterov: bool = True
    """Nesterov momentum: mix the newest gradient into the average once more before it is orthogonalized. Usually
    better."""

    newton_schulz_steps: int = 5
    """Iterations of the orthogonalization. 5 bring nearly every singular value between 0.7 and 1.2; fewer are faster,
    and small singular values stay small."""

    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates (beta1, beta2) of the exponential moving averages of the gradient and of its square."""

    eps: float = 1e-8
    """Added to AdamW's denominator (the root of the mean squared gradient): limits the updates of parameters with very
    small gradients."""

    adamw_rate_ratio: float = 1.0
    """The learning rate of AdamW's parameters, as a multiple of training.learning_rate."""

    adamw_parameters: tuple[str, ...] = ("*embed*", "*lm_head*", "head.*", "output.*")
    """Name patterns of the matrices that AdamW updates: the embedding tables and the output matrix. Add convolutions:
    Muon treats a parameter with more than two axes as a stack of matrices. Vectors (biases, gains) are always updated
    by AdamW."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must be at least 0 and below 1, not {self.momentum}")
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs a momentum above 0, such as 0.95")
        if self.newton_schulz_steps < 1:
            raise ValueError(f"newton_schulz_steps must be at least 1, not {self.newton_schulz_steps}")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, not {list(self.betas)}")
        if self.eps < 0.0:
            raise ValueError(f"eps must be at least 0, not {self.eps}")
        if self.adamw_rate_ratio <= 0.0:
            raise ValueError(f"adamw_rate_ratio must be above 0, not {self.adamw_rate_ratio}")
