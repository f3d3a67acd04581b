"""Results of checks, printed by `tfs check` and raised as AssertionError in tests."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

Status = Literal["pass", "fail", "skip"]

ZERO_SHARE = 1e-12
"""A gradient with a norm below this fraction of the norm of the whole gradient is rounding noise around zero."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A tensor compared with its expected value: one row of a table."""

    name: str
    reference: str  # the source of the expected value: "autograd", "differences", or another model's name
    norm: float  # of the expected tensor
    error: float  # norm of the difference
    relative: float  # error / max(norm, tiny * norm of the whole)
    rtol: float  # the largest `relative` that passes
    zero: bool = False  # the expected tensor is zero within rounding

    @property
    def passed(self) -> bool:
        """True when the relative error is within the tolerance; False for NaN."""
        return self.relative <= self.rtol

    @property
    def verdict(self) -> str:
        """Return PASS, FAIL, or ZERO BY MATHEMATICS."""
        if not self.passed:
            return "FAIL"
        return "ZERO BY MATHEMATICS" if self.zero else "PASS"

    def __str__(self) -> str:
        return f"{self.name}: {self.verdict} (relative error {self.relative:.1e}, norm {self.norm:.2e})"


@dataclass(frozen=True, kw_only=True)
class ErrorRule:
    """The tolerance of a comparison: `error <= rtol * max(norm, tiny * norm of the whole)`.

    Some gradients are zero by mathematics (a key's bias under softmax), so their own norm is no scale for their error:
    `tiny` times the norm of the whole gradient replaces it. A bare absolute tolerance would pass any gradient that
    happens to be small.
    """

    rtol: float
    tiny: float

    def compare(self, name: str, reference: str, *, error: float, norm: float, whole: float) -> Comparison:
        """Return the comparison of a tensor with this error and norm; `whole` is the norm of the whole gradient."""
        scale = max(norm, self.tiny * whole)
        relative = error / scale if scale > 0.0 else error
        return Comparison(
            name=name,
            reference=reference,
            norm=norm,
            error=error,
            relative=relative,
            rtol=self.rtol,
            zero=norm <= ZERO_SHARE * whole,
        )

    def compare_tensors(
        self, reference: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
    ) -> list[Comparison]:
        """Compare tensors by name. The norm of the whole gradient is the norm over all expected tensors.

        The tensors have any shape; `found` has the shapes of `expected`.
        """
        whole = norm_of(expected.values())
        return [
            self.compare(
                name,
                reference,
                error=norm_of([found[name].double() - tensor.double()]),
                norm=norm_of([tensor]),
                whole=whole,
            )
            for name, tensor in expected.items()
        ]


def norm_of(tensors: Iterable[Tensor]) -> float:
    """Return the Euclidean norm over the elements of all tensors, of any shape."""
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of one check."""

    name: str
    meaning: str  # the property that holds when it passes
    status: Status
    detail: str  # the observation, with numbers
    comparisons: tuple[Comparison, ...] = ()
    first_wrong: str | None = None  # the comparison to look at first, when some failed

    @property
    def passed(self) -> bool:
        """True unless the check failed; a check that does not apply passes."""
        return self.status != "fail"

    def __str__(self) -> str:
        wrong = [f"\n    {comparison}" for comparison in self.comparisons if not comparison.passed]
        return f"{self.name}: {self.status.upper()}: {self.detail}{''.join(wrong)}\n    Expected: {self.meaning}"

    def require(self) -> None:
        """Raise AssertionError with all details when the check failed."""
        if not self.passed:
            raise AssertionError(str(self))


class CheckFailed(Exception):  # noqa: N818 - not a program error: the verdict on a wrong subject
    """Raised inside a check when the subject is wrong."""

    def __init__(self, detail: str, comparisons: Sequence[Comparison] = (), first_wrong: str | None = None) -> None:
        super().__init__(detail)
        self.comparisons = tuple(comparisons)
        self.first_wrong = first_wrong


class NotApplicable(Exception):  # noqa: N818
    """Raised inside a check when the subject lacks the feature under check."""


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: for small matrices, several threads are many times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def expect(condition: bool, detail: str) -> None:
    """Raise CheckFailed with this detail unless the condition holds."""
    if not condition:
        raise CheckFailed(detail)


def conclude(
    comparisons: Sequence[Comparison], passed: str, *, independent: bool = False
) -> tuple[str, tuple[Comparison, ...]]:
    """Return `passed` with the comparisons, or raise CheckFailed with the wrong comparison to look at first.

    The gradients of a model are in forward order. The backward pass runs from the last to the first and propagates an
    error, so the last wrong gradient is nearest to the cause. Errors of `independent` comparisons do not propagate:
    the first wrong one is named.
    """
    wrong = [comparison for comparison in comparisons if not comparison.passed]
    if wrong:
        first, order = (wrong[0], "first") if independent else (wrong[-1], "in backward order first")
        raise CheckFailed(
            f"{len(wrong)} of {len(comparisons)} are wrong; {order} {first.name}, "
            f"off by {first.relative:.1e} against {first.reference} (allowed {first.rtol:.0e})",
            comparisons,
            first.name,
        )
    return passed, tuple(comparisons)


Subject = TypeVar("Subject")
Finding = str | tuple[str, tuple[Comparison, ...]]


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """A check, called with its subject. It raises nothing, and restores the random state."""

    name: str
    meaning: str
    """The property that holds when the check passes, in one sentence."""

    function: Callable[[Subject], Finding]

    def __call__(self, subject: Subject) -> CheckResult:
        status: Status = "fail"
        comparisons: tuple[Comparison, ...] = ()
        first_wrong = None
        try:
            with torch.random.fork_rng(devices=[]), _one_thread():
                finding = self.function(subject)
        except NotApplicable as reason:
            status, detail = "skip", str(reason)
        except CheckFailed as failure:
            detail, comparisons, first_wrong = str(failure), failure.comparisons, failure.first_wrong
        except Exception as error:  # code under check may raise anything: the check reports it
            detail = f"raised {type(error).__name__}: {error}"
        else:
            status = "pass"
            detail, comparisons = (finding, ()) if isinstance(finding, str) else finding
        return CheckResult(
            name=self.name,
            meaning=self.meaning,
            status=status,
            detail=detail,
            comparisons=comparisons,
            first_wrong=first_wrong,
        )


def check(name: str) -> Callable[[Callable[[Subject], Finding]], Check[Subject]]:
    """Return a decorator that makes a function a Check; its meaning is the first paragraph of the docstring."""

    def decorate(function: Callable[[Subject], Finding]) -> Check[Subject]:
        meaning = " ".join((function.__doc__ or "").split("\n\n")[0].split())
        return Check(name=name, meaning=meaning, function=function)

    return decorate
