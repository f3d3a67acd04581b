"""The transformer, exactly GPT-2's function, with its backward pass written by hand.

    ids -> token + position embeddings
        -> n_blocks times: x + attention(norm(x)), then x + feed_forward(norm(x))
        -> norm -> logits -> loss

Vaswani et al. (2017), "Attention Is All You Need", https://arxiv.org/abs/1706.03762
Radford et al. (2019), "Language Models are Unsupervised Multitask Learners" (GPT-2): norms stand before each part.
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf

`_forward` and `_block_forward` go from top to bottom. `_backward` and `_block_backward` are the same lines from bottom
to top: each takes the gradient of what its forward line made, and gives the gradient of what that line was made of.
The mathematics of each line is in `ops/`, under the name of the method.

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions in each sequence
    d_model     width of the residual stream, the x that every block reads and adds to
    vocab_size  token types
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Self

import torch
from torch import Tensor

from tfs_core.contracts import IGNORED_TARGET, Operation
from tfs_core.models import check_input_ids, compute_context, parameter_dtype
from tfs_custom import ops
from tfs_custom.config import CustomConfig
from tfs_custom.faults import FAULTS, planted
from tfs_custom.key_value_cache import KeyValueCache
from tfs_custom.layers import Layers
from tfs_custom.operation_samples import sample_operations
from tfs_custom.parameters import ParameterOwner, initial_value, parameter_shapes

Attend = Callable[[str, Tensor, Tensor, Tensor], Tensor]
"""`attend(name, queries, keys, values)`, all [batch_size, seq_len, d_model], returns what each position gathers."""


class CustomTransformer(ParameterOwner):
    """A `LanguageModel` in plain tensors: no autograd anywhere, every gradient by a line that can be read."""

    mirrors = "torch"

    def __init__(self, config: CustomConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        self.config = config
        self.vocab_size = vocab_size
        self.context_limit: int | None = config.max_seq_len
        self.training = True
        self.parameters_by_name = {
            name: initial_value(name, shape, config.n_blocks, generator)
            for name, shape in parameter_shapes(config, vocab_size).items()
        }
        self.to(device="cpu", dtype=parameter_dtype(config))
        self.blocks = [f"blocks.{index}" for index in range(config.n_blocks)]  # the beginnings of their names
        self.ops = SimpleNamespace(**{name: getattr(ops, name) for name in ops.__all__})
        self._kept: Layers | None = None  # the last training-mode loss, which backward will consume

    # The way forward

    def _forward(self, layers: Layers, input_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of ids at their positions [batch_size, seq_len]."""
        # 1. What the token is and where it stands, added
        token_vectors = layers.embedding("token_embedding", input_ids)  # [batch_size, seq_len, d_model]
        position_vectors = layers.embedding("position_embedding", positions)  # [batch_size, seq_len, d_model]
        embedded = token_vectors + position_vectors  # [batch_size, seq_len, d_model]
        x = layers.dropout("embedding", embedded)  # [batch_size, seq_len, d_model]

        # 2. Every block reads x and adds to it
        for block in self.blocks:
            x = self._block_forward(layers, block, x, attend)  # [batch_size, seq_len, d_model]

        # 3. How well does x match each token's vector? The table of step 1 is used a second time
        normalized = layers.layer_norm("final_norm", x)  # [batch_size, seq_len, d_model]
        logits = layers.unembedding("token_embedding", normalized)  # [batch_size, seq_len, vocab_size]
        return logits

    def _block_forward(self, layers: Layers, block: str, x: Tensor, attend: Attend) -> Tensor:
        """Return x [batch_size, seq_len, d_model] with what the block found out added to it."""
        attention, attention_norm = f"{block}.attention", f"{block}.attention_norm"
        feed_forward, feed_forward_norm = f"{block}.feed_forward", f"{block}.feed_forward_norm"

        # 1. What x says, at a scale that can be relied upon
        normalized = layers.layer_norm(attention_norm, x)  # [batch_size, seq_len, d_model]

        # 2. What each position asks, how it answers, and what it offers
        queries = layers.linear(f"{attention}.query", normalized)  # [batch_size, seq_len, d_model]
        keys = layers.linear(f"{attention}.key", normalized)  # [batch_size, seq_len, d_model]
        values = layers.linear(f"{attention}.value", normalized)  # [batch_size, seq_len, d_model]

        # 3. Each position gathers from those before it, and mixes what its heads brought home
        gathered = attend(attention, queries, keys, values)  # [batch_size, seq_len, d_model]
        mixed = layers.linear(f"{attention}.output", gathered)  # [batch_size, seq_len, d_model]
        branch = layers.dropout(attention, mixed)  # [batch_size, seq_len, d_model]

        # 4. x goes on, with that added
        x = layers.residual(attention, x, branch)  # [batch_size, seq_len, d_model]

        # 5. The same once more, now with each position thinking for itself
        normalized = layers.layer_norm(feed_forward_norm, x)  # [batch_size, seq_len, d_model]
        thought = layers.feed_forward(feed_forward, normalized)  # [batch_size, seq_len, d_model]
        branch = layers.dropout(feed_forward, thought)  # [batch_size, seq_len, d_model]
        x = layers.residual(feed_forward, x, branch)  # [batch_size, seq_len, d_model]
        return x

    # The way back

    def _backward(self, layers: Layers, grad_loss: float) -> None:
        """Add `grad_loss * dL/dp` to every `.grad`."""
        # 4. Forward was: loss = cross_entropy(logits)
        grad_logits = layers.cross_entropy_backward(grad_loss)  # [batch_size, seq_len, vocab_size]

        # 3. Forward was: logits = unembedding(layer_norm(x))
        grad_normalized = layers.unembedding_backward("token_embedding", grad_logits)  # [batch_size, seq_len, d_model]
        del grad_logits  # as large as all logits, and not needed again
        grad_x = layers.layer_norm_backward("final_norm", grad_normalized)  # [batch_size, seq_len, d_model]

        # 2. Forward was: x = block(x), for every block
        for block in reversed(self.blocks):
            grad_x = self._block_backward(layers, block, grad_x)  # [batch_size, seq_len, d_model]

        # 1. Forward was: x = dropout(token_vectors + position_vectors); each term of a sum gets its whole gradient
        grad_embedded = layers.dropout_backward("embedding", grad_x)  # [batch_size, seq_len, d_model]
        layers.embedding_backward("position_embedding", grad_embedded)
        layers.embedding_backward("token_embedding", grad_embedded)

    def _block_backward(self, layers: Layers, block: str, grad_x: Tensor) -> Tensor:
        """Return the gradient of the x that went into the block, given that of the x that came out.

        x went two ways, straight on and through a branch. What the two ways bring back is added: `grad_x + ...`.
        """
        attention, attention_norm = f"{block}.attention", f"{block}.attention_norm"
        feed_forward, feed_forward_norm = f"{block}.feed_forward", f"{block}.feed_forward_norm"

        # 5. Forward was: x = x + branch, branch = dropout(thought), thought = feed_forward(layer_norm(x))
        grad_x, grad_branch = layers.residual_backward(feed_forward, grad_x)  # [batch_size, seq_len, d_model]
        grad_thought = layers.dropout_backward(feed_forward, grad_branch)  # [batch_size, seq_len, d_model]
        grad_normalized = layers.feed_forward_backward(feed_forward, grad_thought)  # [batch_size, seq_len, d_model]
        grad_norm_x = layers.layer_norm_backward(feed_forward_norm, grad_normalized)  # [batch_size, seq_len, d_model]
        grad_x = grad_x + grad_norm_x  # [batch_size, seq_len, d_model]

        # 4. Forward was: x = x + branch
        grad_x, grad_branch = layers.residual_backward(attention, grad_x)  # [batch_size, seq_len, d_model]

        # 3. Forward was: branch = dropout(mixed), mixed = output(gathered), gathered = attend(queries, keys, values)
        grad_mixed = layers.dropout_backward(attention, grad_branch)  # [batch_size, seq_len, d_model]
        grad_gathered = layers.linear_backward(f"{attention}.output", grad_mixed)  # [batch_size, seq_len, d_model]
        attention_grads = layers.attention_backward(attention, grad_gathered)
        grad_queries, grad_keys, grad_values = attention_grads  # [batch_size, seq_len, d_model]

        # 2. Forward was: queries = query(normalized), keys = key(normalized), values = value(normalized)
        # The same numbers were used three times, and answer for all three.
        grad_normalized = (
            layers.linear_backward(f"{attention}.query", grad_queries)
            + layers.linear_backward(f"{attention}.key", grad_keys)
            + layers.linear_backward(f"{attention}.value", grad_values)
        )  # [batch_size, seq_len, d_model]

        # 1. Forward was: normalized = layer_norm(x); here the two ways of step 4 meet
        grad_norm_x = layers.layer_norm_backward(attention_norm, grad_normalized)  # [batch_size, seq_len, d_model]
        grad_x = grad_x + grad_norm_x  # [batch_size, seq_len, d_model]
        return grad_x

    # What the core calls

    def _layers(self, *, keep: bool) -> Layers:
        dropout = self.config.dropout if self.training else 0.0
        return Layers(self.config, self.ops, self.parameters_by_name, dropout=dropout, keep=keep)

    @torch.no_grad()
    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of the token after each of `input_ids`.

        Raises ValueError for ids outside the vocabulary and for more than max_seq_len of them.
        """
        check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)
        layers = self._layers(keep=False)
        with compute_context(self.config, self.device):
            return self._forward(layers, input_ids, self.ops.positions_of(input_ids), layers.attention)

    @torch.no_grad()
    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        """Return the sum of nats over the valid targets, without dimensions; in training mode, keep the caches.

        Raises ValueError for ids outside the vocabulary and for more than max_seq_len of them.
        """
        check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)
        check_target_ids(target_ids, input_ids, vocab_size=self.vocab_size)
        if self.training:
            self._kept = None  # lets go of an unused pass before a new one takes memory
        layers = self._layers(keep=self.training)
        with compute_context(self.config, self.device):
            logits = self._forward(layers, input_ids, self.ops.positions_of(input_ids), layers.attention)
            loss = layers.cross_entropy(logits, target_ids)  # []
        if self.training:
            self._kept = layers
        return loss

    @torch.no_grad()
    def backward(self, scale: float) -> None:
        """Add `scale * dL/dp` to every parameter's `.grad`, and let go of the caches.

        In bfloat16 the matrix products of the way back are computed as those of the way forward were. Raises
        RuntimeError when no training-mode `loss` came since the last call.
        """
        if self._kept is None:
            raise RuntimeError("backward needs a loss: call loss(...) in training mode first, once for each backward")
        layers, self._kept = self._kept, None
        with compute_context(self.config, self.device):
            self._backward(layers, scale)

    def train(self, mode: bool = True) -> Self:
        """Turn training mode (dropout, and caches for backward) on or off."""
        self.training = mode
        return self

    def eval(self) -> Self:
        """Turn training mode off."""
        return self.train(False)

    def embedding_parameters(self) -> Sequence[str]:
        """Return the names of the two tables."""
        return ["token_embedding.weight", "position_embedding.weight"]

    def flops_per_token(self, seq_len: int) -> float:
        """Return the operations of training on one token: 2 a weight and token forward, and twice that backward.

        Looking up an embedding multiplies nothing; the token table counts as the output projection that it also is.
        Scores and weighted sums are 2 * seq_len * d_model each, in every block.
        """
        positions = self.parameters_by_name["position_embedding.weight"].numel()
        matrices = sum(p.numel() for p in self.parameters_by_name.values() if p.dim() == 2) - positions
        attention = 4 * self.config.n_blocks * seq_len * self.config.d_model
        return 3.0 * (2 * matrices + attention)

    # Generating with a key/value cache

    def make_cache(self, batch_size: int) -> KeyValueCache:
        """Return an empty cache for sequences up to max_seq_len, on the model's device."""
        table = self.parameters_by_name["position_embedding.weight"]  # [max_seq_len, d_model]
        return KeyValueCache(self.config, batch_size, like=table)

    @torch.no_grad()
    def forward_with_cache(self, input_ids: Tensor, positions: Tensor, cache: KeyValueCache) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of new ids at `positions` [batch_size, seq_len].

        The lines of `_forward`, but that each position looks into the cache. Raises ValueError for ids outside the
        vocabulary and positions from max_seq_len on.
        """
        check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)
        last = int(positions.max())
        if last >= self.config.max_seq_len:
            raise ValueError(f"position {last} is outside the model's context of {self.config.max_seq_len}")
        layers = self._layers(keep=False)
        attend = partial(cache.attend, positions)
        with compute_context(self.config, self.device):
            return self._forward(layers, input_ids, positions, attend)

    # Being checked

    def operations(self) -> Sequence[Operation]:
        """Return every operation with inputs to try it on, in the order of the forward pass."""
        return sample_operations(self.ops)

    def faults(self) -> Mapping[str, str]:
        """Return the faults that can be planted: name -> what goes wrong."""
        return {name: fault.sentence for name, fault in FAULTS.items()}

    def plant_fault(self, name: str) -> None:
        """Replace some of this instance's operations by wrong ones; other instances stay as they are."""
        self.ops = planted(name, self.ops)


def check_target_ids(target_ids: Tensor, input_ids: Tensor, *, vocab_size: int) -> None:
    """Raise ValueError for targets of another shape than the ids, or, on the CPU, outside the vocabulary and not -100.

    Elsewhere looking at them would make the processor wait for the device at every step; there PyTorch's `gather`
    refuses them.
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
