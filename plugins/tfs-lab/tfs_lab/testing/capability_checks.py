"""Does the model keep what its capabilities promise? Of documents kept apart, and of logits made in two steps."""

from __future__ import annotations

import torch

from tfs_core.contracts import SupportsDocumentMasks, SupportsFeatures
from tfs_core.models import AutogradModel, LossModule, compute_context
from tfs_lab.testing.gradients import loss_and_gradients
from tfs_lab.testing.loss_checks import ROUNDING, close
from tfs_lab.testing.results import ErrorRule, Finding, NotApplicable, check, conclude, expect
from tfs_lab.testing.small_model import SmallModel

PIECE = 3
"""Positions in a piece: few enough that a row is cut, and no divisor of the batch."""


@check("document masks")
def documents_do_not_see_each_other(subject: SmallModel) -> Finding:
    """With `document_ids`, changing one document of a row leaves the logits of the next equal to the bit."""
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
            apart, together = model.forward(input_ids, document_ids), model.forward(input_ids)
            after = model.forward(changed, document_ids)
            loss_apart = model.loss(input_ids, target_ids, document_ids)
            loss_together = model.loss(input_ids, target_ids)
        expect(
            torch.equal(after[:, second:], apart[:, second:]),
            f"in {dtype}, changing the first document of a row changes the logits of the second: it is seen",
        )
        expect(
            close(together[:, :second], apart[:, :second], rtol=1e-12 if dtype == "float64" else 1e-2),
            f"in {dtype}, the logits of the first document of a row change when the second is kept apart",
        )
        expect(not torch.equal(loss_apart, loss_together), f"in {dtype}, `loss` is the same with and without the ids")
    return "the second of two documents in a row, in float64 and bfloat16"


@check("logits in two steps")
def features_make_the_logits(subject: SmallModel) -> Finding:
    """`unembed(features(ids))` is `forward(ids)`, and the loss in pieces has the same value and gradients."""
    model = subject.build()
    if not isinstance(model, SupportsFeatures):
        raise NotApplicable("the model makes its logits in one step")
    input_ids, target_ids = subject.batch()
    model.eval()
    features = model.features(input_ids)  # [batch_size, seq_len, width]
    logits = model.forward(input_ids)
    expect(close(model.unembed(features), logits), "unembed(features(ids)) is not forward(ids)")
    rows = features.flatten(0, 1)[:PIECE]  # [PIECE, width]
    expect(
        close(model.unembed(rows), logits.flatten(0, 1)[:PIECE]),
        "unembed gives a few positions other logits than all of them",
    )
    if not isinstance(model, AutogradModel):
        return "the same logits"
    loss, whole = loss_and_gradients(model, LossModule(model, loss_chunk=None), input_ids, target_ids)
    loss_in_pieces, in_pieces = loss_and_gradients(model, LossModule(model, loss_chunk=PIECE), input_ids, target_ids)
    expect(close(loss_in_pieces, loss), f"the loss in pieces of {PIECE} positions is another")
    comparisons = ErrorRule(rtol=ROUNDING, tiny=1e-3).compare_tensors("all at once", in_pieces, whole)
    return conclude(comparisons, f"the same logits; loss and gradients in pieces of {PIECE} as all at once")
