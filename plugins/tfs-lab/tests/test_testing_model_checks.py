"""A correct model passes every check; a model with one error fails the check for that error."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tfs_lab.testing.model_checks import MODEL_CHECKS, check_model
from tfs_lab.testing.results import CheckResult
from tfs_lab.testing.small_model import SmallModel, small_model
from torch import Tensor, nn

from tfs_core.contracts import ModelConfig, Operation
from tfs_core.errors import ConfigError, UsageError
from tfs_core.models import AutogradModel

WIDTH = 4


class Averager(AutogradModel):
    """Each position gets the mean of the embeddings up to it, through a small hidden layer."""

    def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        self.table = nn.Embedding(vocab_size, WIDTH)
        self.output = nn.Linear(WIDTH, vocab_size)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0.0, 0.3, generator=generator)

    def check(self, input_ids: Tensor) -> None:
        if input_ids.shape[1] > self.config.max_seq_len:
            raise ValueError(f"{input_ids.shape[1]} tokens are more than {self.config.max_seq_len}")

    def seen(self, input_ids: Tensor) -> Tensor:
        """Return the mean embedding of each position [batch_size, seq_len, WIDTH]."""
        counts = torch.arange(1, input_ids.shape[1] + 1, dtype=self.table.weight.dtype)[:, None]
        return self.table(input_ids).cumsum(dim=1) / counts + self.table(input_ids)

    def forward(self, input_ids: Tensor) -> Tensor:
        self.check(input_ids)
        return self.output(F.dropout(torch.tanh(self.seen(input_ids)), self.config.dropout, self.training))


class WrongShape(Averager):
    def forward(self, input_ids: Tensor) -> Tensor:
        return super().forward(input_ids)[..., :-1]


class NoLastPosition(Averager):
    def check(self, input_ids: Tensor) -> None:
        if input_ids.shape[1] >= self.config.max_seq_len:
            raise ValueError("too long")


class MeanLoss(Averager):
    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        loss = super().loss(input_ids, target_ids)
        share = 1.0 / max(1, int((target_ids != -100).sum()))
        if self.training:
            self._graph._loss = self._graph._loss * share
        return loss * share


class PaddingCounts(Averager):
    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        return super().loss(input_ids, target_ids.clamp(min=0))


class NanWithoutTargets(Averager):
    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        valid = (target_ids != -100).sum()
        return super().loss(input_ids, target_ids) / valid * valid


class GradientsOverwritten(Averager):
    def backward(self, scale: float) -> None:
        for parameter in self.parameters():
            parameter.grad = None
        super().backward(scale)


class ScaleIgnored(Averager):
    def backward(self, scale: float) -> None:
        super().backward(1.0)


class BackwardTwice(Averager):
    def backward(self, scale: float) -> None:
        if self._graph._loss is not None:
            super().backward(scale)


class EvalSpoilsTraining(Averager):
    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        loss = super().loss(input_ids, target_ids)
        if not self.training and self._graph._loss is not None:
            self._graph._loss = self._graph._loss * 2.0
        return loss


class DropoutInEval(Averager):
    def forward(self, input_ids: Tensor) -> Tensor:
        return F.dropout(super().forward(input_ids), self.config.dropout, True)


class DeadParameter(Averager):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.dead = nn.Parameter(torch.zeros(2))


class NamedTwice(Averager):
    def named_parameters(self, *arguments: Any, **options: Any) -> Any:
        yield from super().named_parameters(*arguments, **options)
        yield "output.again", self.output.weight


class AnyId(Averager):
    def forward(self, input_ids: Tensor) -> Tensor:
        return super().forward(input_ids.clamp(0, self.vocab_size - 1))


class AnyLength(Averager):
    def check(self, input_ids: Tensor) -> None:
        pass


class HiddenTerm(Averager):
    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        loss = super().loss(input_ids, target_ids)
        if self.training:
            self._graph._loss = self._graph._loss + 0.001 * self.output.bias.square().sum()
        return loss


class SeesTheFuture(Averager):
    def seen(self, input_ids: Tensor) -> Tensor:
        return super().seen(input_ids) + 1e-13 * self.table(input_ids).mean(dim=1, keepdim=True)


class DeafToItself(Averager):
    def seen(self, input_ids: Tensor) -> Tensor:
        return super().seen(input_ids).roll(1, dims=1) * torch.arange(input_ids.shape[1]).clamp(max=1)[:, None]


class RowsTalk(Averager):
    def seen(self, input_ids: Tensor) -> Tensor:
        seen = super().seen(input_ids)
        return seen - seen.mean(dim=0, keepdim=True)


class WritesTargets(Averager):
    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        loss = super().loss(input_ids, target_ids.clone())
        target_ids[target_ids == -100] = 0
        return loss


class KeepsInEval(Averager):
    def forward(self, input_ids: Tensor) -> Tensor:
        self.last = super().forward(input_ids)
        return self.last


class ChangesWhatItKept(Averager):
    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        loss = super().loss(input_ids, target_ids)
        if self.training:
            self.hidden = torch.ones(3)
            self.sum = self.hidden.sum()
            self.hidden += 1.0
        return loss

    def backward(self, scale: float) -> None:
        super().backward(scale)
        self.hidden = self.sum = None


class BackwardWritesItsCache(ChangesWhatItKept):
    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        self.hidden = torch.ones(3)
        return Averager.loss(self, input_ids, target_ids)

    def backward(self, scale: float) -> None:
        self.hidden.mul_(2.0)
        Averager.backward(self, scale)


class OwnSeed(Averager):
    def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size, generator=torch.default_generator)


class NoSeed(Averager):
    def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size, generator=torch.Generator().manual_seed(0))


class ForgetsState(Averager):
    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        return {k: v for k, v in super().state_dict(*arguments, **options).items() if k != "output.bias"}


class TakesAnyState(Averager):
    def load_state_dict(self, state_dict: Any, *arguments: Any, **options: Any) -> Any:
        shapes = {name: parameter.shape for name, parameter in self.named_parameters()}
        fitting = {name: tensor for name, tensor in state_dict.items() if tensor.shape == shapes[name]}
        return super().load_state_dict(fitting, strict=False)


class HiddenState(Averager):
    """Has a counter that changes the function and is missing from state_dict."""

    calls = 0

    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        self.calls += self.training
        return super().loss(input_ids, target_ids)

    def backward(self, scale: float) -> None:
        super().backward(scale * (1.0 + 0.1 * (self.calls > 3)))


class WithCache(Averager):
    """A minimal key/value cache: the ids so far."""

    stale = False

    def make_cache(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size, self.config.max_seq_len, dtype=torch.int64)

    def forward_with_cache(self, input_ids: Tensor, positions: Tensor, cache: Tensor) -> Tensor:
        cache.scatter_(1, positions, input_ids)
        now = positions * 0 if self.stale else positions
        return super().forward(cache).gather(1, now[..., None].expand(-1, -1, self.vocab_size))


class StaleCache(WithCache):
    stale = True


class WithDocuments(Averager):
    """The mean is restricted to the position's own document."""

    takes_document_ids = True
    crosses, loss_forgets = False, False

    def forward(self, input_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        self.check(input_ids)
        documents = input_ids * 0 if document_ids is None else document_ids
        visible = (documents[:, :, None] == documents[:, None]).tril()
        if self.crosses and document_ids is not None:
            visible[:, -1] = True
        x = self.table(input_ids)
        seen = visible.to(x.dtype) @ x / visible.sum(dim=-1, keepdim=True) + x
        return self.output(F.dropout(torch.tanh(seen), self.config.dropout, self.training))

    def loss(self, input_ids: Tensor, target_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        return super().loss(input_ids, target_ids, None if self.loss_forgets else document_ids)


class CrossesDocuments(WithDocuments):
    crosses = True


class LossForgetsDocuments(WithDocuments):
    loss_forgets = True


class InTwoSteps(Averager):
    """Computes the logits in two steps."""

    def features(self, input_ids: Tensor) -> Tensor:
        self.check(input_ids)
        return F.dropout(torch.tanh(self.seen(input_ids)), self.config.dropout, self.training)

    def unembed(self, features: Tensor) -> Tensor:
        return self.output(features)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.unembed(self.features(input_ids))


class OtherLogitsInTwoSteps(InTwoSteps):
    def unembed(self, features: Tensor) -> Tensor:
        return 1.001 * super().unembed(features)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.output(self.features(input_ids))


class MixesPositionsAtTheEnd(InTwoSteps):
    def unembed(self, features: Tensor) -> Tensor:
        return super().unembed(features) - features.mean()


class NarrowParameters(Averager):
    def to(self, *, device: Any, dtype: torch.dtype) -> Any:
        return super().to(device=device, dtype=torch.bfloat16 if self.config.dtype == "bfloat16" else dtype)


class NarrowBackward(Averager):
    """Correct in float64, wrong in bfloat16."""

    def backward(self, scale: float) -> None:
        super().backward(0.7 * scale if self.config.dtype == "bfloat16" else scale)


class Frozen(Averager):
    """Has a frozen part."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.output.bias.requires_grad_(False)


class SureOfItself(Averager):
    def forward(self, input_ids: Tensor) -> Tensor:
        return 30.0 * super().forward(input_ids)


class Stubborn(Averager):
    def backward(self, scale: float) -> None:
        super().backward(-scale)


class WrongFlops(Averager):
    def flops_per_token(self, seq_len: int) -> float:
        return 1.6 * super().flops_per_token(seq_len)


class WithOperations(Averager):
    factor, in_place, writes_cache, count = 2.0, False, False, 1

    def operations(self) -> list[Operation]:
        def forward(x: Tensor, power: int) -> tuple[Tensor, Tensor]:
            if self.in_place:
                x *= 1.0
            return x**power, x

        def backward(grad_output: Tensor, cache: Tensor) -> tuple[Tensor, ...]:
            grad = self.factor * cache * grad_output
            if self.writes_cache:
                cache += 1.0
            return (grad,) * self.count

        x = torch.randn(3, 5, dtype=torch.float64)
        return [Operation(name="square", forward=forward, backward=backward, inputs={"x": x, "power": 2})]


class WrongOperation(WithOperations):
    factor = 2.001


class OperationInPlace(WithOperations):
    in_place = True


class OperationWritesCache(WithOperations):
    writes_cache = True


class TooManyGradients(WithOperations):
    count = 2


def subject(factory: type[AutogradModel], **options: Any) -> SmallModel:
    return SmallModel(name="averager", factory=factory, config=ModelConfig(max_seq_len=9), **options)


def results(factory: type[AutogradModel]) -> dict[str, CheckResult]:
    return {result.name: result for result in check_model(subject(factory))}


@pytest.mark.parametrize("factory", [Averager, WithCache, WithDocuments, InTwoSteps, WithOperations, Frozen])
def test_good_model_passes_every_check(factory: type[AutogradModel]) -> None:
    found = results(factory)
    assert not [str(result) for result in found.values() if not result.passed]
    optional = {"each operation", "operations leave their inputs alone", "key/value cache", "document masks"}
    optional |= {"logits in two steps"}
    assert {name for name, result in found.items() if result.status == "skip"} <= optional


def test_checks_of_what_a_model_does_not_offer_are_skipped() -> None:
    found = results(Averager)
    assert found["key/value cache"].status == found["each operation"].status == "skip"


@pytest.mark.parametrize(
    ("factory", "caught_by", "says"),
    [
        (WrongShape, "logits", "not [5, 7, 23]"),
        (NoLastPosition, "logits", "too long"),
        (MeanLoss, "loss is a sum", "over 25 valid targets"),
        (PaddingCounts, "loss is a sum", "the sum of nats"),
        (PaddingCounts, "padding", "made the loss"),
        (NanWithoutTargets, "no valid target", "is nan, not 0"),
        (GradientsOverwritten, "backward scales and adds", "against 1 + 0.25"),
        (ScaleIgnored, "backward scales and adds", "against 1 + 0.25"),
        (BackwardTwice, "backward consumes the loss", "was accepted"),
        (EvalSpoilsTraining, "evaluation in between", "because other data was evaluated"),
        (DropoutInEval, "evaluation in between", "in eval mode differ"),
        (DeadParameter, "every parameter learns", "dead got no gradient"),
        (NamedTwice, "every parameter learns", "listed twice"),
        (AnyId, "bad input is refused", "token id 23 was accepted"),
        (AnyLength, "bad input is refused", "a sequence of 10 tokens was accepted"),
        (HiddenTerm, "gradients against autograd", "output.bias"),
        (HiddenTerm, "gradients against differences", "output.bias"),
        (SeesTheFuture, "causality", "earlier positions [0]"),
        (DeafToItself, "causality", "does not change the logits there"),
        (RowsTalk, "batch invariance", "when the ids of the other rows do"),
        (WritesTargets, "arguments are left alone", "target_ids was changed"),
        (KeepsInEval, "eval keeps nothing", "new tensors"),
        (ChangesWhatItKept, "kept tensors stay as they were", "test_testing_model_checks.py"),
        (BackwardWritesItsCache, "kept tensors stay as they were", "backward modified a saved tensor"),
        (OwnSeed, "same seed, same model", "differs between two models of the same seed"),
        (NoSeed, "same seed, same model", "the generator is not used"),
        (ForgetsState, "save and load", "lacks parameters: output.bias"),
        (TakesAnyState, "save and load", "accepted a state without"),
        (HiddenState, "resume", "the losses after loading are"),
        (CrossesDocuments, "document masks", "changes the logits of the second"),
        (LossForgetsDocuments, "document masks", "the same with and without the ids"),
        (OtherLogitsInTwoSteps, "logits in two steps", "is not forward(ids)"),
        (MixesPositionsAtTheEnd, "logits in two steps", "a few positions other logits"),
        (StaleCache, "key/value cache", "differ from those of the full forward"),
        (NarrowParameters, "narrow types", "small updates would vanish"),
        (NarrowBackward, "narrow types", "in bfloat16 the gradients are off by"),
        (SureOfItself, "starts near uniform", "uniform predictions give"),
        (Stubborn, "learns one batch", "the loss went from"),
        (WrongFlops, "FLOPs", "PyTorch counts"),
        (WrongOperation, "each operation", "square(power=2): x"),
        (TooManyGradients, "each operation", "2 gradients for 1 floating-point inputs"),
        (OperationInPlace, "operations leave their inputs alone", "forward changed its input x"),
        (OperationWritesCache, "operations leave their inputs alone", "backward changed a cached tensor"),
    ],
)
def test_wrong_model_fails_the_check_that_is_about_it(factory: type[AutogradModel], caught_by: str, says: str) -> None:
    one = next(check for check in MODEL_CHECKS if check.name == caught_by)
    result = one(subject(factory))
    assert result.status == "fail"
    assert says in result.detail


def test_model_that_raises_is_a_finding_and_not_a_crash() -> None:
    class Broken(Averager):
        def forward(self, input_ids: Tensor) -> Tensor:
            raise RuntimeError("no way forward")

    found = results(Broken)
    assert found["causality"].detail == "raised RuntimeError: no way forward"
    assert found["same seed, same model"].passed


def test_every_check_says_what_it_means_and_has_a_name_of_its_own() -> None:
    assert len({check.name for check in MODEL_CHECKS}) == len(MODEL_CHECKS)
    assert all(check.meaning.endswith(".") for check in MODEL_CHECKS)


def test_falling_loss_says_nothing_of_the_gradients() -> None:
    """The reason for the checks: with an error of 10 % in one gradient, one batch is still learned."""

    class SlightlyWrong(Averager):
        def backward(self, scale: float) -> None:
            super().backward(scale)
            self.output.bias.grad *= 1.1

    found = results(SlightlyWrong)
    assert found["learns one batch"].passed
    assert found["starts near uniform"].passed
    assert not found["gradients against differences"].passed


def test_small_model_is_built_afresh_with_shaken_weights() -> None:
    first, second = subject(Averager).build(), subject(Averager).build()
    assert torch.equal(first.output.bias, second.output.bias)
    assert first.output.bias is not second.output.bias
    unshaken = subject(Averager).build(shake=0.0)
    assert not torch.equal(first.output.bias, unshaken.output.bias)
    assert first.output.bias.dtype == torch.float64


def test_small_batch_has_whole_and_partly_padded_rows() -> None:
    _, target_ids = subject(Averager).batch()
    invalid = (target_ids == -100).sum(dim=1).tolist()
    assert invalid == [0, 3, 7, 0, 0]


def test_unknown_fault_is_told_with_those_there_are() -> None:
    class Faulty(Averager):
        def faults(self) -> dict[str, str]:
            return {"upside-down": "the logits are negated"}

        def plant_fault(self, name: str) -> None:
            self.planted = name

    with pytest.raises(UsageError, match="Did you mean 'upside-down'"):
        subject(Faulty, fault="upside-dwn").build()
    with pytest.raises(UsageError, match="declares no faults"):
        subject(Averager, fault="upside-down").build()
    assert subject(Faulty, fault="upside-down").build().planted == "upside-down"


def test_first_loss_is_near_that_of_guessing() -> None:
    assert f"ln 23 = {math.log(23):.3f}" in results(Averager)["starts near uniform"].detail


@pytest.mark.parametrize("option", ["d_model", "max_seq_len"])
def test_model_too_small_to_be_checked_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=f"^{option}=1 is too small to check: a correct model would fail. Choose "):
        small_model("torch", {"n_heads": 1, option: 1})
