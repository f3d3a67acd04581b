"""Evaluation of a model: nats per token, perplexity, and bits per byte, which is comparable across tokenizers."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from tfs_core.contracts import IGNORED_TARGET, Batch, LanguageModel, Ranks
from tfs_core.errors import DataError, UsageError
from tfs_core.model_view import evaluating
from tfs_core.models import Objective, batch_loss
from tfs_core.ranks import OneRank
from tfs_core.records import perplexity_of


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metrics of one pass over the batches."""

    loss: float
    """Nats per valid target."""

    perplexity: float
    """exp(loss): a uniform choice among this number of tokens has the same loss."""

    bits_per_byte: float | None
    """Nats of all valid targets / ln 2 / UTF-8 bytes of these targets. None without byte lengths, or with 0 bytes.

    End-of-text targets add their nats but no bytes: predicting the end of a text is part of the task."""

    tokens_evaluated: int
    """Number of valid targets."""


class Evaluator:
    """Evaluates a model in eval mode; restores its mode and all random states afterwards."""

    def __init__(
        self,
        model: LanguageModel,
        device: torch.device | str = "cpu",
        *,
        objective: Objective | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Store the model and its device.

        `objective` computes the loss with the run's wrappers; without it, `model.loss` does. With several `ranks`, each
        evaluates its own batches and the sums are combined. Raises UsageError for a device that is not available.
        """
        try:
            torch.empty(0, device=device)
        except (AssertionError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise UsageError(f"the device '{device}' is not available ({reason}). 'cpu' always is.") from None
        self.model = model
        self.device = device
        self.objective = objective
        self.ranks = ranks or OneRank()

    def evaluate(
        self,
        batches: Iterable[Batch | tuple[Tensor, Tensor] | Mapping[str, Tensor]],
        *,
        byte_lengths: np.ndarray | None = None,
        max_batches: int | None = None,
    ) -> Evaluation:
        """Return the metrics of the first `max_batches` batches, counted over all ranks; None means all batches.

        A batch is a `Batch` or a pair (input_ids, target_ids), both int64 [batch_size, seq_len], with the target -100
        at positions without a target. A mapping, as from the original tools, has `input_ids` and perhaps `labels`, both
        int64 [batch_size, seq_len + 1]. Labels are not shifted: the label of a position is its own id, or -100.
        `byte_lengths` [vocab_size] comes from the tokenizer. Raises DataError when there is no valid target.
        """
        bytes_of = None if byte_lengths is None else torch.from_numpy(np.asarray(byte_lengths, dtype=np.int64))
        losses = []  # fetched from the device at the end, to avoid a synchronization per batch
        tokens = text_bytes = 0
        own = None if max_batches is None else len(range(self.ranks.rank, max_batches, self.ranks.size))
        with evaluating(self.model):
            for batch in islice(batches, own):
                if isinstance(batch, Mapping):
                    batch = (batch["input_ids"][:, :-1], batch.get("labels", batch["input_ids"])[:, 1:])
                target_ids = batch.target_ids if isinstance(batch, Batch) else batch[1]
                valid_ids = target_ids[target_ids != IGNORED_TARGET]
                tokens += valid_ids.numel()
                if bytes_of is not None:
                    text_bytes += int(bytes_of[valid_ids.cpu()].sum())
                batch = batch if isinstance(batch, Batch) else Batch(*batch, valid_targets=valid_ids.numel())
                losses.append(batch_loss(self.model, batch, self.device, self.objective))
        tokens, text_bytes = self.ranks.sum(torch.tensor([tokens, text_bytes])).tolist()
        if not tokens:
            raise DataError("nothing to evaluate: the batches have no valid target")
        own_nats = math.fsum(torch.stack(losses).tolist() if losses else [])
        nats = float(self.ranks.sum(torch.tensor(own_nats, dtype=torch.float64)))
        return Evaluation(
            loss=nats / tokens,
            perplexity=perplexity_of(nats / tokens),
            bits_per_byte=nats / math.log(2) / text_bytes if text_bytes else None,
            tokens_evaluated=tokens,
        )
