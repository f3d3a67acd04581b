"""The options of the optimizer `muon`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MuonConfig:
    """How Muon updates hidden matrices, and AdamW everything else. `training:` has learning rate and weight decay."""

    momentum: float = 0.95
    """What of the running mean of a matrix's gradient is kept each step. Lower it for runs of a few hundred steps."""

    nesterov: bool = True
    """Mix the newest gradient into the mean once more before it is orthogonalized; better as a rule."""

    newton_schulz_steps: int = 5
    """Steps of the orthogonalization. 5 bring nearly every singular value between 0.7 and 1.2; fewer are faster, and
    leave the small ones small."""

    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's, for the parameters that are left to it: what of the running means of the gradient and of its square is
    kept each step."""

    eps: float = 1e-8
    """AdamW's, added to the root of the mean square: a parameter that has hardly a gradient does not jump."""

    adamw_rate_ratio: float = 1.0
    """The learning rate of the parameters left to AdamW, as a multiple of training.learning_rate."""

    adamw_parameters: tuple[str, ...] = ("*embed*", "*lm_head*", "head.*", "output.*")
    """Patterns of the names of matrices that are left to AdamW as well: the tables that turn ids into vectors and
    vectors into logits. Name a convolution too: Muon takes a parameter with more than two axes for a stack of matrices.
    Vectors (biases, gains) always are AdamW's."""

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
