"""Checks of the contract of `loss` and `backward`. The trainer relies on this contract."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tfs_core.contracts import IGNORED_TARGET, LanguageModel
from tfs_core.models import compute_context
from tfs_lab.testing.gradients import collected_gradients, cross_entropy, gradients, trainable
from tfs_lab.testing.results import ErrorRule, Finding, NotApplicable, check, conclude, expect, norm_of
from tfs_lab.testing.small_model import SmallModel

ROUNDING = 1e-12
"""The relative tolerance for two orders of summation of the same float64 numbers, with a margin."""


def close(found: Tensor, expected: Tensor, rtol: float = ROUNDING) -> bool:
    """Return True when the norm of the difference is at most `rtol` times the norm of `expected` (any shape)."""
    return norm_of([found.double() - expected.double()]) <= rtol * norm_of([expected])


@check("logits")
def logits_have_the_right_shape(subject: SmallModel) -> Finding:
    """Logits are finite and [batch_size, seq_len, vocab_size], for any batch size and any length up to the limit."""
    model = subject.build()
    model.eval()
    limit = model.context_limit or subject.seq_len
    for batch_size, seq_len in ((subject.batch_size, subject.seq_len), (1, 1), (2, limit)):
        logits = model.forward(torch.zeros(batch_size, seq_len, dtype=torch.int64))
        expected = [batch_size, seq_len, subject.vocab_size]
        expect(list(logits.shape) == expected, f"logits have shape {list(logits.shape)}, not {expected}")
        expect(bool(logits.isfinite().all()), f"logits of {batch_size} sequences of {seq_len} are not finite")
    return f"[batch_size, seq_len, {subject.vocab_size}], up to {limit} tokens"


@check("loss is a sum")
def loss_is_the_sum_of_nats(subject: SmallModel) -> Finding:
    """The loss is the sum (not the mean) of nats over the valid targets: the cross-entropy of the model's logits."""
    model = subject.build()
    input_ids, target_ids = subject.batch()
    for mode in (True, False):
        model.train(mode)
        loss = model.loss(input_ids, target_ids)
        expect(loss.dim() == 0, f"the loss has shape {list(loss.shape)}; it must have no dimensions")
        expected = float(cross_entropy(model.forward(input_ids).detach(), target_ids))
        expect(
            math.isclose(float(loss), expected, rel_tol=ROUNDING),
            f"the loss is {float(loss):.10g}; the sum of nats of the model's own logits is {expected:.10g} "
            f"over {int((target_ids != IGNORED_TARGET).sum())} valid targets",
        )
    return f"{expected:.4f} nats, train and eval alike"


@check("no valid target")
def nothing_valid_means_nothing_learned(subject: SmallModel) -> Finding:
    """Without a valid target, the loss is 0 and every gradient is zero, not NaN."""
    model = subject.build()
    input_ids, target_ids = subject.batch()
    nothing = torch.full_like(target_ids, IGNORED_TARGET)
    model.train()
    loss = float(model.loss(input_ids, nothing))
    expect(loss == 0.0, f"the loss without a valid target is {loss}, not 0")
    model.backward(1.0)
    for name, parameter in model.named_parameters():
        size = 0.0 if parameter.grad is None else norm_of([parameter.grad])
        expect(size == 0.0, f"the gradient of {name} has norm {size}, not 0")
    return "loss 0, gradients zero"


@check("backward scales and adds")
def backward_scales_and_adds(subject: SmallModel) -> Finding:
    """`backward(scale)` adds `scale * dL/dp` to the existing `.grad`, as gradient accumulation requires."""
    model = subject.build()
    input_ids, target_ids = subject.batch()
    once = gradients(model, input_ids, target_ids)
    model.loss(input_ids, target_ids)
    model.backward(0.25)
    added = collected_gradients(trainable(model))
    expected = {name: 1.25 * gradient for name, gradient in once.items()}
    comparisons = ErrorRule(rtol=ROUNDING, tiny=1e-3).compare_tensors("1 + 0.25", added, expected)
    return conclude(comparisons, "dL/dp plus 0.25 dL/dp is 1.25 dL/dp")


@check("backward consumes the loss")
def backward_consumes_the_loss(subject: SmallModel) -> Finding:
    """`backward` needs a new training-mode loss: a second call, or a call after a loss in eval mode, is an error."""
    model = subject.build()
    input_ids, target_ids = subject.batch()
    model.train()
    model.loss(input_ids, target_ids)
    model.backward(1.0)
    message = _backward_error(model)
    expect(message is not None, "a second backward without a new loss was accepted")
    fresh = subject.build()
    fresh.eval()
    fresh.loss(input_ids, target_ids)
    expect(_backward_error(fresh) is not None, "a backward after a loss in eval mode was accepted")
    return f"a second call raises {message}"


def _backward_error(model: LanguageModel) -> str | None:
    """Return the error that `backward` raises, as text; None when it raises none."""
    try:
        model.backward(1.0)
    except Exception as error:  # the contract does not specify the type of the error
        return f"{type(error).__name__}: {error}"
    return None


@check("evaluation in between")
def evaluation_leaves_training_alone(subject: SmallModel) -> Finding:
    """Evaluating other data between `loss` and `backward` changes no gradient, and eval mode disables dropout."""
    model = subject.build()
    input_ids, target_ids = subject.batch()
    undisturbed = gradients(model, input_ids, target_ids)
    for _, parameter in model.named_parameters():
        parameter.grad = None
    model.loss(input_ids, target_ids)
    model.eval()
    model.loss(*subject.batch(seed=1))
    model.forward(input_ids)
    model.train()
    model.backward(1.0)
    for name, gradient in collected_gradients(trainable(model)).items():
        expect(
            torch.equal(gradient, undisturbed[name]),
            f"the gradient of {name} changed because other data was evaluated between loss and backward",
        )
    dropped = subject.build(dropout=0.5)
    dropped.eval()
    expect(
        torch.equal(dropped.forward(input_ids), dropped.forward(input_ids)),
        "two forward passes in eval mode differ: dropout, or something else random, is on",
    )
    return "gradients bit-equal"


@check("every parameter learns")
def every_parameter_gets_a_gradient(subject: SmallModel) -> Finding:
    """Each parameter is named once, in a fixed order, and gets a finite gradient of its own shape."""
    model = subject.build()
    names = [name for name, _ in model.named_parameters()]
    tensors = {id(parameter) for _, parameter in model.named_parameters()}
    expect(len(names) == len(set(names)) == len(tensors), "a name, or a tensor, is listed twice in named_parameters()")
    again = [name for name, _ in subject.build().named_parameters()]
    expect(names == again, "the order of named_parameters() differs from one instance to the next")
    unknown = sorted(set(model.embedding_parameters()) - set(names))
    expect(not unknown, f"embedding_parameters() lists unknown names: {', '.join(unknown)}")
    found = gradients(model, *subject.batch())
    return f"{len(found)} parameters"


@check("bad input is refused")
def bad_input_is_refused(subject: SmallModel) -> Finding:
    """Ids outside the vocabulary and sequences longer than the limit raise an error."""
    model = subject.build()
    input_ids, target_ids = subject.batch()
    too_high, negative, bad_target = input_ids.clone(), input_ids.clone(), target_ids.clone()
    too_high[0, 0], negative[0, 0], bad_target[0, 0] = subject.vocab_size, -1, subject.vocab_size
    cases = [
        (f"token id {subject.vocab_size}", too_high, target_ids),
        ("token id -1", negative, target_ids),
        (f"target id {subject.vocab_size}", input_ids, bad_target),
    ]
    if model.context_limit is not None:
        long = torch.zeros(1, model.context_limit + 1, dtype=torch.int64)
        cases.append((f"a sequence of {model.context_limit + 1} tokens", long, long))
    details = []
    for what, ids, targets in cases:
        try:
            model.loss(ids, targets)
        except Exception as error:  # the contract does not specify the type of the error
            details.append(f"{what}: {type(error).__name__}: {error}")
        else:
            expect(False, f"{what} was accepted")
    return "\n".join(details)


@check("narrow types")
def narrow_types_are_as_near_as_they_can_be(subject: SmallModel) -> Finding:
    """In float32 and bfloat16, loss and gradients equal float64's within rounding, and parameters stay float32."""
    batch = subject.batch()
    exact = subject.build()
    exact_loss, exact_gradients = float(exact.loss(*batch)), gradients(exact, *batch)
    whole = norm_of(exact_gradients.values())
    details = []
    for dtype, tolerance in (("float32", 1e-4), ("bfloat16", 0.15)):
        model = subject.build(dtype=dtype)
        with compute_context(model.config, "cpu"):
            loss = model.loss(*batch)
        model.backward(1.0)
        expect(loss.dtype in (torch.float32, torch.float64), f"in {dtype} the loss is {loss.dtype}, too coarse")
        for name, parameter in model.named_parameters():
            expect(
                parameter.dtype == torch.float32,
                f"in {dtype} {name} is {parameter.dtype}, and not float32: small updates would vanish",
            )
        found = collected_gradients(trainable(model))
        loss_error = abs(float(loss) - exact_loss) / exact_loss
        error = norm_of(found[name].double() - exact_gradients[name] for name in found) / whole
        expect(loss_error <= tolerance, f"in {dtype} the loss is {float(loss):.6f}, in float64 {exact_loss:.6f}")
        expect(error <= tolerance, f"in {dtype} the gradients are off by {error:.1e}, more than rounding explains")
        details.append(f"{dtype}: loss within {loss_error:.0e}, gradients within {error:.0e} of float64's")
    return "; ".join(details)


@check("starts near uniform")
def starts_near_uniform(subject: SmallModel) -> Finding:
    """Initial predictions are nearly uniform: the loss is below 2 * ln(vocab_size) nats per token."""
    model = subject.build(shake=0.0)
    input_ids, target_ids = subject.batch(padded=False)
    loss = float(model.loss(input_ids, target_ids)) / target_ids.numel()
    uniform = math.log(subject.vocab_size)
    expect(loss < 2.0 * uniform, f"the first loss is {loss:.2f} nats per token; uniform predictions give {uniform:.2f}")
    return f"{loss:.3f} nats per token, ln {subject.vocab_size} = {uniform:.3f}"


@check("learns one batch")
def learns_one_batch(subject: SmallModel) -> Finding:
    """100 steps of Adam on one batch halve its loss. A smoke test: wrong gradients often pass it."""
    model = subject.build(shake=0.0)
    input_ids, target_ids = subject.batch(padded=False)
    optimizer = torch.optim.Adam([parameter for _, parameter in model.named_parameters()], lr=1e-2)
    losses = []
    for _ in range(100):
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(model.loss(input_ids, target_ids)) / target_ids.numel())
        model.backward(1.0 / target_ids.numel())
        optimizer.step()
    expect(losses[-1] < 0.5 * losses[0], f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f} only")
    return f"{losses[0]:.3f} to {losses[-1]:.3f} nats per token"


@check("FLOPs")
def flops_are_counted(subject: SmallModel) -> Finding:
    """`flops_per_token` is 0.8 to 1.25 times PyTorch's count of one loss and backward."""
    model = subject.build()
    input_ids, target_ids = subject.batch()
    model.train()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.loss(input_ids, target_ids)
        model.backward(1.0)
    counted = counter.get_total_flops() / input_ids.numel()
    claimed = model.flops_per_token(subject.seq_len)
    if counted == 0:
        raise NotApplicable("PyTorch counts no matrix product in this model")
    expect(
        0.8 <= claimed / counted <= 1.25,
        f"flops_per_token({subject.seq_len}) says {claimed:.4g}; PyTorch counts {counted:.4g}",
    )
    return f"{claimed:.4g} per token, {claimed / counted:.3f} of PyTorch's count"
