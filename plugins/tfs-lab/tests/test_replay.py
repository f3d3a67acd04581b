"""`tfs replay` on bundles of runs that really failed: the first modules, differences of number formats, documents."""

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from tfs_lab.replay import differences, documents, read_batches
from tfs_lab.step_recording import Record, RepeatedStep, repeat_step

import tfs_core
from tfs_core.checkpoint_folder import write_checkpoint_folder
from tfs_core.cli.main import tfs
from tfs_core.contracts import Batch
from tfs_core.errors import TrainingError
from tfs_core.trainer import Trainer

LOCAL_MODEL = '''
import torch
from torch import nn
from tfs_core.contracts import ModelConfig
from tfs_core.models import AutogradModel


class Divide(nn.Module):
    """Divides by zero where the token is Z."""

    def forward(self, x, ids):
        return x / (ids != ord("Z"))[..., None].to(x.dtype)


class Root(nn.Module):
    """Adds the root of zero, whose derivative is infinite."""

    def forward(self, x):
        return x + torch.sqrt(x * 0.0)


class Cancel(nn.Module):
    """Loses all digits of bfloat16."""

    def forward(self, x):
        return (x + 4096.0) - 4096.0


class Local(AutogradModel):
    def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        self.embed = nn.Embedding(vocab_size, 8)
        self.hidden = nn.Linear(8, 8)
        self.divide, self.root, self.cancel = Divide(), Root(), Cancel()
        self.logits = nn.Linear(8, vocab_size)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)


class Dividing(Local):
    def forward(self, input_ids):
        return self.logits(self.divide(self.hidden(self.embed(input_ids)), input_ids))


class Rooting(Local):
    def forward(self, input_ids):
        return self.logits(self.root(self.hidden(self.embed(input_ids))))


class Cancelling(Local):
    def forward(self, input_ids):
        return self.divide(self.logits(self.cancel(self.hidden(self.embed(input_ids)))), input_ids)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a text, in which one document in ten has a Z, and with the models above."""
    folder = tmp_path_factory.mktemp("replay")
    words = random.Random(0).choices(["one", "two", "three", "four", "five"], k=400)
    documents = [" ".join(words[i : i + 4]) + (" \x1b[31mZ." if i % 40 == 20 else ".") for i in range(0, 400, 4)]
    (folder / "text.txt").write_text("\n\n".join(documents), encoding="utf-8")
    (folder / "local.py").write_text(LOCAL_MODEL, encoding="utf-8")
    return folder


Fail = Callable[..., Path]


@pytest.fixture
def fail(folder: Path, tmp_path: Path) -> Fail:
    """Return a function that runs a model until a step is not finite, and returns the bundle."""

    def run(model: dict[str, Any], **settings: Any) -> Path:
        config = {
            "experiment_name": "failing",
            "data": {
                "dataset": {"name": "text", "path": str(folder / "text.txt"), "separator": "\n\n"},
                "tokenizer": "byte",
                "max_length": 32,
                "batching": "padded",
                "validation_fraction": 0.1,
            },
            "model": {"max_seq_len": 32, **model},
            "training": {"batch_size": 3, "max_steps": 40, "eval_every": None, "warmup_steps": 0, **settings},
            "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
            "loggers": ["jsonl"],
        }
        with pytest.raises(TrainingError, match=r"`tfs replay \S+` shows where"):
            tfs_core.run(config, assets=tmp_path / "assets")
        (bundle,) = (tmp_path / "assets" / "runs" / "failing" / "nonfinite").iterdir()
        return bundle

    return run


def invoke(bundle: Path | str, *options: str) -> Result:
    return CliRunner().invoke(tfs, ["replay", str(bundle), "--allow-local-code", *options])


def replayed(bundle: Path, *options: str) -> dict[str, Any]:
    result = invoke(bundle, "--json", *options)
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def test_first_module_is_named_with_rows_and_documents(fail: Fail, folder: Path) -> None:
    bundle = fail({"name": f"{folder / 'local.py'}:Dividing"})
    values = replayed(bundle)
    assert values["recorded"]["loss"] == "nan"
    assert f"step-{values['step']:08d}" == bundle.name
    with_z = {(it["micro_batch"], it["row"]) for it in values["documents"] if "Z" in it["text"]}
    assert len(values["documents"]) == 3
    assert with_z
    for step in values["repeated"].values():
        first = step["first_nonfinite_output"]
        assert (first["name"], first["inputs_finite"]) == ("divide", True)
        assert {(first["micro_batch"], row) for row in first["rows"]} == with_z
        assert step["loss"] is None
    result = invoke(bundle)
    assert result.exit_code == 0
    assert "the first output that is not finite is the output of divide (micro-batch 0)" in result.stdout
    assert "computed from finite inputs" in result.stdout
    shown = result.stdout.partition("Documents of the step (3):\n")[2].splitlines()[:3]
    starred = [line for line in shown if line.startswith("* micro-batch")]
    assert shown[: len(with_z)] == starred
    assert all("Z" in line for line in starred)
    assert "\x1b" not in result.output


def test_gradient_is_named_when_the_forward_pass_is_finite(fail: Fail, folder: Path) -> None:
    bundle = fail({"name": f"{folder / 'local.py'}:Rooting"})
    step = replayed(bundle)["repeated"]["float32"]
    assert step["first_nonfinite_output"] is None
    assert step["first_nonfinite_gradient"]["name"] == "hidden"
    assert step["loss"] is not None
    assert step["grad_norm"] is None
    expected = "the gradient of the output of hidden (micro-batch 0), after the finite gradient of the output of root"
    assert f"the first gradient that is not finite is {expected}" in invoke(bundle).stdout


def test_module_that_loses_digits_is_the_first_difference(fail: Fail, folder: Path) -> None:
    values = replayed(fail({"name": f"{folder / 'local.py'}:Cancelling"}))
    outputs = [it for it in values["differences"] if it["kind"] == "output"]
    assert [(it["name"], it["rounding"]) for it in outputs[:3]] == [
        ("embed", True),
        ("hidden", True),
        ("cancel", False),
    ]
    assert outputs[2]["bfloat16"] > 0.5
    assert outputs[2]["float32"] < 1e-2


FIELDS = ("input_ids", "target_ids", "document_ids")
SMALL = {"d_model": 8, "n_heads": 2, "n_blocks": 2}


@pytest.mark.parametrize("model", ["custom", "torch", "baseline"])
def test_first_module_of_each_model(model: str, fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    take_step = Trainer._take_step

    def with_large_weights(self: Trainer) -> None:
        if self.progress.step == 2:  # the values of normalized numbers above 1.13 overflow float32
            dict(self.model.named_parameters())["blocks.1.attention.value.weight"].data[:, 0] = 3e38
        take_step(self)

    monkeypatch.setattr(Trainer, "_take_step", with_large_weights)
    values = replayed(fail({"name": model, **SMALL}, gradient_accumulation_steps=2))
    assert values["step"] == 3
    assert values["nonfinite_parameters"] == []
    first = values["repeated"]["float32"]["first_nonfinite_output"]
    assert (first["name"], first["inputs_finite"], first["micro_batch"]) == ("blocks.1.attention.value", True, 0)
    assert values["repeated"]["float64"]["first_nonfinite_output"] is None
    assert values["repeated"]["float32"]["first_nonfinite_parameter"] is not None
    compared = {(it["kind"], it["name"]) for it in values["differences"]}
    assert ("output", "blocks.1.attention_norm") in compared


@pytest.mark.parametrize("model", ["custom", "torch", "baseline"])
def test_huge_learning_rate_ends_in_a_bundle_that_is_repeated(model: str, fail: Fail) -> None:
    bundle = fail({"name": model, **SMALL}, learning_rate=1e30, max_grad_norm=None)
    values = replayed(bundle)
    assert values["repeated"]["float32"]["grad_norm"] is None
    assert invoke(bundle).exit_code == 0


@pytest.mark.parametrize("model", ["custom", "torch", "baseline"])
def test_step_is_repeated_exactly_and_differs_by_rounding(
    model: str, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([True] * 6 + [False])  # two for each step: the trainer takes the loss of step 4 for not finite
    fake = SimpleNamespace(fsum=math.fsum, isfinite=lambda number: next(answers))
    monkeypatch.setattr("tfs_core.trainer.math", fake)
    bundle = fail({"name": model, **SMALL, "dropout": 0.3}, gradient_accumulation_steps=2)
    dropouts: list[float] = []

    def counted(*arguments: Any, **options: Any) -> RepeatedStep:
        dropouts.append(options["dropout"])
        return repeat_step(*arguments, **options)

    monkeypatch.setattr("tfs_lab.step_recording.repeat_step", counted)
    values = replayed(bundle)
    assert dropouts == [0.3] * 3 + [0.0] * 3  # differences are measured without
    assert (values["step"], values["dropout"], len(values["micro_batches"])) == (4, 0.3, 2)
    step = values["repeated"]["float32"]
    assert step["loss"] == pytest.approx(float(values["recorded"]["loss"]), rel=1e-6)
    assert step["grad_norm"] == pytest.approx(float(values["recorded"]["grad_norm"]), rel=1e-5)
    assert {it["rounding"] for it in values["differences"]} == {True}
    of_modules = [it for it in values["differences"] if it["kind"] != "parameter"]
    first, second = (
        [(it["kind"], it["name"], it["call"]) for it in of_modules if it["micro_batch"] == index] for index in (0, 1)
    )
    assert first == second != []
    assert "is finite: the numbers that were not depend on something" in invoke(bundle).stdout


def step_of(dtype: str, *records: tuple[Any, str, list[float]]) -> RepeatedStep:
    """Return a step with these records: (kind, name, numbers)."""
    made = []
    for kind, name, numbers in records:
        sample = torch.tensor(numbers, dtype=torch.float64)
        finite = bool(sample.isfinite().all())
        made.append(
            Record(
                kind=kind,
                name=name,
                micro_batch=0,
                call=0,
                finite=finite,
                inputs_finite=None,
                rows=(),
                largest=float(sample.abs().max()),
                sample=sample,
                numel=2 * len(numbers),  # every second number is in the sample
            )
        )
    return RepeatedStep(dtype, 1.0, 1.0, made)


def test_differences_are_relative_and_those_of_negligible_gradients_to_the_largest() -> None:
    float32 = step_of("float32", ("output", "a", [3.0, 4.0]), ("gradient", "b", [1.0]), ("gradient", "c", [2e-4]))
    bfloat16 = step_of("bfloat16", ("output", "a", [3.0, 4.5]), ("gradient", "b", [1.25]), ("gradient", "c", [4e-4]))
    float64 = step_of("float64", ("output", "a", [3.0, 4.0]), ("gradient", "b", [1.0]), ("gradient", "c", [1e-4]))
    found = [[it.record.name, it.float32, it.bfloat16] for it in differences(float32, bfloat16, float64)]
    expected: list[list[Any]] = [
        ["a", 0.0, pytest.approx(0.1)],
        ["b", 0.0, pytest.approx(0.25)],
        ["c", pytest.approx(0.1), pytest.approx(0.3)],  # of 1e-3, a thousandth of b
    ]
    assert found == expected


def test_tensors_that_are_not_finite_everywhere_or_zero_are_not_compared() -> None:
    float32 = step_of("float32", ("output", "a", [math.inf]), ("output", "b", [0.0]), ("output", "c", [1.0]))
    float64 = step_of("float64", ("output", "a", [1e300]), ("output", "b", [0.0]), ("output", "c", [1.0]))
    assert [it.record.name for it in differences(float32, float64, float64)] == ["c"]


def test_tensors_of_another_size_are_not_compared() -> None:
    float32, float64 = step_of("float32", ("output", "a", [1.0, 2.0])), step_of("float64", ("output", "a", [1.0]))
    assert list(differences(float32, float64, float64)) == []


def test_norm_is_estimated_from_a_sample() -> None:
    (record,) = step_of("float64", ("output", "a", [3.0, 4.0])).records
    assert record.norm == pytest.approx(5 * math.sqrt(2))  # the sample has every second number


# What it does not open


def refused(target: Path | str, *options: str) -> str:
    result = CliRunner().invoke(tfs, ["replay", str(target), *options])
    assert result.exit_code in (1, 2)
    assert result.stdout == ""
    return result.stderr


def test_local_code_needs_permission(fail: Fail, folder: Path) -> None:
    assert "add --allow-local-code" in refused(fail({"name": f"{folder / 'local.py'}:Rooting"}))


def test_damaged_bundle_is_named(fail: Fail) -> None:
    bundle = fail({"name": "torch", **SMALL}, learning_rate=1e30, max_grad_norm=None)
    tensors = load_file(bundle / "batches.safetensors")

    def rewritten(**changes: Any) -> Path:
        def write(path: Path) -> None:
            shutil.copytree(bundle, path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
            save_file({**tensors, **changes}, path / "batches.safetensors")

        write_checkpoint_folder(bundle.with_name("step-00000001"), write)
        return bundle.with_name("step-00000001")

    ids = tensors["0/input_ids"]
    assert "has ids that are not in the vocabulary" in refused(rewritten(**{"0/input_ids": ids + 9999}))
    assert "micro-batch 0 in batches.safetensors" in refused(rewritten(**{"0/input_ids": ids.float()}))
    assert "micro-batch 0 in batches.safetensors" in refused(rewritten(**{"0/input_ids": ids[:1]}))
    assert "micro-batch 1 in batches.safetensors" in refused(rewritten(**{"1/input_ids": ids.clone()}))
    assert "micro-batch 0 in batches.safetensors" in refused(rewritten(**{"0/weights": ids.clone()}))
    content = (bundle / "batches.safetensors").read_bytes()
    (bundle / "batches.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "batches.safetensors is damaged" in refused(bundle)
    (bundle / "manifest.json").unlink()
    assert "manifest.json" in refused(bundle)


def test_run_stands_for_its_bundle(fail: Fail) -> None:
    bundle = fail({"name": "torch", **SMALL}, learning_rate=1e30, max_grad_norm=None)
    run = bundle.parent.parent
    assets = str(run.parent.parent)
    result = invoke(run.name, "--assets", assets, "--json")
    assert json.loads(result.stdout)["bundle"] == str(bundle)
    shutil.rmtree(bundle)
    assert "the run 'failing' has no bundle" in refused(run.name, "--assets", assets)
    assert f"{bundle} is no folder" in refused(bundle)


def test_checkpoint_is_no_bundle(fail: Fail) -> None:
    bundle = fail({"name": "torch", **SMALL}, learning_rate=1e15, max_grad_norm=None, checkpoint_every=1)
    (checkpoint,) = (bundle.parent.parent / "checkpoints").glob("step-*")
    assert "is a checkpoint, not a bundle" in refused(checkpoint)


# What the bundle holds


def test_micro_batches_are_read_in_their_order_with_document_masks(tmp_path: Path) -> None:
    sizes = range(1, 13)
    tensors = {f"{i}/{name}": torch.full((2, size), size) for i, size in enumerate(sizes) for name in FIELDS}
    save_file(tensors, tmp_path / "batches.safetensors")
    batches = read_batches(tmp_path, vocab_size=20)
    assert [batch.input_ids.shape[1] for batch in batches] == list(sizes)
    assert [batch.valid_targets for batch in batches] == [2 * size for size in sizes]
    assert all(batch.document_ids is not None for batch in batches)


def test_parts_that_do_not_fit_the_rows_are_left_out() -> None:
    ids = torch.tensor([[0, 1, 2], [3, 4, 5]])
    batch = Batch(ids, torch.tensor([[1, 2, -100], [4, 5, 6]]), 5)

    class Letters:
        def decode(self, ids: list[int]) -> str:
            return "".join("abcdefg"[i] for i in ids)

    def found(*sizes: int) -> list[tuple[Any, ...]]:
        parts = [{"document": [7 + i], "start": 2, "stop": 2 + size} for i, size in enumerate(sizes)]
        shown = documents(parts, [batch], Letters())  # type: ignore[arg-type]  # the part that is used
        return [(it["document"], it["row"], it["text"]) for it in shown]

    assert found(1, 1, 3) == [([7], 0, "b"), ([8], 0, "c"), ([9], 1, "efg")]
    assert found(1, 1) == [(None, 0, "bc"), (None, 1, "efg")]
