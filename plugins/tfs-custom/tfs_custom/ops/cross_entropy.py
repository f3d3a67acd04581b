"""Cross-entropy: the negative log-probability that the model gave to the token that came next.

Shannon (1948), "A Mathematical Theory of Communication", https://ieeexplore.ieee.org/document/6773024

    loss = sum over valid positions of -log p(target),   p = softmax(logits)

in nats: 0 for a target with probability 1, log(vocab_size) when all tokens are equally likely.

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions in each sequence
    vocab_size  token types
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tfs_core.contracts import IGNORED_TARGET


class CrossEntropyCache(NamedTuple):
    """The tensors of the forward pass that the backward pass needs."""

    probabilities: Tensor  # [batch_size, seq_len, vocab_size]
    targets: Tensor  # [batch_size, seq_len, 1], 0 at positions that are not valid
    valid: Tensor  # [batch_size, seq_len, 1], False where the target is -100: padding


def cross_entropy_forward(logits: Tensor, target_ids: Tensor) -> tuple[Tensor, CrossEntropyCache]:
    """Return the SUM of nats over the valid targets, a tensor without dimensions, and the cache.

    `logits` are [batch_size, seq_len, vocab_size], `target_ids` int64 [batch_size, seq_len]. A target of -100 marks
    padding, which adds nothing: where all targets are padding the loss is 0.
    """
    # 1. Softmax, with the max trick of `softmax.py`: no exponential overflows, and no denominator is 0
    row_max = logits.amax(dim=-1, keepdim=True)  # [batch_size, seq_len, 1]
    shifted = logits - row_max  # [batch_size, seq_len, vocab_size]
    numerators = torch.exp(shifted)  # [batch_size, seq_len, vocab_size]
    denominators = numerators.sum(dim=-1, keepdim=True)  # [batch_size, seq_len, 1]
    probabilities = numerators / denominators  # [batch_size, seq_len, vocab_size]

    # 2. log p(target) = log(numerator / denominator) = shifted logit - log(denominator), finite even if p rounds to 0.
    # Padding has no target: token 0 is selected there, and step 3 discards it
    valid = (target_ids != IGNORED_TARGET).unsqueeze(-1)  # [batch_size, seq_len, 1]
    targets = target_ids.unsqueeze(-1).where(valid, 0)  # [batch_size, seq_len, 1]
    target_log_probabilities = shifted.gather(-1, targets) - torch.log(denominators)  # [batch_size, seq_len, 1]

    # 3. Sum over the valid positions
    nats = -target_log_probabilities.where(valid, 0.0)  # [batch_size, seq_len, 1]
    loss = nats.sum()  # []
    return loss, CrossEntropyCache(probabilities, targets, valid)


def cross_entropy_backward(grad_loss: float, cache: CrossEntropyCache) -> Tensor:
    """Return grad_logits [batch_size, seq_len, vocab_size].

    `grad_loss` is the gradient of the summed loss: 1 / number of tokens for a mean.

    At one position, with t the target,

        loss = -log(exp(logit[t]) / sum over j of exp(logit[j])) = -logit[t] + log(sum over j of exp(logit[j]))

    The first term depends on logit[t] only, with derivative -1. The derivative of the second with respect to logit[j]
    is exp(logit[j]) / sum, by the chain rule through the logarithm, and that is the probability p[j]. Together:

        grad_logits[j] = grad_loss * (p[j] - (1 if j == t else 0))

    The gradient is the predicted distribution minus the true one. Gradient descent lowers the logit of every wrong
    token in proportion to its probability p[j], and raises the logit of the target in proportion to 1 - p[t].

    With numbers: probabilities 1/4 and 3/4, the target is token 0
        >>> loss, cache = cross_entropy_forward(torch.tensor([[[0.0, math.log(3.0)]]]), torch.tensor([[0]]))
        >>> loss, math.log(4.0)
        (tensor(1.3863), 1.3862943611198906)
        >>> cross_entropy_backward(1.0, cache)
        tensor([[[-0.7500,  0.7500]]])
    """
    probabilities, targets, valid = cache

    # 3. Forward was: loss = sum of nats where valid
    grad_nats = valid.to(probabilities.dtype) * grad_loss  # [batch_size, seq_len, 1]

    # 2. and 1. Forward was: nats = -log softmax(logits) at the target
    minus_one = torch.full_like(grad_nats, -1.0)  # [batch_size, seq_len, 1]
    errors = probabilities.scatter_add(-1, targets, minus_one)  # [batch_size, seq_len, vocab_size]
    grad_logits = errors * grad_nats  # [batch_size, seq_len, vocab_size]
    return grad_logits
