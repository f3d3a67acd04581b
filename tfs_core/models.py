"""What a model need not write itself: `AutogradModel` supplies all of `LanguageModel` but `forward`.

The smallest model plugin is one class:

    class Bigram(AutogradModel):
        def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
            super().__init__(config, vocab_size=vocab_size)
            self.table = nn.Embedding(vocab_size, vocab_size)
            nn.init.normal_(self.table.weight, generator=generator)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.table(input_ids)
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from tfs_core.contracts import IGNORED_TARGET, ModelConfig, SupportsFeatures

LOGITS_AT_ONCE = 2**25
"""How many logits a loss holds at a time with `loss_chunk: auto`: 128 MiB of them in float32."""

_PARAMETER_DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


def parameter_dtype(config: ModelConfig) -> torch.dtype:
    """Return what parameters and optimizer state are kept in: float64 for float64, else float32.

    Raises ValueError for a dtype that tfs does not compute in.
    """
    if config.dtype not in _PARAMETER_DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_PARAMETER_DTYPES)}, not '{config.dtype}'")
    return _PARAMETER_DTYPES[config.dtype]


def compute_context(config: ModelConfig, device: torch.device | str) -> AbstractContextManager[object]:
    """Return what `forward` and `loss` run inside: autocast when the dtype is bfloat16, else nothing.

    `backward` runs outside it: it computes in the types that the forward pass chose.
    """
    parameter_dtype(config)
    if config.dtype == "bfloat16":
        # A weight that is used twice is cast twice: the sum of its gradients is then one of float32, not of bfloat16.
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, cache_enabled=False)
    return nullcontext()


def check_input_ids(input_ids: Tensor, *, vocab_size: int, context_limit: int | None) -> None:
    """Raise ValueError for ids outside the vocabulary, or for rows longer than the context limit.

    The ids themselves are looked at on the CPU only (microseconds): elsewhere that would make the processor wait for
    the device at every step, and ids come from a token store, or from `tfs_core.generation`, which looks first. In what
    `torch.compile` makes of a loss there is no check: the core makes it before.
    """
    if torch.compiler.is_compiling():
        return
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids must be [batch_size, seq_len], not {list(input_ids.shape)}")
    seq_len = input_ids.shape[1]
    if context_limit is not None and seq_len > context_limit:
        raise ValueError(f"a sequence of {seq_len} tokens is longer than the model's context of {context_limit}")
    if input_ids.device.type == "cpu" and input_ids.numel():
        lowest, highest = (int(extreme) for extreme in torch.aminmax(input_ids))
        if lowest < 0 or highest >= vocab_size:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(f"token id {wrong} is outside the vocabulary: ids go from 0 to {vocab_size - 1}")


def _sum_of_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of logits [positions, vocab_size] and targets [positions], in float32 or wider."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))  # [positions, vocab_size]
    return F.cross_entropy(wide, targets, ignore_index=IGNORED_TARGET, reduction="sum")


class AutogradModel(nn.Module):
    """A `LanguageModel` whose gradients PyTorch works out: inherit, and write `forward(input_ids) -> logits`."""

    mirrors: str | None = None

    loss_chunk: int | Literal["auto"] | None = "auto"
    """`runtime.loss_chunk`: how many positions' logits exist at a time in a model with `SupportsFeatures`."""

    wrapped_loss: Callable[..., Tensor] | None = None
    """What `loss` calls in place of `sum_of_nats`, which it wraps: the compiled one with `runtime.compile`."""

    def __init__(self, config: ModelConfig, *, vocab_size: int) -> None:
        super().__init__()
        parameter_dtype(config)  # refuses a dtype that nothing computes in
        self.config = config
        self.vocab_size = vocab_size
        self.context_limit: int | None = config.max_seq_len  # set it to None in a model that has no limit
        self._kept_loss: Tensor | None = None  # what backward will consume

    def loss(self, input_ids: Tensor, target_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the sum of nats over the valid targets, without dimensions, in float32 or wider.

        In training mode the graph is kept for one `backward`; in eval mode no graph is ever built.
        """
        if self.training:
            self._kept_loss = None  # lets go of an unused graph before a new one takes memory
        with torch.set_grad_enabled(self.training):
            loss = (self.wrapped_loss or self.sum_of_nats)(input_ids, target_ids, document_ids)  # []
        if self.training:
            self._kept_loss = loss
        return loss.detach()

    def sum_of_nats(self, input_ids: Tensor, target_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the loss, with its graph.

        Where not all logits are to exist at once, the positions are taken a piece at a time. Of a piece the graph keeps
        the features only: its logits are computed, used and let go, and computed again when `backward` comes to it.
        """
        inputs = (input_ids,) if document_ids is None else (input_ids, document_ids)
        targets = target_ids.flatten()  # [batch_size*seq_len]
        at_once = self._positions_at_once(len(targets))
        if not isinstance(self, SupportsFeatures) or at_once >= len(targets):
            return _sum_of_nats(self(*inputs).flatten(0, 1), targets)

        def loss_of_piece(features: Tensor, targets: Tensor) -> Tensor:
            return _sum_of_nats(self.unembed(features), targets)

        features = self.features(*inputs).flatten(0, 1)  # [batch_size*seq_len, width]
        pieces = zip(torch.split(features, at_once), torch.split(targets, at_once), strict=True)
        losses = [checkpoint(loss_of_piece, *piece, use_reentrant=False) for piece in pieces]
        return torch.stack(losses).sum()

    def _positions_at_once(self, n_positions: int) -> int:
        """Return how many positions a piece has: a function of shapes only, the same on every machine."""
        if self.loss_chunk is None:
            return n_positions
        return max(1, LOGITS_AT_ONCE // self.vocab_size) if self.loss_chunk == "auto" else self.loss_chunk

    def backward(self, scale: float) -> None:
        """Add `scale * dL/dp` to every parameter's `.grad`, and let go of the graph.

        Raises RuntimeError when no training-mode `loss` came since the last call.
        """
        if self._kept_loss is None:
            raise RuntimeError("backward needs a loss: call loss(...) in training mode first, once for each backward")
        loss, self._kept_loss = self._kept_loss, None
        torch.autograd.backward(loss, torch.full_like(loss, scale))

    def embedding_parameters(self) -> list[str]:
        """Return the names of the weights of every `nn.Embedding`."""
        tables = {id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)}
        return [name for name, parameter in self.named_parameters() if id(parameter) in tables]

    def flops_per_token(self, seq_len: int) -> float:
        """Return three times what one forward pass over `seq_len` ids takes, a token: forward once, backward twice.

        Counted by PyTorch while the pass runs, so it holds for any layer made of matrix products and convolutions;
        fused attention is counted as the two products that it fuses. No random state is moved.
        """
        device = next(self.parameters()).device
        input_ids = torch.zeros(1, seq_len, dtype=torch.int64, device=device)  # [1, seq_len]
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                self(input_ids)
        finally:
            self.train(was_training)
        return 3.0 * float(counter.get_total_flops()) / seq_len
