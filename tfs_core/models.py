"""Base class for models, `AutogradModel`, and functions that build a model and compute its loss.

`AutogradModel` implements all of `LanguageModel` but `forward`. The smallest model plugin is one class:

    class Bigram(AutogradModel):
        def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
            super().__init__(config, vocab_size=vocab_size)
            self.table = nn.Embedding(vocab_size, vocab_size)
            nn.init.normal_(self.table.weight, generator=generator)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.table(input_ids)
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from tfs_core.config.local_model import load_local_model
from tfs_core.config.schema import Choice, is_local_model
from tfs_core.contracts import (
    IGNORED_TARGET,
    Batch,
    LanguageModel,
    ModelConfig,
    SupportsDocumentMasks,
    SupportsFeatures,
)
from tfs_core.errors import ConfigError
from tfs_core.machine import memory_bytes
from tfs_core.plugins import as_plugin_error
from tfs_core.registry import get_registry

LossChunk = int | Literal["auto"] | None
"""`runtime.loss_chunk`: number of positions whose logits are in memory at the same time; None for all positions."""

MAX_PARAMETER_TENSORS = 20_000
"""Limit on the number of weight tensors of a model: a model of more would take minutes to build."""

MAX_LOGITS_IN_MEMORY = 2**25
"""Maximum number of logits in memory at the same time with `loss_chunk: auto`: 128 MiB in float32."""

_PARAMETER_DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


def parameter_dtype(config: ModelConfig) -> torch.dtype:
    """Return the dtype of parameters and optimizer state: float64 if the model computes in float64, else float32.

    Raises ValueError for an unsupported dtype.
    """
    if config.dtype not in _PARAMETER_DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_PARAMETER_DTYPES)}, not '{config.dtype}'")
    return _PARAMETER_DTYPES[config.dtype]


def compute_context(config: ModelConfig, device: torch.device | str) -> AbstractContextManager[object]:
    """Return the context manager for `forward` and `loss`: autocast for bfloat16, else one that does nothing.

    `backward` runs outside it, in the dtypes of the forward pass. Raises ValueError for an unsupported dtype.
    """
    parameter_dtype(config)
    if config.dtype == "bfloat16":
        # Without the cache, a weight that is used twice is cast twice. Its two gradients are then converted to float32
        # before they are added; with the cache they would be added in bfloat16.
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, cache_enabled=False)
    return nullcontext()


def check_input_ids(input_ids: Tensor, *, vocab_size: int, context_limit: int | None) -> None:
    """Raise ValueError unless `input_ids` is [batch_size, seq_len], within the context limit and the vocabulary.

    The values of the ids are checked on the CPU only, where this takes microseconds. Elsewhere a check would force a
    synchronization at every step, and the ids come from a token store, or from a prompt that was checked before. Code
    compiled by `torch.compile` skips all checks: callers of a compiled loss check its inputs first.
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
    """Return the cross-entropy in nats, summed over the valid targets: [], float32 or wider.

    `logits` are [positions, vocab_size], `targets` are int64 [positions].
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))  # [positions, vocab_size]
    return F.cross_entropy(wide, targets, ignore_index=IGNORED_TARGET, reduction="sum")


class _Graph:
    """The autograd graph of the last loss, stored for one `backward`."""

    def __init__(self) -> None:
        self._loss: Tensor | None = None

    def loss(self, compute: Callable[..., Tensor], *inputs: Tensor | None, training: bool) -> Tensor:
        """Return `compute(*inputs)`, detached: []. The graph is stored in training mode and not built in eval mode."""
        if training:
            self._loss = None  # releases an unused graph before a new one takes memory
        with torch.set_grad_enabled(training):
            loss = compute(*inputs)  # []
        if training:
            self._loss = loss
        return loss.detach()

    def backward(self, scale: float) -> None:
        """Add `scale * dL/dp` to every parameter's `.grad`, and release the graph.

        Raises RuntimeError without a stored graph.
        """
        if self._loss is None:
            raise RuntimeError("backward needs a loss: call loss(...) in training mode first, once for each backward")
        loss, self._loss = self._loss, None
        torch.autograd.backward(loss, torch.full_like(loss, scale))


class AutogradModel(nn.Module):
    """Base class of a `LanguageModel` with gradients from autograd. Subclasses define `forward(input_ids) -> logits`.

    Shapes: `input_ids` [batch_size, seq_len], logits [batch_size, seq_len, vocab_size].
    """

    mirrors: str | None = None

    def __init__(self, config: ModelConfig, *, vocab_size: int) -> None:
        super().__init__()
        parameter_dtype(config)  # raises ValueError for an unsupported dtype
        self.config = config
        self.vocab_size = vocab_size
        self.context_limit: int | None = config.max_seq_len  # set it to None in a model that has no limit
        self._graph = _Graph()

    def loss(self, input_ids: Tensor, target_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the sum of nats over the valid targets, detached: [], float32 or wider.

        All arguments are int64 [batch_size, seq_len]. In training mode the graph is stored for one `backward`; in eval
        mode none is built.
        """
        return self._graph.loss(self.sum_of_nats, input_ids, target_ids, document_ids, training=self.training)

    def backward(self, scale: float) -> None:
        """Add `scale * dL/dp` to every parameter's `.grad`, and release the graph.

        Raises RuntimeError without a training-mode `loss` since the last call.
        """
        self._graph.backward(scale)

    def sum_of_nats(
        self,
        input_ids: Tensor,
        target_ids: Tensor,
        document_ids: Tensor | None = None,
        *,
        loss_chunk: LossChunk = "auto",
    ) -> Tensor:
        """Return the sum of nats over the valid targets, with its graph: [].

        The ids are int64 [batch_size, seq_len].

        With `features` and `unembed`, and more positions than `loss_chunk`, the loss is computed in chunks of positions
        to save memory. The graph then stores only the features of a chunk. Its logits are released after the forward
        pass and recomputed in `backward` (activation checkpointing): Chen et al. (2016), "Training Deep Nets with
        Sublinear Memory Cost", https://arxiv.org/abs/1604.06174
        """
        inputs = (input_ids,) if document_ids is None else (input_ids, document_ids)
        targets = target_ids.flatten()  # [batch_size*seq_len]
        if loss_chunk == "auto":  # a function of shapes only, the same on every machine
            chunk_size = max(1, MAX_LOGITS_IN_MEMORY // self.vocab_size)
        else:
            chunk_size = len(targets) if loss_chunk is None else loss_chunk
        if not isinstance(self, SupportsFeatures) or chunk_size >= len(targets):
            return _sum_of_nats(self(*inputs).flatten(0, 1), targets)

        def chunk_loss(features: Tensor, targets: Tensor) -> Tensor:
            return _sum_of_nats(self.unembed(features), targets)

        features = self.features(*inputs).flatten(0, 1)  # [batch_size*seq_len, width]
        chunks = zip(torch.split(features, chunk_size), torch.split(targets, chunk_size), strict=True)
        losses = [checkpoint(chunk_loss, *chunk, use_reentrant=False) for chunk in chunks]
        return torch.stack(losses).sum()

    def embedding_parameters(self) -> list[str]:
        """Return the parameter names of the weights of all `nn.Embedding` modules."""
        tables = {id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)}
        return [name for name, parameter in self.named_parameters() if id(parameter) in tables]

    def flops_per_token(self, seq_len: int) -> float:
        """Return the floating-point operations of training on one token: three times those of the forward pass.

        The backward pass needs about twice the operations of the forward pass. PyTorch counts them during a forward
        pass over `seq_len` tokens, so the count is valid for all layers of matrix products and convolutions. Fused
        attention is counted as its two matrix products. Random states do not change.
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


def has_autograd_loss(model: LanguageModel) -> TypeGuard[AutogradModel]:
    """Return True if the model overrides neither `loss` nor `backward` of `AutogradModel`."""
    return (
        isinstance(model, AutogradModel)
        and getattr(model.loss, "__func__", None) is AutogradModel.loss
        and getattr(model.backward, "__func__", None) is AutogradModel.backward
    )


class LossModule(nn.Module):
    """The loss of a model as a module, so that wrappers can modify or wrap it."""

    def __init__(self, model: LanguageModel, *, loss_chunk: LossChunk = "auto") -> None:
        super().__init__()
        self.model = model
        self.loss_chunk = loss_chunk
        # Checked here and not in `forward`, where torch.compile (2.13) finds no `__func__` of a bound method, so that
        # `has_autograd_loss` would return False.
        self._sum_of_nats = model.sum_of_nats if has_autograd_loss(model) else None
        self.has_chunks = self._sum_of_nats is not None and isinstance(model, SupportsFeatures)

    def forward(self, input_ids: Tensor, target_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the sum of nats over the valid targets: []. Has a graph if autograd computes the gradients.

        All arguments are int64 [batch_size, seq_len].
        """
        if self._sum_of_nats is not None:
            return self._sum_of_nats(input_ids, target_ids, document_ids, loss_chunk=self.loss_chunk)
        inputs = (input_ids, target_ids) if document_ids is None else (input_ids, target_ids, document_ids)
        return self.model.loss(*inputs)


class Objective:
    """Loss and gradients of a model with the wrappers of a run, for the trainer."""

    def __init__(self, model: LanguageModel, module: nn.Module) -> None:
        self.model = model
        self.module = module
        self._graph = _Graph() if has_autograd_loss(model) else None

    def loss(self, *inputs: Tensor) -> Tensor:
        """Return the sum of nats of (input_ids, target_ids[, document_ids]), detached: [].

        Each of `inputs` is int64 [batch_size, seq_len].
        """
        if self._graph is None:
            return self.module(*inputs)  # type: ignore[no-any-return]
        return self._graph.loss(self.module, *inputs, training=self.model.training)

    def backward(self, scale: float) -> None:
        """Add `scale * dL/dp` to every parameter's `.grad`, where L is the last training-mode loss. Frees its data."""
        (self._graph or self.model).backward(scale)


def batch_loss(
    model: LanguageModel, batch: Batch, device: torch.device | str, objective: Objective | None = None
) -> Tensor:
    """Return the sum of nats over the valid targets of a batch: [], on the device. Uses `objective` if given."""
    tensors = [batch.input_ids, batch.target_ids]
    if batch.document_ids is not None:
        tensors.append(batch.document_ids)
    with compute_context(model.config, device):
        return (objective or model).loss(*(tensor.to(device, non_blocking=True) for tensor in tensors))


def build_model(choice: Choice, *, vocab_size: int, seed: int, device: str = "cpu") -> LanguageModel:
    """Build a model with its initial weights, on the device, in training mode.

    The weights are drawn on the CPU from a separate generator with this seed. Raises PluginError when the model is not
    found or cannot be built.
    """
    generator = torch.Generator().manual_seed(seed)
    model: LanguageModel
    with _limited_size(choice.name):
        if is_local_model(choice.name):
            factory, options = load_local_model(choice)
            with as_plugin_error(f"the model {choice.name} cannot be built"):
                model = factory(options, vocab_size=vocab_size, generator=generator)
        else:
            entry = get_registry().find("model", choice.name)
            model = entry.build(choice.options, vocab_size=vocab_size, generator=generator)
    model.to(device=device, dtype=parameter_dtype(model.config))
    model.train()
    return model


@contextmanager
def _limited_size(name: str) -> Iterator[None]:
    """Stop building a model with a ConfigError when it outgrows this machine (context manager)."""
    tensors, n_bytes, limit = 0, 0, memory_bytes() // 2

    def count(module: nn.Module, name_of_parameter: str, parameter: nn.Parameter | None) -> None:  # noqa: ARG001
        nonlocal tensors, n_bytes
        tensors += 1
        n_bytes += 0 if parameter is None else parameter.nbytes
        if tensors > MAX_PARAMETER_TENSORS or n_bytes > limit:
            size = (
                f"{MAX_PARAMETER_TENSORS:,} weight tensors"
                if n_bytes <= limit
                else f"{limit / 2**30:,.1f} GiB of weights"
            )
            raise ConfigError(f"the model '{name}' has more than {size}, the limit on this machine: make it smaller")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def check_document_masks(model: LanguageModel, name: str) -> None:
    """Raise ConfigError if the model, called `name` in the message, does not support document masks."""
    if not isinstance(model, SupportsDocumentMasks):
        raise ConfigError(
            f"data.document_masks: the model '{name}' has no document masks: its attention crosses document "
            "boundaries. Use a model that has them, or separate the documents with data.batching=padded."
        )


@dataclass(frozen=True)
class ParameterCounts:
    """The number of parameters of a model."""

    total: int
    without_embeddings: int


def parameter_counts(model: LanguageModel) -> ParameterCounts:
    """Count the parameters, each tied tensor once. `model.embedding_parameters()` names the embeddings."""
    embeddings = set(model.embedding_parameters())
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return ParameterCounts(sum(sizes.values()), sum(size for name, size in sizes.items() if name not in embeddings))
