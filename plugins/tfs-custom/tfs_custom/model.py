"""The transformer, exactly GPT-2's function, with its backward written by hand. Small parts come before the whole.

    x = token embedding + position embedding
    n_blocks times:  x = x + attention(norm(x));  x = x + feed_forward(norm(x))
    logits = norm(x) @ token embedding transposed

Vaswani et al. (2017), "Attention Is All You Need", https://arxiv.org/abs/1706.03762
Radford et al. (2019), "Language Models are Unsupervised Multitask Learners" (GPT-2: the norm comes before each part),
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf

Each class has a `forward` and a `backward`. The backward follows the lines of the forward from last to first: it
takes the gradient of the output and returns the gradient of the input. The layers (`self.query`, `self.dropout`, ...)
keep their caches in between; the mathematics of each layer is in `ops/`. A gradient has the shape of its tensor.

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions in each sequence
    d_model     width of the residual stream, the x that every block reads and adds to
    d_ffn       hidden width of the feed-forward part
    vocab_size  token types
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tfs_core.contracts import IGNORED_TARGET, Operation
from tfs_core.models import check_input_ids, compute_context, parameter_dtype
from tfs_custom import replaced
from tfs_custom.config import CustomConfig
from tfs_custom.faults import FAULTS
from tfs_custom.layers import (
    GELU,
    CausalAttention,
    CrossEntropy,
    Dropout,
    Embedding,
    Layer,
    LayerNorm,
    Linear,
    Unembedding,
)
from tfs_custom.module import Module
from tfs_custom.operation_samples import sample_operations
from tfs_custom.ops.accumulate import accumulate
from tfs_custom.ops.attention import visible_positions
from tfs_custom.ops.embedding import positions_of
from tfs_custom.ops.residual import residual_backward, residual_forward


class Attention(Module):
    """Each position reads from itself and from earlier positions, in several heads at once."""

    def __init__(self, config: CustomConfig) -> None:
        self.query = Linear(config.d_model, config.d_model)
        self.key = Linear(config.d_model, config.d_model)
        self.value = Linear(config.d_model, config.d_model)
        self.attend = CausalAttention(config.n_heads, config.dropout)
        self.output = Linear(config.d_model, config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Return the contribution to the residual stream [batch_size, seq_len, d_model], given the normalized stream x.

        `visible` is the causal mask [seq_len, seq_len].
        """
        # 1. A position searches with its query, is found by its key, and passes on its value
        queries = self.query.forward(x)  # [batch_size, seq_len, d_model]
        keys = self.key.forward(x)  # [batch_size, seq_len, d_model]
        values = self.value.forward(x)  # [batch_size, seq_len, d_model]

        # 2. Each position gets a weighted sum of the values, head by head
        gathered = self.attend.forward(queries, keys, values, visible)  # [batch_size, seq_len, d_model]

        # 3. The output projection mixes the heads
        output = self.output.forward(gathered)  # [batch_size, seq_len, d_model]
        return self.dropout.forward(output)

    def backward(self, grad_output: Tensor) -> Tensor:
        """Return the gradient of the input x [batch_size, seq_len, d_model], given the gradient of the output."""
        # 3. Forward was: dropout(output), output = output_projection(gathered)
        grad_output = self.dropout.backward(grad_output)  # [batch_size, seq_len, d_model]
        grad_gathered = self.output.backward(grad_output)  # [batch_size, seq_len, d_model]

        # 2. Forward was: gathered = attend(queries, keys, values)
        grad_queries, grad_keys, grad_values = self.attend.backward(grad_gathered)  # [batch_size, seq_len, d_model]

        # 1. Forward was: queries = query(x), keys = key(x), values = value(x)
        # x was used three times, so its gradient is the sum of three.
        grad_x = (
            self.query.backward(grad_queries) + self.key.backward(grad_keys) + self.value.backward(grad_values)
        )  # [batch_size, seq_len, d_model]
        return grad_x


class FeedForward(Module):
    """Two linear layers, d_model -> d_ffn -> d_model, with a nonlinearity between them; every position separately."""

    def __init__(self, config: CustomConfig) -> None:
        d_ffn = 4 * config.d_model if config.d_ffn is None else config.d_ffn
        self.expand = Linear(config.d_model, d_ffn)
        self.gelu = GELU(config.gelu)
        self.contract = Linear(d_ffn, config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return contract(gelu(expand(x))) [batch_size, seq_len, d_model]."""
        hidden = self.expand.forward(x)  # [batch_size, seq_len, d_ffn]
        activated = self.gelu.forward(hidden)  # [batch_size, seq_len, d_ffn]
        output = self.contract.forward(activated)  # [batch_size, seq_len, d_model]
        return self.dropout.forward(output)

    def backward(self, grad_output: Tensor) -> Tensor:
        """Return the gradient of the input x [batch_size, seq_len, d_model], given the gradient of the output.

        The chain rule: the gradient that one line returns is the one that the next line takes.
        """
        grad_output = self.dropout.backward(grad_output)  # [batch_size, seq_len, d_model]
        grad_activated = self.contract.backward(grad_output)  # [batch_size, seq_len, d_ffn]
        grad_hidden = self.gelu.backward(grad_activated)  # [batch_size, seq_len, d_ffn]
        return self.expand.backward(grad_hidden)


class Block(Module):
    """Attention moves information between positions, the feed-forward part processes it; both only add to x."""

    def __init__(self, config: CustomConfig) -> None:
        self.attention_norm = LayerNorm(config.d_model)
        self.attention = Attention(config)
        self.feed_forward_norm = LayerNorm(config.d_model)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Return x with the contributions of both parts added [batch_size, seq_len, d_model].

        x has the same shape; the other argument is that of `Attention.forward`.
        """
        # 1. x + attention(norm(x))
        normalized = self.attention_norm.forward(x)  # [batch_size, seq_len, d_model]
        branch = self.attention.forward(normalized, visible)  # [batch_size, seq_len, d_model]
        x, _ = residual_forward(x, branch)

        # 2. x + feed_forward(norm(x))
        normalized = self.feed_forward_norm.forward(x)  # [batch_size, seq_len, d_model]
        branch = self.feed_forward.forward(normalized)  # [batch_size, seq_len, d_model]
        x, _ = residual_forward(x, branch)
        return x

    def backward(self, grad_x: Tensor) -> Tensor:
        """Return the gradient of the block's input [batch_size, seq_len, d_model], given the gradient of its output.

        x was used twice, by the residual connection and by the norm before the branch, so the two gradients are added.
        """
        # 2. Forward was: x = x + branch, branch = feed_forward(normalized), normalized = feed_forward_norm(x)
        grad_x, grad_branch = residual_backward(grad_x, None)
        grad_normalized = self.feed_forward.backward(grad_branch)  # [batch_size, seq_len, d_model]
        grad_x = grad_x + self.feed_forward_norm.backward(grad_normalized)  # [batch_size, seq_len, d_model]

        # 1. Forward was: x = x + branch, branch = attention(normalized), normalized = attention_norm(x)
        grad_x, grad_branch = residual_backward(grad_x, None)
        grad_normalized = self.attention.backward(grad_branch)  # [batch_size, seq_len, d_model]
        grad_x = grad_x + self.attention_norm.backward(grad_normalized)  # [batch_size, seq_len, d_model]
        return grad_x


class Transformer(Module):
    """The whole: embeddings, blocks, and the logits of the next token at every position. No autograd anywhere."""

    mirrors = "torch"

    def __init__(self, config: CustomConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        parameter_dtype(config)  # raises ValueError for an unsupported dtype
        self.config = config
        self.vocab_size = vocab_size
        self.context_limit: int | None = config.max_seq_len
        self.token_embedding = Embedding(vocab_size, config.d_model)
        self.position_embedding = Embedding(config.max_seq_len, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.blocks = [Block(config) for _ in range(config.n_blocks)]
        self.final_norm = LayerNorm(config.d_model)
        self.unembedding = Unembedding()
        self.cross_entropy = CrossEntropy()
        self.replacements: dict[str, Callable[..., Any]] = {}  # operations that `plant_fault` replaced
        self.initialize(config.n_blocks, generator)

    @torch.no_grad()
    def initialize(self, n_blocks: int, generator: torch.Generator) -> None:
        """Initialize every parameter as in GPT-2, in the order of `named_parameters`.

        Each block adds to x twice. The sum of 2 * n_blocks independent terms grows like the root of their number, so
        the matrices that write to x are drawn smaller by that factor: x ends at about the same size at any depth.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.fill_(0.0)
            elif name.endswith(("attention.output.weight", "feed_forward.contract.weight")):
                parameter.normal_(0.0, 0.02 / math.sqrt(2 * n_blocks), generator=generator)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of the token after each of `input_ids`.

        `input_ids` are [batch_size, seq_len].
        Raises ValueError for ids outside the vocabulary and for more than max_seq_len of them.
        """
        with self.computing(keep_caches=False):
            return self.logits(input_ids)

    def logits(self, input_ids: Tensor) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size]. Each block reads x and adds to it.

        `input_ids` are [batch_size, seq_len]. Raises ValueError as `forward` does.
        """
        check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)
        positions = positions_of(input_ids)  # [batch_size, seq_len]
        visible = visible_positions(input_ids.shape[-1], input_ids.device)  # [seq_len, seq_len]
        x = self.embed(input_ids, positions)  # [batch_size, seq_len, d_model]
        for block in self.blocks:
            x = block.forward(x, visible)  # [batch_size, seq_len, d_model]
        features = self.final_norm.forward(x)  # [batch_size, seq_len, d_model]
        return self.unembed(features)

    def embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Return the first x [batch_size, seq_len, d_model]: token embedding plus position embedding.

        `input_ids` are [batch_size, seq_len], `positions` [..., seq_len].
        """
        token_vectors = self.token_embedding.forward(input_ids)  # [batch_size, seq_len, d_model]
        position_vectors = self.position_embedding.forward(positions)  # [batch_size, seq_len, d_model]
        x = token_vectors + position_vectors  # [batch_size, seq_len, d_model]
        return self.dropout.forward(x)

    def unembed(self, features: Tensor) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size]: how well the features match the vector of each token.

        The table of the token embedding is used a second time (tied).
        """
        return self.unembedding.forward(features, self.token_embedding.weight)

    def flops_per_token(self, seq_len: int) -> float:
        """Return the FLOPs of training on one token: 2 for each weight in the forward pass, and twice that backward.

        An embedding look-up multiplies nothing; the token table is counted once, as the output projection. Scores and
        weighted sums are 2 * seq_len * d_model each, in every block.
        """
        positions = self.position_embedding.weight.numel()
        matrices = sum(p.numel() for _, p in self.named_parameters() if p.dim() == 2) - positions
        attention = 4 * self.config.n_blocks * seq_len * self.config.d_model
        return 3.0 * (2 * matrices + attention)

    def embedding_parameters(self) -> Sequence[str]:
        """Return the names of the two embedding tables."""
        return ["token_embedding.weight", "position_embedding.weight"]

    # The loss and its backward

    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        """Return the sum of nats over the valid targets, a scalar tensor. In training mode, keep caches for `backward`.

        `input_ids` and `target_ids` are [batch_size, seq_len]. A second training-mode loss replaces the caches of the
        first. Raises ValueError for ids outside the vocabulary and for more than max_seq_len of them.
        """
        with self.computing(keep_caches=self.training):
            check_target_ids(target_ids, input_ids, vocab_size=self.vocab_size)
            return self.cross_entropy.forward(self.logits(input_ids), target_ids)

    def backward(self, scale: float) -> None:
        """Add `scale * dL/dp` to every parameter's `.grad`, L being the last training-mode loss. Release the caches.

        Between that loss and this call, the parameters must not change; `forward` and losses in eval mode have no
        effect. In bfloat16 the matrix products of the backward pass are computed like those of the forward pass. Raises
        RuntimeError when there was no training-mode `loss` since the last call.
        """
        if self.cross_entropy.cache is None:
            raise RuntimeError("backward needs a loss: call loss(...) in training mode first, once for each backward")
        with self.computing(keep_caches=False):
            self.logits_backward(self.cross_entropy.backward(scale))

    def logits_backward(self, grad_logits: Tensor) -> None:
        """Add the gradient of every parameter to its `.grad`.

        `grad_logits` is the gradient of the logits [batch_size, seq_len, vocab_size].
        """
        grad_features = self.unembed_backward(grad_logits)  # [batch_size, seq_len, d_model]
        grad_x = self.final_norm.backward(grad_features)  # [batch_size, seq_len, d_model]
        for block in reversed(self.blocks):
            grad_x = block.backward(grad_x)  # [batch_size, seq_len, d_model]
        self.embed_backward(grad_x)

    def unembed_backward(self, grad_logits: Tensor) -> Tensor:
        """Return the gradient of the features [batch_size, seq_len, d_model], given the gradient of the logits.

        The token table gets the first of its two gradients here, and the second in `embed_backward`.
        """
        grad_features, grad_table = self.unembedding.backward(grad_logits)
        accumulate(self.token_embedding.weight, grad_table)
        return grad_features

    def embed_backward(self, grad_x: Tensor) -> None:
        """Add to the gradients of both tables: each term of a sum has the gradient of the sum.

        `grad_x` is the gradient of the first x [batch_size, seq_len, d_model].
        """
        grad_sum = self.dropout.backward(grad_x)  # [batch_size, seq_len, d_model]
        self.position_embedding.backward(grad_sum)
        self.token_embedding.backward(grad_sum)

    @contextmanager
    def computing(self, *, keep_caches: bool) -> Iterator[None]:
        """Compute in the configured dtype, without autograd.

        With `keep_caches`, the layers store caches for one backward, and discard the unused caches of an earlier loss.
        """
        layers = [module for module in self.modules() if isinstance(module, Layer)]
        for layer in layers:
            layer.keeps_cache = keep_caches
            layer.cache = None if keep_caches else layer.cache
        try:
            with torch.no_grad(), compute_context(self.config, self.device), replaced(**self.replacements):
                yield
        finally:
            for layer in layers:
                layer.keeps_cache = False

    # What `tfs check` calls

    def operations(self) -> Sequence[Operation]:
        """Return every operation with sample inputs, in the order of the forward pass."""
        return sample_operations(self.replacements)

    def faults(self) -> Mapping[str, str]:
        """Return the faults that can be planted: name -> description."""
        return {name: fault.sentence for name, fault in FAULTS.items()}

    def plant_fault(self, name: str) -> None:
        """Replace operations by wrong ones while this instance computes. `name` is one of `faults()`."""
        self.replacements.update(FAULTS[name].replacements)


def check_target_ids(target_ids: Tensor, input_ids: Tensor, *, vocab_size: int) -> None:
    """Raise ValueError for targets not [batch_size, seq_len] like the ids and, on the CPU, for invalid targets.

    A valid target is -100 or an id of the vocabulary. On other devices the values are not checked, because that would
    synchronize with the device at every step; there PyTorch's `gather` rejects invalid ones.
    """
    if target_ids.shape != input_ids.shape:
        raise ValueError(f"target_ids are {list(target_ids.shape)}, but input_ids are {list(input_ids.shape)}")
    if target_ids.device.type == "cpu":
        outside = (target_ids != IGNORED_TARGET) & ((target_ids < 0) | (target_ids >= vocab_size))
        if outside.any():
            raise ValueError(
                f"target id {int(target_ids[outside][0])} is outside the vocabulary: targets go from 0 to "
                f"{vocab_size - 1}, and {IGNORED_TARGET} is for positions that have none"
            )
