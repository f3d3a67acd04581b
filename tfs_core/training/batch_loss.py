"""The loss of a batch: what training, validation and every try-out compute, in the same way."""

import torch
from torch import Tensor

from tfs_core.contracts import LanguageModel
from tfs_core.data.batches import Batch
from tfs_core.models import compute_context


def batch_loss(model: LanguageModel, batch: Batch, device: torch.device | str) -> Tensor:
    """Return the sum of nats over the batch's valid targets, a tensor without dimensions on the device."""
    tensors = [batch.input_ids, batch.target_ids]
    if batch.document_ids is not None:
        tensors.append(batch.document_ids)
    with compute_context(model.config, device):
        return model.loss(*(tensor.to(device, non_blocking=True) for tensor in tensors))
