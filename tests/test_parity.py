"""`custom` and `torch` are the same model: equal initial weights, loss curves and checkpoints."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tfs_generate.generation import Sampling, generate
from tfs_lab.testing.parity import PARITY_CHECKS, Mirrored
from tfs_lab.testing.results import Check
from tfs_lab.testing.small_model import small_model
from torch import Tensor

import tfs_core
from tfs_core.contracts import IGNORED_TARGET, LanguageModel
from tfs_core.models import compute_context
from tfs_core.registry import get_registry
from tfs_core.runs import Run
from tfs_core.trained import load_model

SIZES = {"max_seq_len": 16, "d_model": 24, "n_heads": 3, "n_blocks": 2, "d_ffn": 56}
VOCAB_SIZE = 37


def build(name: str, seed: int = 7, **options: Any) -> LanguageModel:
    """Return a model, in float64 by default."""
    entry = get_registry().find("model", name)
    config_class = entry.load_config_class()
    assert config_class is not None
    config = config_class(**{**SIZES, "dtype": "float64", **options})
    generator = torch.Generator().manual_seed(seed)
    model: LanguageModel = entry.load_factory()(config, vocab_size=VOCAB_SIZE, generator=generator)
    model.to(device="cpu", dtype=torch.float64 if config.dtype == "float64" else torch.float32)
    return model


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        input_ids, target_ids = torch.randint(VOCAB_SIZE, (2, 5, 16), generator=generator)
        target_ids[0, 11:] = IGNORED_TARGET
        yield input_ids, target_ids


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


# One step after another, by hand


@pytest.mark.parametrize("attention", ["explicit", "fused"])
@pytest.mark.parametrize("check", PARITY_CHECKS, ids=lambda check: check.name)
def test_custom_is_torch_in_all_that_tfs_check_compares(check: Check[Mirrored], attention: str) -> None:
    check(Mirrored(small_model("custom"), small_model("torch", {"attention": attention}))).require()


@pytest.mark.parametrize("seed", [0, 1, 1337])
def test_same_seed_gives_bit_equal_initial_values(seed: int) -> None:
    ours, theirs = (list(build(name, seed, dtype="float32").named_parameters()) for name in ("custom", "torch"))
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    for (name, mine), (_, other) in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype == torch.float32
        assert torch.equal(mine, other.detach()), name


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
@pytest.mark.parametrize("attention", ["explicit", "fused"])
def test_forty_steps_of_adamw_leave_the_same_weights(gelu: str, attention: str) -> None:
    models = [build("custom", gelu=gelu), build("torch", gelu=gelu, attention=attention)]
    optimizers = [torch.optim.AdamW([p for _, p in model.named_parameters()], lr=1e-2) for model in models]
    for input_ids, target_ids in batches(40):
        losses = []
        for model, optimizer in zip(models, optimizers, strict=True):
            losses.append(model.loss(input_ids, target_ids))
            model.backward(0.01)
            optimizer.step()
            optimizer.zero_grad()
        assert relative(losses[0], losses[1]) < 1e-12
    ours, theirs = (torch.cat([p.detach().flatten() for _, p in model.named_parameters()]) for model in models)
    assert relative(ours, theirs) < 1e-10


def test_dropout_drops_the_same_numbers_in_both() -> None:
    losses, gradients = [], []
    for model in (build("custom", dropout=0.3), build("torch", dropout=0.3)):
        torch.manual_seed(3)
        for input_ids, target_ids in batches(2):
            losses.append(model.loss(input_ids, target_ids))
            model.backward(1.0)
        gradients.append(torch.cat([p.grad.flatten() for _, p in model.named_parameters() if p.grad is not None]))
    for ours, theirs in zip(losses[:2], losses[2:], strict=True):
        assert relative(ours, theirs) < 1e-13
    assert relative(*gradients) < 1e-12


def test_bfloat16_gives_nearly_the_same_loss_in_both() -> None:
    for input_ids, target_ids in batches(3):
        losses = []
        for name in ("custom", "torch"):
            model = build(name, dtype="bfloat16")
            with compute_context(model.config, "cpu"):
                losses.append(model.loss(input_ids, target_ids))
        assert relative(*losses) < 1e-3


@pytest.mark.parametrize("use_cache", [True, False])
def test_both_write_the_same_text_past_the_context_too(use_cache: bool) -> None:
    written = [
        list(
            generate(
                build(name).eval(),
                [3, 1, 4],
                max_new_tokens=40,
                sampling=Sampling(temperature=1.0, top_k=0),
                generator=torch.Generator().manual_seed(5),
                use_cache=use_cache,
            )
        )
        for name in ("custom", "torch")
    ]
    assert written[0] == written[1]
    assert len(written[0]) == 40


# Both trained by `tfs run`


def train(folder: Path, model: str, steps: int = 200, resume: str | None = None, **options: Any) -> Run:
    """Train on a short text, as `tfs run` does, and return the finished run."""
    text = folder / "words.txt"
    words = random.Random(0).choices(["the ", "small ", "cat ", "saw ", "a ", "tree.\n", "Why? "], k=1200)
    text.write_text("".join(words), encoding="utf-8", newline="\n")
    training = {
        "batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": steps,
        "learning_rate": 3e-3,
        "warmup_steps": 10,
        "eval_every": steps // 2,
    }
    config = {
        "experiment_name": "parity",
        "data": {
            "dataset": {"name": "text", "path": str(text)},
            "tokenizer": "byte",
            "max_length": 16,
            "validation_fraction": 0.1,
            "batching": options.pop("batching", "packed"),
        },
        "training": {**training, **options.pop("training", {})},
        "model": {"name": model, **SIZES, "dtype": "float64", **options},
        "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
        "loggers": ["jsonl"],
    }
    return tfs_core.run(config, assets=folder, name=f"{model}-{len(list(folder.glob('runs/*')))}")


def apart(one: Run, other: Run, key: str = "loss") -> float:
    """Return the maximum relative difference of two curves."""
    pairs = list(zip(one.metrics(), other.metrics(), strict=True))
    assert [mine["step"] for mine, _ in pairs] == list(range(1, len(pairs) + 1))
    return max(abs(mine[key] - theirs[key]) / abs(theirs[key]) for mine, theirs in pairs)


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "explicit"},
        {"attention": "fused"},
        {"attention": "explicit", "dropout": 0.1},
        {"attention": "explicit", "gelu": "exact"},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_two_hundred_steps_in_float64_give_the_same_curve(tmp_path: Path, options: dict[str, Any]) -> None:
    """The losses differ by less than 1e-10 at every step and in validation."""
    ours = train(tmp_path, "custom", **{key: value for key, value in options.items() if key != "attention"})
    theirs = train(tmp_path, "torch", **options)
    assert len(ours.metrics()) == 200
    assert ours.metrics()[-1]["loss"] < 0.7 * ours.metrics()[0]["loss"], "they should have learned something"
    assert apart(ours, theirs) < 1e-10
    assert apart(ours, theirs, "grad_norm") < 1e-8
    for mine, other in zip(ours.validation(), theirs.validation(), strict=True):
        assert abs(mine["loss"] - other["loss"]) < 1e-10 * other["loss"]


@pytest.mark.parametrize("attention", ["explicit", "fused"])
def test_two_hundred_steps_in_float32_stay_within_a_ten_thousandth(tmp_path: Path, attention: str) -> None:
    """The difference grows slowly: see "How far the loss curves drift apart" in the plugin's README."""
    ours = train(tmp_path, "custom", dtype="float32")
    theirs = train(tmp_path, "torch", dtype="float32", attention=attention)
    assert 0.0 < apart(ours, theirs) < 1e-4


def test_padded_batches_give_the_same_curve(tmp_path: Path) -> None:
    ours, theirs = (train(tmp_path, name, steps=20, batching="padded") for name in ("custom", "torch"))
    assert apart(ours, theirs) < 1e-12


@pytest.mark.parametrize(("hand", "core"), [("adamw-by-hand", "adamw"), ("sgd-by-hand", "sgd")])
def test_optimizer_by_hand_gives_the_curve_of_the_shared_one(tmp_path: Path, hand: str, core: str) -> None:
    ours, theirs = (train(tmp_path, "custom", steps=50, training={"optimizer": name}) for name in (hand, core))
    assert apart(ours, theirs) < 1e-12


@pytest.mark.parametrize(("first", "second"), [("custom", "torch"), ("torch", "custom")])
def test_checkpoint_of_one_resumes_in_the_other(tmp_path: Path, first: str, second: str) -> None:
    """Ten steps of one and ten of the other give the curve of twenty steps of either."""
    twenty = train(tmp_path, first, steps=20, training={"checkpoint_every": 10})
    halfway = next(folder for folder in twenty.checkpoints() if folder.name.endswith("10"))
    resumed = tfs_core.run(resume=halfway, model=second, name="resumed", assets=tmp_path)
    ours = [line["loss"] for line in resumed.metrics() if line["step"] > 10]
    theirs = [line["loss"] for line in twenty.metrics() if line["step"] > 10]
    assert len(ours) == 10
    for mine, other in zip(ours, theirs, strict=True):
        assert abs(mine - other) < 1e-12 * other


@pytest.mark.parametrize(("first", "second"), [("custom", "torch"), ("torch", "custom")])
def test_checkpoint_of_one_evaluates_and_generates_in_the_other(tmp_path: Path, first: str, second: str) -> None:
    run = train(tmp_path, first, steps=20)
    loaded = [load_model(run.folder, assets=tmp_path, device="cpu", model=name) for name in (first, second)]
    input_ids = torch.randint(256, (3, 16), generator=torch.Generator().manual_seed(0))
    losses, written = [], []
    for one in loaded:
        one.model.eval()
        losses.append(one.model.loss(input_ids[:, :-1], input_ids[:, 1:]))
        sampling, generator = Sampling(temperature=1.0, top_k=0), torch.Generator().manual_seed(5)
        prompt = list(b"the cat")
        written.append(list(generate(one.model, prompt, max_new_tokens=30, sampling=sampling, generator=generator)))
    assert relative(losses[0], losses[1]) < 1e-13
    assert written[0] == written[1]
