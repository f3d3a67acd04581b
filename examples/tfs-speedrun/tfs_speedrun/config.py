"""Options of the model and of the optimizer `speedrun`, in addition to those of every model and optimizer."""

from dataclasses import dataclass

from tfs_core.contracts import ModelConfig


@dataclass(frozen=True, kw_only=True)
class SpeedrunConfig(ModelConfig):
    """Options of the model `speedrun`, a transformer designed for a low loss after seconds of training."""

    d_model: int = 128
    """The width of the residual stream."""

    n_heads: int = 4
    """Attention heads in a block, each d_model / n_heads wide."""

    n_blocks: int = 4
    """Transformer blocks, one after the other."""

    d_ffn: int | None = None
    """The hidden width of the feed-forward part; null for 4 * d_model."""

    n_taps: int = 4
    """The input of the first block is the sum of the embeddings of this many tokens: the current one and those right
    before it. Each of these positions has its own table."""

    ngram_contexts: tuple[int, ...] = ()
    """The context length of each n-gram table, in tokens: `[2, 3]` for a trigram and a 4-gram table. Use tables only
    for small texts and short runs."""

    ngram_rows: tuple[int, ...] = ()
    """The number of rows of each n-gram table, each of vocab_size numbers. When there are more contexts than rows,
    contexts share rows by a hash."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("d_model", "n_heads", "n_blocks", "d_ffn", "n_taps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads must divide d_model into heads of equal width; {self.n_heads} does not divide {self.d_model}"
            )
        if len(self.ngram_contexts) != len(self.ngram_rows):
            raise ValueError(
                "ngram_contexts and ngram_rows describe the same tables, one number each; "
                f"{len(self.ngram_contexts)} and {len(self.ngram_rows)} numbers are given"
            )
        for name in ("ngram_contexts", "ngram_rows"):
            if any(number < 1 for number in getattr(self, name)):
                raise ValueError(f"{name} must be numbers of at least 1, not {list(getattr(self, name))}")


@dataclass(frozen=True, kw_only=True)
class SpeedrunOptimizerConfig:
    """Options of the optimizer `speedrun`; `training.learning_rate` is the rate of the hidden matrices."""

    momentum: float = 0.95
    """Decay rate of the exponential moving average of a hidden matrix's gradient."""

    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates (beta1, beta2) of the exponential moving averages of the gradient and of its square."""

    adamw_parameters: tuple[str, ...] = ("*taps*", "*head*", "*bias*")
    """Name patterns of the matrices that AdamW updates, in addition to all vectors."""

    adamw_rate_ratio: float = 1.0
    """AdamW's learning rate, as a multiple of training.learning_rate."""

    sgd_parameters: tuple[str, ...] = ("*ngram*",)
    """Name patterns of the parameters that plain gradient descent updates: tables with few rows used per step."""

    sgd_rate_ratio: float = 10_000.0
    """The learning rate of plain gradient descent, as a multiple of training.learning_rate. It is large because the
    gradient is a mean over all tokens of a batch, and a row is used by only a few of them."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must be at least 0 and below 1, not {self.momentum}")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, not {list(self.betas)}")
        for name in ("adamw_rate_ratio", "sgd_rate_ratio"):
            if getattr(self, name) <= 0.0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
