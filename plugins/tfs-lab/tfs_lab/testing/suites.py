"""Conformance suites: classes for pytest to inherit, with one test per check.

    class TestMyGPT(ModelConformance):
        name = "tfs-mygpt/mygpt"
        config = {"d_model": 32}

A check that does not apply is skipped, with its reason. To disable a check, set its test to None and state the reason:
`test_causality = None  # this model reads in both directions`.
"""

from __future__ import annotations

import re
import unittest
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from tfs_core.contracts import DatasetSource
from tfs_core.errors import PluginError
from tfs_lab.testing.batchings import BATCHING_CHECKS, BatchingUnderCheck, SmallSource
from tfs_lab.testing.datasets import DATASET_CHECKS, DatasetUnderCheck
from tfs_lab.testing.loggers import LOGGER_CHECKS, LoggerUnderCheck
from tfs_lab.testing.model_checks import MODEL_CHECKS
from tfs_lab.testing.optimizers import OPTIMIZER_CHECKS, OptimizerUnderCheck
from tfs_lab.testing.parity import PARITY_CHECKS, Mirrored
from tfs_lab.testing.plugins import PLUGIN_CHECKS
from tfs_lab.testing.results import Check
from tfs_lab.testing.schedules import SCHEDULER_CHECKS, SchedulerUnderCheck
from tfs_lab.testing.small_model import SmallModel, small_model
from tfs_lab.testing.tokenizers import TOKENIZER_CHECKS, TokenizerUnderCheck
from tfs_lab.testing.wrappers import EXAMPLE_MODEL, WRAPPER_CHECKS, WrapperUnderCheck


def _tests(checks: Iterable[Check[Any]], subject: str = "subject") -> Callable[[type], type]:
    """Return a decorator that adds one test per check. The test calls its check with the result of method `subject`."""

    def test_of(one: Check[Any]) -> Callable[[Any], None]:
        def test(self: Any) -> None:
            result = one(getattr(self, subject)())
            if result.status == "skip":
                raise unittest.SkipTest(result.detail)  # pytest supports it: no import of pytest needed
            result.require()

        test.__doc__ = one.meaning
        return test

    def decorate(cls: type) -> type:
        for one in checks:
            setattr(cls, "test_" + re.sub(r"\W+", "_", one.name.lower()), test_of(one))
        return cls

    return decorate


class _Suite:
    """Attributes of all suites of components."""

    name: ClassVar[str]
    """The name of the component, alone or as `distribution/name`."""

    config: ClassVar[Mapping[str, Any]] = {}
    """The options of the component, as in a configuration."""


@_tests(PARITY_CHECKS, "mirrored")
@_tests(MODEL_CHECKS)
class ModelConformance(_Suite):
    """Suite for a model: contract of loss and backward, gradients, invariances, state, and parity with its mirror.

    `config` overrides the small sizes that the checks choose (`SMALL_SIZES` in `tfs_lab.testing.small_model`).
    """

    def subject(self) -> SmallModel:
        """Return the model under check."""
        return small_model(self.name, self.config)

    def mirrored(self) -> Mirrored:
        """Return the model and its mirror; raises SkipTest when it has none, or when the mirror is not installed."""
        subject = self.subject()
        other = subject.build().mirrors
        if other is None:
            raise unittest.SkipTest("the model mirrors no other")
        try:
            return Mirrored(subject, subject.counterpart(other))
        except PluginError as error:
            raise unittest.SkipTest(f"its mirror '{other}' is not installed: {error}") from None


@_tests(TOKENIZER_CHECKS)
class TokenizerConformance(_Suite):
    """Suite for a tokenizer: lossless round trip, byte lengths, batches, saving and loading."""

    def subject(self) -> TokenizerUnderCheck:
        """Return the tokenizer under check."""
        return TokenizerUnderCheck(self.name, self.config)


@_tests(DATASET_CHECKS)
class DatasetConformance(_Suite):
    """Suite for a data set: text in a fixed order, read one document at a time, with a stable fingerprint."""

    def subject(self) -> DatasetUnderCheck:
        """Return the data set under check."""
        return DatasetUnderCheck(self.name, self.config)


@_tests(SCHEDULER_CHECKS)
class SchedulerConformance(_Suite):
    """Suite for a learning-rate schedule: valid rates, a pure function of the step, a warm-up."""

    def subject(self) -> SchedulerUnderCheck:
        """Return the schedule under check."""
        return SchedulerUnderCheck(self.name, self.config)


@_tests(OPTIMIZER_CHECKS)
class OptimizerConformance(_Suite):
    """Suite for an optimizer: descent, learning rate, bit-identical resuming."""

    def subject(self) -> OptimizerUnderCheck:
        """Return the optimizer under check."""
        return OptimizerUnderCheck(self.name, self.config)


@_tests(LOGGER_CHECKS)
class LoggerConformance(_Suite):
    """Suite for a logger: every call of a run is accepted, also when the run is resumed."""

    def subject(self) -> LoggerUnderCheck:
        """Return the logger under check."""
        return LoggerUnderCheck(self.name, self.config)


@_tests(BATCHING_CHECKS)
class BatchingConformance(_Suite):
    """Suite for a batching: pure steps, correct counts, rows shared by ranks, a complete validation, documents."""

    settings: ClassVar[Mapping[str, Any]] = {}
    """Overrides of the settings that the checks choose: fields of `tfs_core.contracts.BatchSettings`."""

    def source(self) -> DatasetSource:
        """Return the data set for the checks."""
        return SmallSource()

    def subject(self) -> BatchingUnderCheck:
        """Return the batching under check."""
        return BatchingUnderCheck(self.name, self.config, self.source(), self.settings)


@_tests(WRAPPER_CHECKS)
class WrapperConformance(_Suite):
    """Suite for a wrapper: the same loss and gradients as without it, in training and in evaluation."""

    model: ClassVar[str | None] = None
    """The model to wrap; by default `ExampleModel` of `tfs_lab.testing.wrappers`."""

    model_config: ClassVar[Mapping[str, Any]] = {}
    """The options of the model; they override the small sizes that the checks choose."""

    def subject(self) -> WrapperUnderCheck:
        """Return the wrapper under check."""
        model = EXAMPLE_MODEL if self.model is None else small_model(self.model, self.model_config)
        return WrapperUnderCheck(self.name, self.config, model)


@_tests(PLUGIN_CHECKS)
class PluginConformance:
    """Suite for a plugin as a whole, in a fresh process: registration, light imports, valid references."""

    distribution: ClassVar[str]
    """The name of the distribution, as for pip."""

    def subject(self) -> str:
        """Return the distribution under check."""
        return self.distribution
