"""Checks of the optional capabilities of a model: document masks, and logits in two steps (`features`, `unembed`)."""

from __future__ import annotations

import torch

from tfs_core.contracts import SupportsDocumentMasks, SupportsFeatures
from tfs_core.models import AutogradModel, LossModule, compute_context
from tfs_lab.testing.gradients import loss_and_gradients
from tfs_lab.testing.loss_checks import ROUNDING, close
from tfs_lab.testing.results import ErrorRule, Finding, NotApplicable, check, conclude, expect
from tfs_lab.testing.small_model import SmallModel

CHUNK_SIZE = 3
"""Positions per chunk of a chunked loss: less than a row, and not a divisor of the number of positions in a batch."""


@check("document masks")
def documents_do_not_see_each_other(subject: SmallModel) -> Finding:
    """With `document_ids`, changing one document of a row leaves the logits of the next document bit-identical."""
    input_ids, target_ids = subject.batch()
    second = subject.seq_len // 2  # where the second document of each row begins
    document_ids = (torch.arange(subject.seq_len) >= second).long().expand_as(input_ids)  # [batch_size, seq_len]
    changed = input_ids.clone()
    changed[:, :second] = (changed[:, :second] + 1) % subject.vocab_size
    for dtype in ("float64", "bfloat16"):
        model = subject.build(dtype=dtype)
        if not isinstance(model, SupportsDocumentMasks):
            raise NotApplicable("the model has no document masks")
        model.eval()
        with compute_context(model.config, "cpu"):
            masked, unmasked = model.forward(input_ids, document_ids), model.forward(input_ids)
            after = model.forward(changed, document_ids)
            masked_loss = model.loss(input_ids, target_ids, document_ids)
            unmasked_loss = model.loss(input_ids, target_ids)
        expect(
            torch.equal(after[:, second:], masked[:, second:]),
            f"in {dtype}, changing the first document of a row changes the logits of the second",
        )
        expect(
            close(unmasked[:, :second], masked[:, :second], rtol=1e-12 if dtype == "float64" else 1e-2),
            f"in {dtype}, the document mask changes the logits of the first document of a row",
        )
        expect(not torch.equal(masked_loss, unmasked_loss), f"in {dtype}, `loss` is the same with and without the ids")
    return "the second of two documents in a row, in float64 and bfloat16"


@check("logits in two steps")
def features_make_the_logits(subject: SmallModel) -> Finding:
    """`unembed(features(ids))` equals `forward(ids)`, and the chunked loss has the same value and gradients."""
    model = subject.build()
    if not isinstance(model, SupportsFeatures):
        raise NotApplicable("the model has no `features` and `unembed`")
    input_ids, target_ids = subject.batch()
    model.eval()
    features = model.features(input_ids)  # [batch_size, seq_len, width]
    logits = model.forward(input_ids)
    expect(close(model.unembed(features), logits), "unembed(features(ids)) is not forward(ids)")
    rows = features.flatten(0, 1)[:CHUNK_SIZE]  # [CHUNK_SIZE, width]
    expect(
        close(model.unembed(rows), logits.flatten(0, 1)[:CHUNK_SIZE]),
        "unembed gives a few positions other logits than in the whole batch",
    )
    if not isinstance(model, AutogradModel):
        return "the same logits"
    loss, whole = loss_and_gradients(model, LossModule(model, loss_chunk=None), input_ids, target_ids)
    chunked_loss, chunked = loss_and_gradients(model, LossModule(model, loss_chunk=CHUNK_SIZE), input_ids, target_ids)
    expect(close(chunked_loss, loss), f"the loss in chunks of {CHUNK_SIZE} positions has another value")
    comparisons = ErrorRule(rtol=ROUNDING, tiny=1e-3).compare_tensors("unchunked", chunked, whole)
    return conclude(comparisons, f"the same logits; the same loss and gradients in chunks of {CHUNK_SIZE}")
