"""How well a model predicts text: nats per token, perplexity, and bits per byte, which no tokenizer can flatter."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from tfs_core.contracts import IGNORED_TARGET, LanguageModel
from tfs_core.data.batches import Batch
from tfs_core.errors import DataError
from tfs_core.records import perplexity_of
from tfs_core.training.batch_loss import batch_loss
from tfs_core.training.random_state import random_state_kept


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one pass over the batches found."""

    loss: float
    """Nats per valid target."""

    perplexity: float
    """exp(loss): among how many equally likely tokens the model might as well be choosing."""

    bits_per_byte: float | None
    """Nats of all valid targets / ln 2 / bytes of text they stand for; None when the bytes are not known.

    End-of-text targets count with their nats and with no bytes: to end a text is part of predicting it."""

    tokens_evaluated: int
    """Valid targets."""


class Evaluator:
    """Evaluates a model, in eval mode and without moving any random state."""

    def __init__(self, model: LanguageModel, device: torch.device | str = "cpu") -> None:
        self.model = model
        self.device = device

    def evaluate(
        self,
        batches: Iterable[Batch | tuple[Tensor, Tensor]],
        *,
        byte_lengths: np.ndarray | None = None,
        max_batches: int | None = None,
    ) -> Evaluation:
        """Return the evaluation of the first `max_batches` batches, or of all.

        A batch is a `Batch` or (input_ids, target_ids), int64 [batch_size, seq_len], -100 marking what is no target;
        `byte_lengths` [vocab_size] is the tokenizer's. Raises DataError when there is no valid target.
        """
        bytes_of = None if byte_lengths is None else torch.from_numpy(np.asarray(byte_lengths, dtype=np.int64))
        losses = []  # fetched from the device at the end: no waiting in between
        tokens = text_bytes = 0
        with _in_eval_mode(self.model), random_state_kept(), torch.no_grad():
            for batch in islice(batches, max_batches):
                target_ids = batch.target_ids if isinstance(batch, Batch) else batch[1]
                valid_ids = target_ids[target_ids != IGNORED_TARGET]
                tokens += valid_ids.numel()
                if bytes_of is not None:
                    text_bytes += int(bytes_of[valid_ids.cpu()].sum())
                batch = batch if isinstance(batch, Batch) else Batch(*batch, valid_targets=valid_ids.numel())
                losses.append(batch_loss(self.model, batch, self.device))
        if not tokens:
            raise DataError("nothing to evaluate: the batches hold no valid target")
        nats = math.fsum(torch.stack(losses).tolist())
        return Evaluation(
            loss=nats / tokens,
            perplexity=perplexity_of(nats / tokens),
            bits_per_byte=nats / math.log(2) / text_bytes if text_bytes else None,
            tokens_evaluated=tokens,
        )


@contextmanager
def _in_eval_mode(model: LanguageModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
