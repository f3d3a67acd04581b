"""The core's own components pass the suites; stand-ins with one error fail, with a message."""

import re
import subprocess
import sys
import unittest
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from tfs_lab.testing import (
    BatchingConformance,
    DatasetConformance,
    LoggerConformance,
    ModelConformance,
    OptimizerConformance,
    SchedulerConformance,
    TokenizerConformance,
)
from tfs_lab.testing.batchings import BATCHING_CHECKS, BatchingUnderCheck, SmallSource
from tfs_lab.testing.chosen import Chosen
from tfs_lab.testing.datasets import DATASET_CHECKS, DatasetUnderCheck
from tfs_lab.testing.loggers import LOGGER_CHECKS, LoggerUnderCheck
from tfs_lab.testing.model_checks import MODEL_CHECKS
from tfs_lab.testing.optimizers import OPTIMIZER_CHECKS, OptimizerUnderCheck
from tfs_lab.testing.parity import PARITY_CHECKS
from tfs_lab.testing.plugins import PLUGIN_CHECKS
from tfs_lab.testing.results import Check, CheckResult
from tfs_lab.testing.schedules import SCHEDULER_CHECKS, SchedulerUnderCheck
from tfs_lab.testing.tokenizers import TOKENIZER_CHECKS, TokenizerUnderCheck
from tfs_lab.testing.wrappers import WRAPPER_CHECKS, WrapperUnderCheck

from tfs_core.builtin.batchings import Packed
from tfs_core.contracts import Batch, DocumentRef, RunLogger, WrapContext
from tfs_core.errors import DataError


class TestConstant(SchedulerConformance):
    name = "constant"


class TestLinear(SchedulerConformance):
    name = "tfs-core/linear"


class TestCosine(SchedulerConformance):
    name = "cosine"


class TestWarmupStableDecay(SchedulerConformance):
    name = "warmup-stable-decay"
    config = {"decay_ratio": 0.5, "shape": "linear"}


class TestAdamW(OptimizerConformance):
    name = "adamw"


class TestSGD(OptimizerConformance):
    name = "sgd"
    config = {"momentum": 0.9}


class TestJsonl(LoggerConformance):
    name = "jsonl"


class TestConsole(LoggerConformance):
    name = "console"


class TestPacked(BatchingConformance):
    name = "packed"


class TestPadded(BatchingConformance):
    name = "padded"


Found = Callable[..., dict[str, CheckResult]]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Found:
    """Return a function that runs the checks of a kind on a stand-in for the selected component."""

    def run(module: str, checks: Sequence[Check[Any]], subject: Any, factory: Callable[..., Any]) -> dict[str, Any]:
        def stand_in(kind: str, name: str, options: object) -> Chosen:
            return Chosen(kind=kind, name=name, factory=factory, config=None)

        monkeypatch.setattr(f"tfs_lab.testing.{module}.chosen", stand_in)
        return {check.name: check(subject) for check in checks}

    return run


@pytest.mark.parametrize(
    ("rate", "failing", "says"),
    [
        (lambda step, peak, total: peak * step / total, "rates", "the first update would have no effect"),
        (lambda step, peak, total: 1.5 * peak, "rates", "above the peak"),
        (lambda step, peak, total: float("nan"), "rates", "nan"),
        (lambda step, peak, total: peak * (1 - step / total) + 1e-9, "warm-up", "fall"),
        (lambda step, peak, total: peak / 10, "warm-up", "the peak is"),
        (lambda step, peak, total, calls=[]: calls.append(0) or peak / len(calls), "pure", "other rates"),
    ],
)
def test_wrong_schedule_is_found(found: Found, rate: Callable[..., float], failing: str, says: str) -> None:
    def factory(config: None, *, total_steps: int, warmup_steps: int, peak: float, floor: float) -> Any:
        return lambda step: rate(step, peak, total_steps)

    result = found("schedules", SCHEDULER_CHECKS, SchedulerUnderCheck("wrong", {}), factory)[failing]
    assert result.status == "fail"
    assert says in result.detail


class Uphill(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.add_(self.param_groups[0]["lr"] * parameter.grad)


class Deaf(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["lr"] = 0.01
        return super().step()


class Forgetful(torch.optim.SGD):
    """Has a state that is missing from its state_dict."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        for group in self.param_groups:
            group["lr"] = group["lr"] / self.steps
        return super().step()


class Pickled(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["history"] = {1, 2}
        return super().step()


@pytest.mark.parametrize(
    ("optimizer", "failing", "says"),
    [
        (Uphill, "descends", "the loss went from"),
        (Deaf, "obeys the learning rate", "moved at a learning rate of 0"),
        (Forgetful, "resume", "differs after resuming"),
        (Pickled, "resume", "'history' is a set"),
    ],
)
def test_wrong_optimizer_is_found(found: Found, optimizer: Any, failing: str, says: str) -> None:
    def factory(config: None, *, named_parameters: Any, learning_rate: float, weight_decay: float) -> Any:
        return optimizer([parameter for _, parameter in named_parameters], lr=learning_rate)

    result = found("optimizers", OPTIMIZER_CHECKS, OptimizerUnderCheck("wrong", {}), factory)[failing]
    assert result.status == "fail"
    assert says in result.detail


def test_optimizer_that_leaves_parameters_out_is_found(found: Found) -> None:
    def factory(config: None, *, named_parameters: Any, learning_rate: float, weight_decay: float) -> Any:
        return torch.optim.SGD([parameter for _, parameter in named_parameters][:1], lr=learning_rate)

    result = found("optimizers", OPTIMIZER_CHECKS, OptimizerUnderCheck("wrong", {}), factory)
    assert "the groups hold 1 of 3 parameters" in result["obeys the learning rate"].detail


class Bytes:
    """A correct tokenizer: bytes, and end of text."""

    vocab_size, end_of_text_id = 257, 256

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            return [list(text.encode("utf-8")) for text in texts]
        except UnicodeEncodeError as error:
            raise DataError("a lone surrogate is no text") from error

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(token_id for token_id in ids if token_id < 256)

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def byte_lengths(self) -> Any:
        return np.array([1] * 256 + [0])

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")

    def fingerprint(self) -> str:
        return "bytes"


class Strips(Bytes):
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return super().encode_batch([text.strip() for text in texts])


class MakesSpecialIds(Bytes):
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[256] if "<|endoftext|>" in text else ids for text, ids in zip(texts, super().encode_batch(texts))]  # noqa: B905


class PadsBatches(Bytes):
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        found = super().encode_batch(texts)
        return [ids + [0] * (max(map(len, found)) - len(ids)) for ids in found]


class CountsEndOfText(Bytes):
    def byte_lengths(self) -> Any:
        return np.array([1] * 257)


class ReplacesSurrogates(Bytes):
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode("utf-8", errors="replace")) for text in texts]


class LoadsAnother(Bytes):
    def fingerprint(self) -> str:
        return "another"


@pytest.mark.parametrize(
    ("tokenizer", "failing", "says"),
    [
        (Strips, "round trip", "came back as"),
        (MakesSpecialIds, "round trip", "came back as"),
        (PadsBatches, "batches", "other ids in a batch"),
        (CountsEndOfText, "bytes", "end of text has a length"),
        (ReplacesSurrogates, "lone surrogates", "was encoded"),
        (LoadsAnother, "save and load", "differs after loading"),
    ],
)
def test_wrong_tokenizer_is_found(found: Found, tokenizer: type[Bytes], failing: str, says: str) -> None:
    subject = TokenizerUnderCheck("wrong", {}, load=lambda folder: Bytes())
    result = found("tokenizers", TOKENIZER_CHECKS, subject, lambda config, **options: tokenizer())[failing]
    assert result.status == "fail"
    assert says in result.detail


def test_right_tokenizer_passes(found: Found) -> None:
    subject = TokenizerUnderCheck("right", {}, load=lambda folder: Bytes())
    results = found("tokenizers", TOKENIZER_CHECKS, subject, lambda config, **options: Bytes())
    assert [str(result) for result in results.values() if not result.passed] == []


class Source:
    """A correct data set of two documents."""

    def splits(self) -> list[str]:
        return ["train"]

    def documents(self, split: str) -> Iterator[Any]:
        yield from ("one", "two")

    def fingerprint(self) -> str:
        return "two documents"


class NoTrain(Source):
    def splits(self) -> list[str]:
        return ["validation"]


class Empty(Source):
    def documents(self, split: str) -> Iterator[Any]:
        yield from ()


class Shuffled(Source):
    turns = 0

    def documents(self, split: str) -> Iterator[Any]:
        Shuffled.turns += 1
        yield from ("one", "two")[:: 1 if Shuffled.turns % 2 else -1]


class NoText(Source):
    def documents(self, split: str) -> Iterator[Any]:
        yield {"text": "one"}


class AllAtOnce(Source):
    def documents(self, split: str) -> Any:
        return ["one", "two"]


class Restless(Source):
    def fingerprint(self) -> str:
        return str(id(self))


class Streams(Source):
    batching = "streaming"

    def stream(self, split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], Any]]:
        documents = list(enumerate(self.documents(split)))
        for number, document in documents[start[0] if start else 0 :]:
            yield (number,), document

    def pinned_options(self) -> None:
        return None

    def close(self) -> None:
        self.closed = True


class Forgetful(Streams):
    def stream(self, split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], Any]]:
        yield from super().stream(split, ())


@pytest.mark.parametrize(
    ("source", "failing", "says"),
    [
        (Forgetful, "places", "continues with other documents from place [1]"),
        (NoTrain, "documents", "there must be 'train'"),
        (Empty, "documents", "has no documents"),
        (Shuffled, "documents", "differ when"),
        (NoText, "documents", "are dict, not str"),
        (AllAtOnce, "stream", "returned a list"),
        (Restless, "fingerprint", "another fingerprint"),
    ],
)
def test_wrong_dataset_is_found(found: Found, source: type[Source], failing: str, says: str) -> None:
    def factory(config: None, *, assets: Path, offline: bool) -> Source:
        return source()

    result = found("datasets", DATASET_CHECKS, DatasetUnderCheck("wrong", {}), factory)[failing]
    assert result.status == "fail"
    assert says in result.detail


@pytest.mark.parametrize("source", [Source, Streams])
def test_right_dataset_passes(found: Found, source: type[Source]) -> None:
    results = found("datasets", DATASET_CHECKS, DatasetUnderCheck("right", {}), lambda config, **options: source())
    assert [str(result) for result in results.values() if result.status == "fail"] == []
    assert (results["places"].status == "pass") == (source is Streams)


def test_wrong_logger_is_found(found: Found) -> None:
    class ExpectsNumbers(RunLogger):
        def on_step(self, record: Any) -> None:
            assert record.loss == record.loss, "the loss is no number"

    class WritesOnce(RunLogger):
        def __init__(self, folder: Path) -> None:
            (folder / "log.txt").touch(exist_ok=False)

    for factory, failing, says in (
        (lambda config, run: ExpectsNumbers(), "a whole run", "the loss is no number"),
        (lambda config, run: WritesOnce(run.folder), "a resumed run", "FileExistsError"),
    ):
        result = found("loggers", LOGGER_CHECKS, LoggerUnderCheck("wrong", {}), factory)[failing]
        assert result.status == "fail"
        assert says in result.detail


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that installs a plugin, in the layout of pip, where a fresh process finds it."""

    def install(plugin: str, config: str = "") -> str:
        (tmp_path / "stranger.py").write_text(dedent(plugin), encoding="utf-8")
        (tmp_path / "stranger_parts.py").write_text(dedent(config), encoding="utf-8")
        info = tmp_path / "tfs_stranger-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tfs-stranger\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text("[tfs.plugins]\nstranger = stranger\n", encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "tfs-stranger"

    return install


GOOD = """
    from tfs_core import Component, hookimpl

    TFS_PLUGIN_API = 1

    @hookimpl
    def tfs_schedulers():
        return [Component(name="flat", summary="Flat", factory="stranger_parts:flat", config="stranger_parts:Flat")]
"""

PARTS = '''
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Flat:
        height: float = 1.0
        """How high it is."""

    def flat(config, *, total_steps, warmup_steps, peak, floor):
        return lambda step: peak
'''


def plugin_result(name: str) -> CheckResult:
    (only,) = PLUGIN_CHECKS
    return only(name)


def test_right_plugin_passes(distribution: Callable[..., str]) -> None:
    result = plugin_result(distribution(GOOD, PARTS))
    assert result.passed, result
    assert "scheduler 'flat'" in result.detail


@pytest.mark.parametrize(
    ("plugin", "parts", "says"),
    [
        ("import nowhere_to_be_found", "", "nowhere_to_be_found"),
        (GOOD.replace("tfs_schedulers", "tfs_schedulrs"), PARTS, "tfs_schedulrs"),
        (GOOD.replace("TFS_PLUGIN_API = 1", "TFS_PLUGIN_API = 99"), PARTS, "99"),
        ("TFS_PLUGIN_API = 1", "", "registers no component"),
        ("    import torch\n" + GOOD, PARTS, "torch"),
        (GOOD, PARTS.replace("def flat", "def other"), "stranger_parts:flat"),
        (GOOD, PARTS.replace('"""How high it is."""', ""), "undocumented: height"),
        (GOOD, PARTS.replace("frozen=True, ", ""), "not a frozen dataclass"),
    ],
)
def test_wrong_plugin_is_found(distribution: Callable[..., str], plugin: str, parts: str, says: str) -> None:
    result = plugin_result(distribution(plugin, parts))
    assert result.status == "fail"
    assert says in result.detail


def test_suite_has_a_test_for_every_check() -> None:
    for suite, checks in (
        (ModelConformance, [*MODEL_CHECKS, *PARITY_CHECKS]),
        (TokenizerConformance, TOKENIZER_CHECKS),
        (DatasetConformance, DATASET_CHECKS),
    ):
        tests = {name for name in dir(suite) if name.startswith("test_")}
        assert tests == {"test_" + re.sub(r"\W+", "_", check.name.lower()) for check in checks}
        assert all(getattr(suite, name).__doc__ for name in tests)


def test_suite_says_why_without_rewritten_assertions_and_skips_what_does_not_apply(tmp_path: Path) -> None:
    (tmp_path / "test_stranger.py").write_text(
        dedent(
            """
            from pathlib import Path
            from tfs_lab.testing import ModelConformance

            class TestStranger(ModelConformance):
                name = f"{Path(__file__).parent / 'model.py'}:Model"
                test_causality = None  # not asked of this one
            """
        ),
        encoding="utf-8",
    )
    (tmp_path / "model.py").write_text(
        dedent(
            """
            import torch
            from torch import Tensor, nn
            from tfs_core.contracts import ModelConfig
            from tfs_core.models import AutogradModel, check_input_ids

            class Model(AutogradModel):
                def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
                    super().__init__(config, vocab_size=vocab_size)
                    self.table = nn.Parameter(torch.randn(vocab_size, vocab_size, generator=generator))

                def forward(self, input_ids: Tensor) -> Tensor:
                    check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)
                    return self.table[input_ids]

                def backward(self, scale: float) -> None:
                    super().backward(2.0 * scale)
            """
        ),
        encoding="utf-8",
    )
    chosen = "autograd or cache or causality or parity_parameters"
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-k", chosen, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, cwd=tmp_path).stdout
    assert "gradients against autograd: FAIL: 1 of 1 are wrong; in backward order first table, off by 1.0e+00" in output
    assert "the model has no key/value cache" in output
    assert "the model mirrors no other" in output
    assert "causality" not in output


def test_suite_skips_parity_without_a_mirror() -> None:
    class NoMirror(ModelConformance):
        name = "none"

        def subject(self) -> Any:
            return type("Subject", (), {"build": lambda self: type("Model", (), {"mirrors": None})()})()

    with pytest.raises(unittest.SkipTest, match="mirrors no other"):
        NoMirror().mirrored()


class Unrepeatable(Packed):
    """Returns other rows at every call."""

    calls = 0

    def row_numbers(self, step: int, part: int) -> Any:
        self.calls += 1
        return super().row_numbers(step + self.calls, part)


class Miscounted(Packed):
    def step(self, step: int) -> list[Batch]:
        return [Batch(batch.input_ids, batch.target_ids, batch.valid_targets + 1) for batch in super().step(step)]


class Unshifted(Packed):
    def step(self, step: int) -> list[Batch]:
        return [Batch(batch.target_ids, batch.target_ids, batch.valid_targets) for batch in super().step(step)]


class HalfAStep(Packed):
    def step(self, step: int) -> list[Batch]:
        return super().step(step)[:1]


class BothReadAll(Packed):
    def validation(self) -> Iterator[Batch]:
        self._world_size, self._rank = 1, 0
        return super().validation()


class ForgetsTheEnd(Packed):
    def validation(self) -> Iterator[Batch]:
        return iter(list(super().validation())[:-1])


class TooLong(Packed):
    def total_steps(self, *, epochs: int | None, tokens: int | None) -> int:
        return super().total_steps(epochs=epochs, tokens=tokens) + 1


class WrongDocuments(Packed):
    def documents(self, step: int) -> list[DocumentRef]:
        return [DocumentRef((0,), ref.start, ref.stop) for ref in super().documents(step)]


class TooFewDocuments(Packed):
    def documents(self, step: int) -> list[DocumentRef]:
        return super().documents(step)[1:]


@pytest.mark.parametrize(
    ("batching", "failing", "says"),
    [
        (Unrepeatable, "pure", "requested again, differs"),
        (Miscounted, "batches", "targets are valid, not"),
        (Unshifted, "batches", "an input differs from the target before it"),
        (HalfAStep, "batches", "a step has 4 rows, not `rows_per_step`"),
        (BothReadAll, "ranks", "in validation two ranks read other rows"),
        (ForgetsTheEnd, "validation", "which are not the"),
        (TooLong, "length", "total_steps(tokens=1) is 2"),
        (WrongDocuments, "documents", "of document (0,)"),
        (TooFewDocuments, "documents", "targets, not"),
    ],
)
def test_wrong_batching_is_found(found: Found, batching: type[Packed], failing: str, says: str) -> None:
    subject = BatchingUnderCheck("wrong", {}, SmallSource(), {})
    result = found("batchings", BATCHING_CHECKS, subject, batching)[failing]
    assert result.status == "fail"
    assert says in result.detail


class Plain:
    """A wrapper that returns the loss unchanged."""

    stage = "adapt"
    changes_weights = False

    def wrap(self, loss: torch.nn.Module, *, context: WrapContext) -> torch.nn.Module:
        return loss


class Doubled(torch.nn.Module):
    def __init__(self, loss: torch.nn.Module, *, factor: float = 2.0, eval_factor: float = 1.0) -> None:
        super().__init__()
        self.inner, self.factor, self.eval_factor = loss, factor, eval_factor

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.inner(*inputs)
        return loss * (self.factor if self.training else self.eval_factor)


class DoublesTraining(Plain):
    def wrap(self, loss: torch.nn.Module, *, context: WrapContext) -> torch.nn.Module:
        return Doubled(loss)


class DoublesEvaluation(Plain):
    def wrap(self, loss: torch.nn.Module, *, context: WrapContext) -> torch.nn.Module:
        return Doubled(loss, factor=1.0, eval_factor=2.0)


class WrongGradient(Plain):
    def wrap(self, loss: torch.nn.Module, *, context: WrapContext) -> torch.nn.Module:
        output: Any = context.model
        output.output.weight.register_hook(lambda gradient: gradient * 1.01)
        return loss


class OddStage(Plain):
    stage = "sometime"


class AddsAParameter(Plain):
    def wrap(self, loss: torch.nn.Module, *, context: WrapContext) -> torch.nn.Module:
        model: Any = context.model
        model.more = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        return loss


class Draws(Plain):
    def wrap(self, loss: torch.nn.Module, *, context: WrapContext) -> torch.nn.Module:
        torch.rand(1)
        return loss


@pytest.mark.parametrize(
    ("wrapper", "failing", "says"),
    [
        (OddStage, "stage", "its stage is 'sometime'"),
        (AddsAParameter, "stage", "it changes the parameters"),
        (DoublesTraining, "training", "without it"),
        (WrongGradient, "training", "first output.weight, off by 1.0e-02"),
        (DoublesEvaluation, "evaluation", "without it"),
        (Draws, "random state", "`wrap` changes the random state"),
    ],
)
def test_wrong_wrapper_is_found(found: Found, wrapper: type[Plain], failing: str, says: str) -> None:
    result = found("wrappers", WRAPPER_CHECKS, WrapperUnderCheck("wrong", {}), lambda options: wrapper())[failing]
    assert result.status == "fail"
    assert says in result.detail


def test_right_wrapper_passes(found: Found) -> None:
    results = found("wrappers", WRAPPER_CHECKS, WrapperUnderCheck("right", {}), lambda options: Plain())
    assert [str(result) for result in results.values() if result.status != "pass"] == []
