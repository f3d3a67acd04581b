"""How well a model predicts text: nats per token, perplexity, and bits per byte, which no tokenizer can flatter."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from tfs_core.contracts import IGNORED_TARGET, Batch, LanguageModel, Ranks
from tfs_core.errors import DataError
from tfs_core.model_view import evaluating
from tfs_core.models import Objective, batch_loss
from tfs_core.ranks import OneRank
from tfs_core.records import perplexity_of


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

    def __init__(
        self,
        model: LanguageModel,
        device: torch.device | str = "cpu",
        *,
        objective: Objective | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """`objective` is the loss with what is wrapped around it; with several `ranks` each has its own batches."""
        self.model = model
        self.device = device
        self.objective = objective
        self.ranks = ranks or OneRank()

    def evaluate(
        self,
        batches: Iterable[Batch | tuple[Tensor, Tensor]],
        *,
        byte_lengths: np.ndarray | None = None,
        max_batches: int | None = None,
    ) -> Evaluation:
        """Return the evaluation of the first `max_batches` batches, of all ranks together, or of all.

        A batch is a `Batch` or (input_ids, target_ids), int64 [batch_size, seq_len], -100 marking what is no target;
        `byte_lengths` [vocab_size] is the tokenizer's. Raises DataError when there is no valid target.
        """
        bytes_of = None if byte_lengths is None else torch.from_numpy(np.asarray(byte_lengths, dtype=np.int64))
        losses = []  # fetched from the device at the end: no waiting in between
        tokens = text_bytes = 0
        own = None if max_batches is None else len(range(self.ranks.rank, max_batches, self.ranks.size))
        with evaluating(self.model):
            for batch in islice(batches, own):
                target_ids = batch.target_ids if isinstance(batch, Batch) else batch[1]
                valid_ids = target_ids[target_ids != IGNORED_TARGET]
                tokens += valid_ids.numel()
                if bytes_of is not None:
                    text_bytes += int(bytes_of[valid_ids.cpu()].sum())
                batch = batch if isinstance(batch, Batch) else Batch(*batch, valid_targets=valid_ids.numel())
                losses.append(batch_loss(self.model, batch, self.device, self.objective))
        tokens, text_bytes = self.ranks.sum(torch.tensor([tokens, text_bytes])).tolist()
        if not tokens:
            raise DataError("nothing to evaluate: the batches hold no valid target")
        own_nats = math.fsum(torch.stack(losses).tolist() if losses else [])
        nats = float(self.ranks.sum(torch.tensor(own_nats, dtype=torch.float64)))
        return Evaluation(
            loss=nats / tokens,
            perplexity=perplexity_of(nats / tokens),
            bits_per_byte=nats / math.log(2) / text_bytes if text_bytes else None,
            tokens_evaluated=tokens,
        )
